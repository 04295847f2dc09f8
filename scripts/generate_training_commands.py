"""The original's command: ``python generate_training_commands.py --param_file GRID.yaml --job_name NAME …``.

It is ``nip pretrain grid``, and prints a command for each point of the grid.
"""

import sys

from nip.cli.compat.grid import generate_training_commands

if __name__ == "__main__":
    generate_training_commands(sys.argv[1:])
