"""The original's script, as ``nip hpo``: the original had no flags, its settings were in the file."""

import sys

from nip.cli import main

if __name__ == "__main__":
    main(["hpo", *sys.argv[1:]])
