"""The original's script: ``python run_tasks.py --model hypercube --task listops --seed 42 [--skip_train 1]``.

Runs ``nip lra`` with the original's protocol, and writes the original's log. The original's pickles are searched in
``LRA/datasets`` and next to the working directory, or in the folder of ``--data``. ``--skip_train 1`` without a
run to test finds the original's checkpoint ``TASK_ATTN_output.model`` in ``LRA/logs``, ``logs``, ``../logs`` or the
working directory.
"""

import sys

from nip.cli import main
from nip.cli.compat.lra_data import with_original_data, with_original_model
from nip.cli.compat.lra_flags import lra_arguments

if __name__ == "__main__":
    try:
        arguments = with_original_model(with_original_data(lra_arguments(sys.argv[1:])))
    except (ValueError, OSError) as error:
        print(f"run_tasks.py: {error}", file=sys.stderr)
        sys.exit(2)
    main(["lra", *arguments])
