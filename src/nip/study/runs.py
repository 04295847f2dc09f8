"""Reading run folders: what a training run has left behind, finished or not.

A folder is a run if it holds ``config.json``, or ``run.json`` beside a finetuned model. ``metrics.jsonl`` grows while
the run goes on and ``result.json`` appears at its end, so a run without a result is unfinished, not broken. Nothing
that is read here is ever executed.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nip.finetuning.reading import as_run_config, finetuning_run, further_settings
from nip.lra.config import RunConfig, read_config
from nip.pretraining import output_dir as pretraining
from nip.pretraining.reading import as_run_config as pretraining_config
from nip.runs.folder import RUN_FILE, RunFolder


@dataclass(frozen=True)
class Curve:
    """What was measured of one split, evaluation by evaluation; NaN where a value was not recorded."""

    steps: tuple[int, ...]
    seconds: tuple[float, ...]
    loss: tuple[float, ...]
    accuracy: tuple[float, ...]


@dataclass(frozen=True)
class Result:
    """A finished run's outcome; None where the run did not record a figure.

    Accuracies are shares in [0, 1], `interval` holds the two ends of the test accuracy's 95 % interval, and `baselines`
    the accuracies of answers that need no training.
    """

    test_accuracy: float
    interval: tuple[float, float] | None
    baselines: Mapping[str, float]
    dev_accuracy: float | None
    n_test: int | None
    best_step: int | None
    steps: int | None
    seconds: float | None
    tokens_per_second: float | None

    @property
    def bar(self) -> tuple[str, float] | None:
        """The best of the baselines: what a run must beat to have learnt anything."""
        return max(self.baselines.items(), key=lambda item: item[1], default=None)

    @property
    def learnt(self) -> bool | None:
        """Whether even the interval's lower end lies above the best baseline; None if that is not known."""
        if self.bar is None or self.interval is None:
            return None
        return self.interval[0] > self.bar[1]


@dataclass(frozen=True)
class Run:
    """One run folder: its configuration, where it ran, what was measured, and the result once there is one."""

    folder: Path
    config: RunConfig
    environment: Mapping[str, Any]
    curves: Mapping[str, Curve]
    result: Result | None
    facts: Mapping[str, Any] | None = None
    """What ``run.json`` says, of a finetuning run: its command above all."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def pattern_label(self) -> str:
        """The pattern's name, with the parameters that the run was given, and the patterns of layers."""
        stated = ", ".join(f"{key}={value}" for key, value in self.config.parameters.items())
        label = f"{self.config.model} ({stated})" if stated else self.config.model
        layers = self.further.get("layer patterns")
        return f"{label} with layers {layers}" if layers else label

    @property
    def further(self) -> Mapping[str, Any]:
        """What sets a finetuning run apart from others beside its configuration."""
        return further_settings(self.facts)

    @property
    def last_step(self) -> int:
        """The last step that was measured, 0 before the first."""
        return max((curve.steps[-1] for curve in self.curves.values() if curve.steps), default=0)

    @property
    def last_seconds(self) -> float:
        """Trained seconds at the last measurement, 0 before the first."""
        return max((s for curve in self.curves.values() for s in curve.seconds if math.isfinite(s)), default=0.0)


def find_runs(paths: Iterable[str | os.PathLike[str]]) -> list[Run]:
    """Read the runs at the given paths: run folders, or folders whose children are run folders.

    Parameters
    ----------
    paths : iterable of path-like
        Each a run folder or a folder of run folders; a run that is named twice is read once.

    Returns
    -------
    list of Run
        In the order of the paths, children by name.

    Raises
    ------
    ValueError
        If a path is no run and holds none, or a run's file is malformed (the sentence names file and line).
    FileNotFoundError
        If a path does not exist.
    """
    folders: dict[Path, None] = {}
    for path in map(Path, paths):
        if _is_run(path):
            folders[path.resolve()] = None
            continue
        children = sorted(child for child in path.iterdir() if _is_run(child))
        if not children:
            raise ValueError(
                f"{path} is no run and holds none: a run folder has a config.json, as `nip lra` writes it."
            )
        folders.update((child.resolve(), None) for child in children)
    return [read_run(folder) for folder in folders]


def read_run(folder: str | os.PathLike[str]) -> Run:
    """Read one run folder.

    A last line of ``metrics.jsonl`` that was cut off while being written is left out. Missing environment, metrics or
    result are taken as "not there yet".

    Raises
    ------
    ValueError
        If a file is malformed; the sentence names the file and, in ``metrics.jsonl``, the line.
    FileNotFoundError
        If there is no ``config.json``.
    """
    files = RunFolder(Path(folder))
    facts = finetuning_run(files.path)
    config = read_config(files.config) if facts is None else _config_of(facts, files.path)
    result = _result(files.result) if files.result.exists() else None
    if result:
        planned = _object(files.result).get("planned_steps", result.steps)  # said by runs that may stop early
        if planned not in (None, config.max_steps):
            result = None  # the run goes on to a larger number of steps
    environment = _object(files.environment) if files.environment.exists() else {}
    return Run(files.path, config, environment, _curves(files.metrics), result, facts)


def _config_of(facts: Mapping[str, Any], folder: Path) -> RunConfig:
    if facts.get("kind") == pretraining.KIND:
        return pretraining_config(facts, folder)
    return as_run_config(facts, folder)


def _is_run(path: Path) -> bool:
    return RunFolder(path).config.is_file() or (path / RUN_FILE).is_file()


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also where the bytes are no UTF-8
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object. Got {type(value).__name__} instead.")
    return value


def _curves(path: Path) -> dict[str, Curve]:
    if not path.exists():
        return {}
    rows: dict[str, list[tuple[int, float, float, float]]] = {}
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            if number == len(lines):  # no line end after it: the run was writing it, or was killed while it did
                continue
            raise ValueError(f"{path}, line {number}, is not valid JSON: {error}.") from error
        where = f"{path}, line {number},"
        if not isinstance(value, dict) or not isinstance(value.get("split"), str):
            raise ValueError(f"{where} must be a JSON object with a split.")
        step = _whole(value, "step", where)
        if step is None:
            raise ValueError(f"{where} must have a step.")
        figures = [_number(value, key, where) for key in ("seconds", "loss", "accuracy")]
        seconds, loss, accuracy = (math.nan if figure is None else figure for figure in figures)
        rows.setdefault(value["split"], []).append((step, seconds, loss, accuracy))
    return {split: Curve(*zip(*measured, strict=True)) for split, measured in rows.items()}


def _result(path: Path) -> Result | None:
    value = _object(path)
    if value.get("metric") is not None and value.get("score") is None:  # finetuned, and not evaluated
        return None
    accuracy = _share(value, "test_accuracy", path)
    if value.get("metric") not in (None, "accuracy"):  # a correlation or F1; below 0 it is worth no more than 0
        score = _number(value, "score", f"{path}:")
        accuracy = None if score is None else _share({"score": max(0.0, score)}, "score", path)
        value = {**value, "interval": None, "baselines": {}}
    if accuracy is None:
        raise ValueError(f"{path} must have a test_accuracy.")
    interval = value.get("interval")
    if interval is not None:
        if not isinstance(interval, list) or len(interval) != 2:
            raise ValueError(f"{path}: interval must be a list of two shares. Got {interval!r} instead.")
        low, high = (_share({"interval": end}, "interval", path) for end in interval)
        if low is None or high is None or not low <= accuracy <= high:
            raise ValueError(f"{path}: interval must enclose the test_accuracy {accuracy}. Got {interval!r} instead.")
        interval = (low, high)
    baselines = value.get("baselines") or {}
    if not isinstance(baselines, dict):
        raise ValueError(f"{path}: baselines must be a JSON object. Got {baselines!r} instead.")
    shares = {name: _share(baselines, name, path) for name in baselines}
    return Result(
        test_accuracy=accuracy,
        interval=interval,
        baselines={name: share for name, share in shares.items() if share is not None},
        dev_accuracy=_share(value, "dev_accuracy", path),
        seconds=_number(value, "seconds", f"{path}:"),
        tokens_per_second=_number(value, "tokens_per_second", f"{path}:"),
        n_test=_whole(value, "n_test", f"{path}:"),
        best_step=_whole(value, "best_step", f"{path}:"),
        steps=_whole(value, "steps", f"{path}:"),
    )


def _number(values: Mapping[str, Any], key: str, where: str) -> float | None:
    value = values.get(key)
    if value is None:
        return None
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or (isinstance(value, int) and abs(value) > sys.float_info.max)
    ):
        raise ValueError(f"{where} {key} must be a number. Got {value!r} instead.")
    return float(value)


def _whole(values: Mapping[str, Any], key: str, where: str) -> int | None:
    value = values.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ValueError(f"{where} {key} must be an integer of at least 0. Got {value!r} instead.")
    return value


def _share(values: Mapping[str, Any], key: str, path: Path) -> float | None:
    value = _number(values, key, f"{path}:")
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"{path}: {key} must be a share in [0, 1]. Got {value!r} instead.")
    return value
