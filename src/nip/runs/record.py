"""The record of a run: one schema of ``run.json`` for every trainer, and the reader of a run folder.

A folder contains a run if it has a ``run.json``, or the ``config.json`` of an older ``nip lra``. ``metrics.jsonl``
grows while the run trains and ``result.json`` appears at its end, so a run without a result is unfinished, not broken.
Nothing that is read here is executed.
"""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from nip.runs.folder import FORMAT, RUN_FILE, RunFolder, read_json, read_run_file, write_json


@dataclass(frozen=True)
class Curve:
    """The measurements of one split, evaluation by evaluation; NaN where a value was not recorded."""

    steps: tuple[int, ...]
    seconds: tuple[float, ...]
    loss: tuple[float, ...]
    accuracy: tuple[float, ...]


@dataclass(frozen=True)
class Result:
    """The outcome of a finished run; None where the run did not record a figure.

    Accuracies are shares in [0, 1], `interval` contains the two ends of the test accuracy's 95 % interval, and
    `baselines` the accuracies of answers that need no training. Where the metric is not the accuracy, `test_accuracy`
    is the metric, at least 0.
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
        """The best of the baselines, which a run must beat to have learned anything."""
        return max(self.baselines.items(), key=lambda item: item[1], default=None)

    @property
    def learned(self) -> bool | None:
        """Whether the interval's lower end is above the best baseline; None where either is not known."""
        if self.bar is None or self.interval is None:
            return None
        return self.interval[0] > self.bar[1]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run: what its trainer wrote at the start, and what its folder contains by now.

    Parameters
    ----------
    kind : str
        The trainer: ``lra``, ``pretraining``, ``glue``, ``mlm``, ``qa`` or ``summarization``.
    task : str
        Such as ``listops`` or ``mrpc``.
    metric : str, default="accuracy"
        What runs of the task are compared by.
    pattern : str
        The graph's name.
    parameters : mapping
        The graph's parameters.
    block_size : int
        Tokens a vertex of the graph stands for.
    seq_len : int
        Tokens of the longest input.
    layers : list, mapping, str or None
        The graphs of single layers, where there are several: the description of each, None for dense attention, or the
        text in which the command named them.
    checksum : str or None
        Of the graph.
    data : mapping of str to str
        Checksums of the data: ``all`` for all splits together, else ``train``.
    batch_size : int
        Examples a step, over all processes.
    seed : int
    settings : mapping
        The trainer's own settings, as its configuration has them.
    planned_steps : int or None
        Steps of the run, where they are known in advance.
    command : sequence of str
        The command that repeats the run: as it was typed, or for Long Range Arena as the configuration gives it. Empty
        where a pretraining run was started from Python.
    folder : Path
        Where the record was read; it is not written, nor is what follows.
    environment : mapping
        Versions and hardware of the last start.
    curves : mapping of str to Curve
        By split.
    result : Result or None
        None until the run has finished.

    Raises
    ------
    ValueError
        If a value is of the wrong type or impossible.
    """

    kind: str
    task: str
    metric: str = "accuracy"
    pattern: str
    parameters: Mapping[str, Any]
    block_size: int
    seq_len: int
    layers: Sequence[Any] | Mapping[str, Any] | str | None = None
    checksum: str | None
    data: Mapping[str, str] = field(default_factory=dict)
    batch_size: int
    seed: int
    settings: Mapping[str, Any]
    planned_steps: int | None = None
    command: Sequence[str] = ()
    folder: Path = Path()
    environment: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    result: Result | None = None

    def __post_init__(self) -> None:
        values = {name: getattr(self, name) for name in WRITTEN}
        for name, least in (("block_size", 1), ("seq_len", 1), ("batch_size", 1), ("planned_steps", 1), ("seed", 0)):
            if _integer(values, name, "a run's", least) is None and name != "planned_steps":
                raise ValueError(f"a run's {name} must be an integer. Got None instead.")
        for names, kind, wanted in (
            (("kind", "task", "metric", "pattern"), str, "text"),
            (("parameters", "settings", "data"), Mapping, "a mapping"),
            (("command",), list | tuple, "a list of words"),
            (("layers",), list | Mapping | str | None, "a list or mapping of graphs"),
            (("checksum",), str | None, "text"),
        ):
            for name in names:
                if not isinstance(values[name], kind):
                    raise ValueError(f"a run's {name} must be {wanted}. Got {values[name]!r} instead.")
        for number, graph in self._layers():
            if not (graph is None or (isinstance(graph, Mapping) and isinstance(graph.get("pattern"), str))):
                raise ValueError(f"a run's layer {number} must be null or have a pattern. Got {graph!r} instead.")

    def _layers(self) -> list[tuple[Any, Any]]:
        if self.layers is None or isinstance(self.layers, str):
            return []
        return list(self.layers.items() if isinstance(self.layers, Mapping) else enumerate(self.layers))

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def task_label(self) -> str:
        """The task, with the metric if that is not the accuracy."""
        return self.task if self.metric == "accuracy" else f"{self.task} ({self.metric})"

    @property
    def pattern_label(self) -> str:
        """The pattern's name, with the parameters that the run was given, and the patterns of layers."""
        stated = ", ".join(f"{key}={value}" for key, value in self.parameters.items())
        label = f"{self.pattern} ({stated})" if stated else self.pattern
        return f"{label} with layers {self.layer_patterns}" if self.layer_patterns else label

    @property
    def layer_patterns(self) -> str | None:
        """The patterns of single layers, if there are several: ``0=local, 3=softmax``, or ``local, softmax``."""
        if self.layers is None or isinstance(self.layers, str):
            return self.layers
        names = {number: "softmax" if graph is None else graph["pattern"] for number, graph in self._layers()}
        numbered = isinstance(self.layers, Mapping)
        return ", ".join(f"{number}={name}" if numbered else name for number, name in names.items())

    @property
    def data_checksum(self) -> str | None:
        """The checksum of the data that was trained on."""
        return self.data.get("all", self.data.get("train"))

    @property
    def n_blocks(self) -> int:
        """Vertices of the graph over the longest input."""
        return -(-self.seq_len // self.block_size)

    @property
    def last_step(self) -> int:
        """The last step that was measured, 0 before the first."""
        return max((curve.steps[-1] for curve in self.curves.values() if curve.steps), default=0)

    @property
    def last_seconds(self) -> float:
        """Seconds of training at the last measurement, 0 before the first."""
        return max((s for curve in self.curves.values() for s in curve.seconds if math.isfinite(s)), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """The contents of ``run.json``."""
        return {"format": FORMAT, **{name: getattr(self, name) for name in WRITTEN}}


_READ = ("folder", "environment", "curves", "result")
WRITTEN = tuple(each.name for each in fields(RunRecord) if each.name not in _READ)
_REQUIRED = tuple(
    each.name for each in fields(RunRecord) if each.default is MISSING and each.default_factory is MISSING
)


def write_record(folder: RunFolder, record: RunRecord) -> None:
    """Write ``run.json``, atomically."""
    write_json(folder.path / RUN_FILE, record.to_dict())


def find_records(paths: Iterable[str | os.PathLike[str]]) -> list[RunRecord]:
    """Read the runs at the given paths: run folders, or folders whose children are run folders.

    Parameters
    ----------
    paths : iterable of path-like
        Each a run folder or a folder of run folders; a run that is named twice is read once.

    Returns
    -------
    list of RunRecord
        In the order of the paths, children by name.

    Raises
    ------
    ValueError
        If a path is not a run and contains none, or a run's file is malformed (the sentence names file and line).
    FileNotFoundError
        If a path does not exist.
    """
    folders: dict[Path, None] = {}
    for path in map(Path, paths):
        if read_run_file(path) is not None:
            folders[path.resolve()] = None
            continue
        children = sorted(child for child in path.iterdir() if read_run_file(child) is not None)
        if not children:
            raise ValueError(
                f"{path} is no run and holds none: a run folder has a run.json (a config.json, if it is older)."
            )
        folders.update((child.resolve(), None) for child in children)
    return [read_record(folder) for folder in folders]


def read_record(folder: str | os.PathLike[str]) -> RunRecord:
    """Read one run folder.

    A last line of ``metrics.jsonl`` that was cut off while being written is left out. Missing environment, metrics or
    result are taken as "not there yet"; so is a result of fewer steps than are planned now.

    Raises
    ------
    ValueError
        If a file is malformed; the sentence names the file and, in ``metrics.jsonl``, the line.
    FileNotFoundError
        If the folder contains no run.
    """
    files = RunFolder(Path(folder))
    facts = read_run_file(files.path)
    if facts is None:
        raise FileNotFoundError(errno.ENOENT, "holds no run", str(files.path))
    run_file = files.path / RUN_FILE
    file = run_file if run_file.is_file() else files.config
    if facts.get("format", FORMAT) != FORMAT:
        raise ValueError(f"{file} has the format {facts['format']!r}, which this nip does not read. Upgrade nip.")
    try:
        facts = facts if "format" in facts else record_of_older_folder(facts)
        lacking = [name for name in _REQUIRED if name not in facts]
        record = None if lacking else RunRecord(**{name: facts[name] for name in WRITTEN if name in facts})
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    if record is None:
        raise ValueError(f"{file} lacks {', '.join(lacking)}.")
    environment = read_json(files.environment) if files.environment.exists() else {}
    result = _result(files.result, record) if files.result.exists() else None
    return replace(record, folder=files.path, environment=environment, curves=_curves(files.metrics), result=result)


# Settings of nip lra that its first configurations do not contain, with the only values there were.
_FIRST_LRA = {
    **dict.fromkeys(("schedule", "cut", "pretrain_learning_rate", "mask_share", "ema", "patience")),
    **{"recipe": "original", "layers": 2, "repeats": 2, "width": 64, "heads": 4, "head_dim": 32, "inner_width": 128},
    **{"head_width": 128, "token_std": 0.02, "beta2": 0.98, "pretrain_steps": 0, "gradient_checkpointing": False},
}


def record_of_older_folder(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of today's ``run.json`` for a folder made before that had a format version.

    Parameters
    ----------
    facts : mapping
        From `read_run_file`: the older ``run.json`` of a pretraining or finetuning run, or the settings of ``nip lra``.
    """
    settings = facts["settings"] if isinstance(facts.get("settings"), Mapping) else {}
    if facts.get("kind") == "lra":
        settings = {**settings, **{name: value for name, value in _FIRST_LRA.items() if name not in settings}}
        named = {**{name: name for name in _REQUIRED}, "pattern": "model", "planned_steps": "max_steps"}
        found = {name: settings[setting] for name, setting in named.items() if setting in settings}
        data = settings.get("data")
        return {**found, "kind": "lra", "settings": settings, "data": {} if data is None else {"all": data}}
    if facts.get("kind") == "pretraining":
        found = {name: settings[name] for name in ("seed", "batch_size") if name in settings}
        return {**facts, **found, "planned_steps": settings.get("max_steps")}
    factors = ("per_device_train_batch_size", "gradient_accumulation_steps")
    trained = facts.get("trained") or {}
    planned = trained.get("planned_steps") or facts.get("planned_steps") or settings.get("max_steps") or -1
    layers = facts.get("layers")
    return {
        **facts,
        **({"batch_size": math.prod(settings[name] for name in factors)} if settings.keys() >= {*factors} else {}),
        "planned_steps": planned if planned > 0 else None,
        "layers": settings.get("attention_layers") if layers is None else layers,
    }


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
        step = _integer(value, "step", where)
        if step is None:
            raise ValueError(f"{where} must have a step.")
        figures = [_number(value, key, where) for key in ("seconds", "loss", "accuracy")]
        seconds, loss, accuracy = (math.nan if figure is None else figure for figure in figures)
        rows.setdefault(value["split"], []).append((step, seconds, loss, accuracy))
    return {split: Curve(*zip(*measured, strict=True)) for split, measured in rows.items()}


def _result(path: Path, record: RunRecord) -> Result | None:
    value = read_json(path)
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
    steps = _integer(value, "steps", f"{path}:")
    budgets = value.get("planned") or {}
    if value.get("planned_steps", steps) not in (None, record.planned_steps or steps) or any(
        record.settings.get(name) != budget for name, budget in budgets.items()
    ):
        return None  # the run continues to a larger budget
    return Result(
        test_accuracy=accuracy,
        interval=interval,
        baselines={name: share for name, share in shares.items() if share is not None},
        dev_accuracy=_share(value, "dev_accuracy", path),
        seconds=_number(value, "seconds", f"{path}:"),
        tokens_per_second=_number(value, "tokens_per_second", f"{path}:"),
        n_test=_integer(value, "n_test", f"{path}:"),
        best_step=_integer(value, "best_step", f"{path}:"),
        steps=steps,
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


def _integer(values: Mapping[str, Any], key: str, where: str, least: int = 0) -> int | None:
    value = values.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
        raise ValueError(f"{where} {key} must be an integer of at least {least}. Got {value!r} instead.")
    return value


def _share(values: Mapping[str, Any], key: str, path: Path) -> float | None:
    value = _number(values, key, f"{path}:")
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"{path}: {key} must be a share in [0, 1]. Got {value!r} instead.")
    return value
