"""The original's script, as ``nip glue`` with the same flags."""

import sys

from nip.cli import main

if __name__ == "__main__":
    main(["glue", *sys.argv[1:]])
