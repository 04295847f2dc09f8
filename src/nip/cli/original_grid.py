"""The original's command that prints one command for each point of a grid, with its flags."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def generate_training_commands(arguments: Sequence[str]) -> None:
    """Print a command for each point of a grid of settings."""
    from nip.training.pretraining.grid import Grid, commands, read_grid

    parser = argparse.ArgumentParser("generate_training_commands.py", description=generate_training_commands.__doc__)
    parser.add_argument("--param_file", type=Path, required=True, help="YAML with the options and their values")
    parser.add_argument("--job_name", required=True, help="each job's name is this and a number")
    parser.add_argument("--init_cmd", default="nip pretrain", help="what each command begins with")
    parser.add_argument("--shuffle", action="store_true", help="in a random order, the same each time")
    options = parser.parse_args(list(arguments))
    try:
        grid = read_grid(options.param_file)
        named = Grid({**grid.fixed, "job_name": options.job_name}, grid.lists)
        lines = commands(named, options.init_cmd, shuffle=0 if options.shuffle else None)
    except (ValueError, OSError) as error:
        print(f"generate_training_commands.py: {error}", file=sys.stderr)
        sys.exit(2)
    print("\n".join(lines))
