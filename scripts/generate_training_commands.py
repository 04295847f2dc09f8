"""The original's script: ``python generate_training_commands.py --param_file GRID.yaml --job_name NAME …``.

Prints a command for each point of a grid, as ``nip pretrain grid`` does.
"""

import sys

from nip.cli.compat.grid import generate_training_commands

if __name__ == "__main__":
    generate_training_commands(sys.argv[1:])
