"""The original's command: it is ``nip hpo``: the original's search had no flags, its settings stood in the file."""

import sys

from nip.cli import main

if __name__ == "__main__":
    main(["hpo", *sys.argv[1:]])
