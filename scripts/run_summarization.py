"""The original's script for summarization with dense attention, as ``nip summarization`` with the same flags."""

import sys

from nip.cli import main
from nip.finetuning.evaluate_checkpoints import dense_unless_named

if __name__ == "__main__":
    main(["summarization", *dense_unless_named(sys.argv[1:])])
