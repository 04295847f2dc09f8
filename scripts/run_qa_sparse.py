"""The original's script, as ``nip qa`` with the same flags."""

import sys

from nip.cli import main

if __name__ == "__main__":
    main(["qa", *sys.argv[1:]])
