"""`python -m nip` runs the command line, so that launchers such as torchrun can start it as a module."""

from nip.cli import main

if __name__ == "__main__":
    main()
