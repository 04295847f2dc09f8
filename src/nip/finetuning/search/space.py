"""Search spaces: the values of each flag, by default those of the NIP paper's searches, or read from a JSON file."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Value = str | int | float | bool
Choices = tuple[Value, ...]


@dataclass(frozen=True)
class Range:
    """Numbers in [`low`, `high`], integers if both bounds are; uniform, or with `log` log-uniform."""

    low: float
    high: float
    log: bool = False


Space = Mapping[str, Choices | Range]

# The paper's searches use the small space for the large tasks of GLUE.
FULL: Space = {
    "learning_rate": (1e-5, 3e-5, 5e-5, 8e-5),
    "per_device_train_batch_size": (16, 32),
    "weight_decay": (0.1,),
    "num_train_epochs": (3, 5, 10),
    "warmup_ratio": (0.0, 0.06),
    "lr_scheduler_type": ("polynomial", "linear"),
}
SMALL: Space = {
    "learning_rate": (5e-5, 8e-5),
    "per_device_train_batch_size": (32,),
    "weight_decay": (0.1,),
    "num_train_epochs": (3, 5),
    "warmup_ratio": (0.0, 0.06),
}
SPACES = {"full": FULL, "small": SMALL}
LARGE_TASKS = ("mnli", "qqp", "qnli")


def default_space(command: str, task: str | None) -> str:
    """The name of the default space in `SPACES`: the full one for the smaller tasks of GLUE, else the small one."""
    return "full" if command == "glue" and (task or "").lower() not in LARGE_TASKS else "small"


def read_space(source: str) -> Space:
    """A space by its name in `SPACES`, or from a JSON file.

    Parameters
    ----------
    source : str
        The file is an object: flag → list of values, or flag → ``{"low": …, "high": …, "log": true}``.

    Raises
    ------
    ValueError
        If `source` is neither, or an entry is malformed.
    """
    if source in SPACES:
        return SPACES[source]
    path = Path(source)
    if not path.is_file():
        raise ValueError(f"--space takes {', '.join(SPACES)} or a JSON file. Got {source!r} instead.")
    try:
        read = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(read, dict) or not read:
        raise ValueError(f"{path} must be a JSON object of flags with their values.")
    return {name.replace("-", "_").lstrip("_"): _entry(name, entry, path) for name, entry in read.items()}


def _entry(name: str, entry: Any, path: Path) -> Choices | Range:
    if isinstance(entry, list) and entry and all(isinstance(value, str | int | float | bool) for value in entry):
        if len(set(map(repr, entry))) < len(entry):
            raise ValueError(f"{path}: {name} names a value twice.")
        return tuple(entry)
    if isinstance(entry, dict) and {"low", "high"} <= set(entry) <= {"low", "high", "log"}:
        low, high, log = entry["low"], entry["high"], entry.get("log", False)
        numbers = all(isinstance(end, int | float) and math.isfinite(end) for end in (low, high))
        if numbers and low < high and isinstance(log, bool) and (low > 0 or not log):
            return Range(low, high, log=log)
    raise ValueError(
        f'{path}: {name} must be a list of values, or {{"low": number, "high": larger one, "log": true or false}} '
        "(with log both above 0)."
    )


def has_range(space: Space) -> bool:
    """Whether a flag of the space has a range in place of choices."""
    return any(isinstance(entry, Range) for entry in space.values())


def space_size(space: Space) -> float:
    """The number of points of a space; infinity if it has a range."""
    return math.prod(math.inf if isinstance(entry, Range) else len(entry) for entry in space.values())


def grid_points(space: Space, *, seed: int) -> list[dict[str, Value]]:
    """All points of a space of choices, shuffled by the seed, so that the first ones are a sample of the grid.

    Raises
    ------
    ValueError
        If the space has a range.

    Examples
    --------
    >>> grid_points({"a": (1, 2), "b": ("x",)}, seed=0)
    [{'a': 1, 'b': 'x'}, {'a': 2, 'b': 'x'}]
    """
    check_grid(space)
    values = [entry for entry in space.values() if not isinstance(entry, Range)]
    points = [dict(zip(space, point, strict=True)) for point in itertools.product(*values)]
    random.Random(seed).shuffle(points)
    return points


def check_grid(space: Space) -> None:
    """Raise ValueError if the space has a range, which no grid covers."""
    ranges = [name for name, entry in space.items() if isinstance(entry, Range)]
    if ranges:
        raise ValueError(f"--sampler grid needs lists of values; {ranges[0]} is a range. Take tpe or random.")


def suggest(trial: Any, space: Space) -> dict[str, Value]:
    """The point of an Optuna trial, drawn where it is not fixed."""
    point: dict[str, Value] = {}
    for name, entry in space.items():
        if not isinstance(entry, Range):
            point[name] = trial.suggest_categorical(name, entry)
        elif isinstance(entry.low, int) and isinstance(entry.high, int):
            point[name] = trial.suggest_int(name, entry.low, entry.high, log=entry.log)
        else:
            point[name] = trial.suggest_float(name, entry.low, entry.high, log=entry.log)
    return point


def to_flags(point: Mapping[str, Value]) -> list[str]:
    """The command line flags of a point.

    Examples
    --------
    >>> to_flags({"learning_rate": 3e-05, "bf16": True})
    ['--learning_rate', '3e-05', '--bf16', 'true']
    """
    flags: list[str] = []
    for name, value in point.items():
        flags += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
    return flags
