"""The original's command, with its flags: ``nip pretrain`` with dense attention, unless ``--model`` says otherwise."""

import sys

from nip.cli import main
from nip.cli.compat.pretraining_flags import with_model

if __name__ == "__main__":
    main(["pretrain", *with_model("softmax", sys.argv[1:])])
