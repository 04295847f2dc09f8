"""The original's command: it is ``nip mlm``, which takes the same flags."""

import sys

from nip.cli import main

if __name__ == "__main__":
    main(["mlm", *sys.argv[1:]])
