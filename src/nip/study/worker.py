"""One run of a study, in a process of its own: ``python -m nip.study.worker STUDY RUN``.

A crash, a leak or the threads of one run then do not affect another. The process ends with the one that started it
(`nip.runs.workers`), and the run resumes from its last checkpoint.
"""

from __future__ import annotations

import sys
from pathlib import Path

from nip.runs.process import spin_briefly
from nip.runs.workers import end_with_parent, watch_in_forked_children


def main(arguments: list[str]) -> int:
    """Train and test; 0, or 2 with a sentence on standard error."""
    end_with_parent()
    spin_briefly()  # before torch is imported
    watch_in_forked_children()
    from nip.lra import train
    from nip.runs.folder import RunFolder, locked
    from nip.study.panel import read_plan
    from nip.training.train_step import TrainingDivergedError

    study, name = Path(arguments[0]), arguments[1]
    try:
        (run,) = (run for run in read_plan(study) if run.name == name)
        # on a cluster a process of a killed command may still train the run: wait for its result
        with locked(RunFolder(study / run.name).lock, wait=True):
            pass
        train(run.config, study / run.name, data=None if run.data is None else Path(run.data))
    except (ValueError, OSError, ImportError, TrainingDivergedError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
