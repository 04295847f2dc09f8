"""The process of a trial: ``python -m nip.finetuning.search.trial COMMAND FLAG …``.

A crash or a leak of one trial then does not affect another. The process ends with the one that started it
(`nip.runs.workers`), and the trial resumes from its last checkpoint.
"""

from __future__ import annotations

import sys

from nip.finetuning.commands import COMMANDS
from nip.runs.process import spin_briefly
from nip.runs.workers import end_with_parent, watch_in_forked_children


def main(argv: list[str]) -> int:
    """Run the command; return 0, or 2 after a sentence on standard error if its input is wrong, 1 if it diverged."""
    end_with_parent()
    watch_in_forked_children()
    spin_briefly()  # before torch is imported
    try:
        COMMANDS[argv[0]].load().main(argv[1:])
    except (ValueError, OSError, ImportError) as error:
        from nip.training.train_step import TrainingDivergedError

        print(error, file=sys.stderr)
        return 1 if isinstance(error, TrainingDivergedError) else 2  # another trial may not diverge
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
