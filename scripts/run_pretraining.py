"""The original's script and flags: ``nip pretrain`` with dense attention, unless ``--attention`` names a pattern."""

import sys

from nip.cli import main
from nip.cli.compat.pretraining_flags import with_defaults, with_model

if __name__ == "__main__":
    main(["pretrain", *with_defaults(with_model("softmax", sys.argv[1:]))])
