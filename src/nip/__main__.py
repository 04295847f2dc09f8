"""`python -m nip` is `nip`: what launchers of several processes can start."""

from nip.cli import main

if __name__ == "__main__":
    main()
