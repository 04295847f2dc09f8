"""Parts of a step in several processes."""

import os
import signal

import pytest

from nip.data.corpus.processes import runner


def die(number):
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_worker_that_is_killed_is_told():
    with pytest.raises(ChildProcessError, match=r"A worker process was killed, .* with fewer --jobs"):
        runner(2)("reading", None)(die, [(number,) for number in range(3)])


def test_results_come_in_order():
    assert runner(1)("reading", None)(lambda number: number + 1, [(number,) for number in range(3)]) == [1, 2, 3]
