"""The original's command: it is ``nip summarization``, which takes the same flags."""

import sys

from nip.cli import main

if __name__ == "__main__":
    main(["summarization", *sys.argv[1:]])
