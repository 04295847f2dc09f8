"""Child processes: their log, their last words, and their end."""

import os
import sys
import time
from pathlib import Path

import pytest

from nip.runs.workers import Worker


def test_the_error_is_the_last_line_of_this_process(tmp_path):
    log = tmp_path / "logs" / "a.log"
    for program, error in (
        ("print('fine')", None),
        ("import sys; print('one thing'); print('  another  \\n'); sys.exit(3)", "another"),
        ("import sys; sys.exit(3)", "exited with code 3 and no output"),
        (
            "import os; print('so far', flush=True); os.kill(os.getpid(), 9)",
            "killed by signal 9; last line of output: so far",
        ),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
    ):
        with Worker([sys.executable, "-c", program], log, title="a title") as worker:
            worker.wait()
        assert worker.error() == error
    assert log.read_text().count(" a title\n") == 5


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_end_of_the_block_kills_the_worker_and_what_it_started(tmp_path):
    inner = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    log = tmp_path / "a.log"
    with Worker([sys.executable, "-c", outer], log) as worker:
        while not (lines := log.read_text().splitlines()[1:]):
            time.sleep(0.02)
    assert worker.returncode == -9
    deadline = time.monotonic() + 60
    while alive(int(lines[0])):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
