"""The original's script, as ``nip summarization`` with the same flags."""

import sys

from nip.cli import main

if __name__ == "__main__":
    main(["summarization", *sys.argv[1:]])
