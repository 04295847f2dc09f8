"""The original's command: it is ``nip glue``, which takes the same flags."""

import sys

from nip.cli import main

if __name__ == "__main__":
    main(["glue", *sys.argv[1:]])
