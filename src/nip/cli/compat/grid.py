"""A command for each point of a grid of settings: `nip pretrain grid`, and the original's script.

The grid is a YAML file::

    default_parameters:
      dataset: shards
      max-steps: 10000
    hyperparameters:
      learning-rate: [5.0e-4, 1.0e-3]
      model: [hypercube, bigbird]

which gives four commands, each with its own run folder.
"""

from __future__ import annotations

import argparse
import itertools
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

OUTPUT_DIRS = {"output_dir", "output-dir"}  # with a job name: its run folder is in it
FOLDERS, JOBS = {"out", *OUTPUT_DIRS}, {"job_name", "job-name"}
SECTIONS = ("default_parameters", "hyperparameters")


@dataclass(frozen=True)
class Grid:
    """Options that all points share, and options with a list of values, one of them per point.

    Parameters
    ----------
    fixed : dict of str to object
        The value None is an option without a value.
    lists : dict of str to list
    """

    fixed: dict[str, Any]
    lists: dict[str, list[Any]]


def read_grid(path: Path) -> Grid:
    """Read a grid.

    Raises
    ------
    ValueError
        If the file is not YAML, or not a grid.
    """
    import yaml

    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(found, Mapping) or not isinstance(found.get("hyperparameters"), Mapping):
        raise ValueError(f"{path} must have a section hyperparameters with lists of values.")
    strange = [str(name) for name in found if name not in SECTIONS]
    if strange:
        raise ValueError(f"{path} has the section {strange[0]}; its sections are {', '.join(SECTIONS)}.")
    fixed = found.get("default_parameters") or {}
    if not isinstance(fixed, Mapping):
        raise ValueError(f"{path}: default_parameters must be a mapping of options to values.")
    lists: dict[str, list[Any]] = {}
    for name, values in found["hyperparameters"].items():
        several = values if isinstance(values, list) else [values]
        if not several:
            raise ValueError(f"{path}: {name} has no values.")
        lists[str(name)] = several
    both = sorted({str(name) for name in fixed} & set(lists))
    if both:
        raise ValueError(f"{path}: {both[0]} is in both sections.")
    return Grid({str(name): value for name, value in fixed.items()}, lists)


def points(grid: Grid) -> list[dict[str, Any]]:
    """Every combination of the lists' values; the last list varies fastest.

    Examples
    --------
    >>> points(Grid({}, {"seed": [1, 2], "model": ["hypercube", "local"]}))[1]
    {'seed': 1, 'model': 'local'}
    """
    return [dict(zip(grid.lists, values, strict=True)) for values in itertools.product(*grid.lists.values())]


def commands(grid: Grid, launcher: str, *, shuffle: int | None = None) -> list[str]:
    """A command for each point, quoted for a shell.

    Unless the grid gives every point another folder, the point's number is appended to the folder's name and to the
    job's. With ``output_dir`` and a job's name, the job's name alone distinguishes the folders.

    Parameters
    ----------
    grid : Grid
    launcher : str
        Start of every command, such as ``torchrun --nproc_per_node 8 -m nip pretrain``.
    shuffle : int, optional
        Seed of a random order.

    Raises
    ------
    ValueError
        If the launcher names a folder, which all points would share.

    Examples
    --------
    >>> print(*commands(Grid({"out": "runs/a", "fp16": None}, {"lr": [1e-3, 5e-4]}), "nip pretrain"), sep="\\n")
    nip pretrain --out runs/a-0 --fp16 --lr 0.001
    nip pretrain --out runs/a-1 --fp16 --lr 0.0005
    """
    start = shlex.split(launcher)
    flags = {word.partition("=")[0].lstrip("-") for word in start if word.startswith("--")}
    every, lines = points(grid), []
    named = {*grid.fixed, *grid.lists}
    by_job = bool(named & JOBS and (named | flags) & OUTPUT_DIRS)
    if flags & FOLDERS and (named & FOLDERS or not by_job):
        folder = min(flags & FOLDERS)
        raise ValueError(
            f"The start of the commands must not have --{folder}: give the folder in the file, as {folder}."
        )
    folders = [] if by_job else [name for name in (*grid.fixed, *grid.lists) if name in FOLDERS] or ["out"]
    numbered = [
        *(name for name in (*grid.fixed, *grid.lists) if name in JOBS and (by_job or name in grid.fixed)),
        *folders,
    ]
    for number, point in enumerate(every):
        options = {**grid.fixed, **point}
        for name in numbered:
            if len(grid.lists.get(name, [])) != len(every):  # else each point has its own value
                options[name] = f"{options.get(name) or 'runs/grid'}-{number}"
        words = list(start)
        for name, value in options.items():
            words += _option(name, value)
        lines.append(shlex.join(words))
    if shuffle is not None:
        keys = np.random.PCG64(shuffle).random_raw(len(lines))
        lines = [lines[i] for i in np.argsort(keys, kind="stable")]
    return lines


def _option(name: str, value: Any) -> list[str]:
    if value is None or value is True:
        return [f"--{name}"]
    if value is False:
        return [f"--{name}", "false"]
    if isinstance(value, Mapping):
        return [word for key, each in value.items() for word in (f"--{name}", f"{key}={each}")]
    if isinstance(value, list):
        return [f"--{name}", ",".join(map(str, value))]
    return [f"--{name}", str(value)]


def generate_training_commands(arguments: Sequence[str]) -> None:
    """Print a command for each point of a grid of settings."""
    parser = argparse.ArgumentParser("generate_training_commands.py", description=generate_training_commands.__doc__)
    parser.add_argument("--param_file", type=Path, required=True, help="YAML file of the grid")
    job = "bert_large_experiment"
    parser.add_argument("--job_name", default=job, help=f"prefix of the jobs' names, before a number. Default: {job}")
    dense = "python run_pretraining.py"
    parser.add_argument("--init_cmd", default=dense, help=f"start of every command. Default, dense: {dense}")
    parser.add_argument("--search_type", choices=["grid"], default="grid", help="the only type")
    parser.add_argument("--shuffle", action="store_true", help="shuffle with a fixed seed")
    options = parser.parse_args(list(arguments))
    try:
        grid = read_grid(options.param_file)
        named = Grid({**grid.fixed, "job_name": options.job_name}, grid.lists)
        lines = commands(named, options.init_cmd, shuffle=0 if options.shuffle else None)
    except (ValueError, OSError) as error:
        print(f"generate_training_commands.py: {error}", file=sys.stderr)
        sys.exit(2)
    print("\n".join(lines))
