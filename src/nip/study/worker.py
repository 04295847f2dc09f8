"""One run of a study, in a process of its own: ``python -m nip.study.worker STUDY RUN``.

A process of its own, because what one run does (memory, a crash, threads) is then no other run's concern. It ends with
the process that started it: whoever starts it holds a pipe to its standard input, which closes when that one dies, be
it by ``kill -9``. Nothing is lost by that, for the run goes on where its last checkpoint is.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from nip.runs.process import spin_briefly


def main(arguments: list[str]) -> int:
    """Train and test; 0, or 2 with a sentence on standard error."""
    spin_briefly()  # before torch is imported
    from nip.lra import train
    from nip.runs.folder import RunFolder, wait_for_other
    from nip.study.panel import read_plan
    from nip.training.train_step import TrainingDivergedError

    threading.Thread(target=_end_with_starter, daemon=True).start()
    study, name = Path(arguments[0]), arguments[1]
    try:
        (run,) = (run for run in read_plan(study) if run.name == name)
        # on a cluster it may still be at work for a command that was killed: then its result is what is wanted
        wait_for_other(RunFolder(study / run.name))
        train(run.config, study / run.name, data=None if run.data is None else Path(run.data))
    except (ValueError, OSError, ImportError, TrainingDivergedError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _end_with_starter() -> None:
    while os.read(0, 4096):  # the descriptor itself: a buffer's lock held here would abort Python's own end
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
