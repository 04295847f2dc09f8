"""The original's command: ``python run_tasks.py --model hypercube --task listops --seed 42 [--skip_train 1]``.

It is ``nip lra`` under the original's protocol, with the original's log in the run folder. The original's pickles are
found in ``LRA/datasets`` and beside the command, or where ``--data`` says.
"""

import sys

from nip.cli import main
from nip.cli.compat.lra_data import with_original_data
from nip.cli.compat.lra_flags import lra_arguments

if __name__ == "__main__":
    try:
        arguments = with_original_data(lra_arguments(sys.argv[1:]))
    except (ValueError, OSError) as error:
        sys.exit(f"run_tasks.py: {error}")
    main(["lra", *arguments])
