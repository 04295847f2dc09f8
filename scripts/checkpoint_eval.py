"""The original's command: it is ``nip checkpoints``, every checkpoint of a run evaluated into one JSON file."""

import sys

from nip.cli import main

if __name__ == "__main__":
    main(["checkpoints", *sys.argv[1:]])
