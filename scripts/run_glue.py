"""The original's script for GLUE with dense attention, as ``nip glue`` with the same flags."""

import sys

from nip.cli import main
from nip.finetuning.evaluate_checkpoints import dense_unless_named

if __name__ == "__main__":
    main(["glue", *dense_unless_named(sys.argv[1:])])
