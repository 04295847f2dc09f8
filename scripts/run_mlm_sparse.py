"""The original's script, as ``nip mlm`` with the same flags."""

import sys

from nip.cli import main

if __name__ == "__main__":
    main(["mlm", *sys.argv[1:]])
