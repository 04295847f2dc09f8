"""The original's script and flags: ``nip pretrain`` over the hypercube, unless ``--attention`` names a pattern."""

import sys

from nip.cli import main
from nip.cli.compat.pretraining_flags import with_defaults, with_model

if __name__ == "__main__":
    main(["pretrain", *with_defaults(with_model("hypercube", sys.argv[1:]))])
