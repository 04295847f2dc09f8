"""The original's script, as ``nip checkpoints``: evaluate every checkpoint of a run into one JSON file."""

import sys

from nip.cli import main

if __name__ == "__main__":
    main(["checkpoints", *sys.argv[1:]])
