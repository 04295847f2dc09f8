"""The plan of a study: a list of runs, written before the first one starts.

The folder of a study contains ``plan.json`` and a run folder of ``nip lra`` for each pattern, depth and seed. A later
plan adds runs and may extend existing ones to more steps; their other settings stay.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from nip import graphs
from nip.lra.config import FOUND, RunConfig, check_same_config, read_config
from nip.ownership import LOCK, OwnedFolder
from nip.runs.folder import MANIFEST, RunFolder, differences, read_json, write_json, write_manifest

KIND = "study"
PLAN_FILE = "plan.json"
DEPTH = "layers"  # the field of a run's configuration that --depths sets
_SET_OTHERWISE = {"seed": "--seeds", "task": "--task", "model": "--attention", "graph": "--attention"}
_SETTINGS = tuple(each.name for each in dataclasses.fields(RunConfig) if each.name not in (*FOUND, "parameters"))

Configure = Callable[[dict[str, Any], str | None], RunConfig]


@dataclass(frozen=True)
class Member:
    """One pattern of the panel, with settings of its own.

    Parameters
    ----------
    label : str
        As it was written: ``projective_plane@order=5@seq_len=496``.
    settings : mapping
        Fields of `RunConfig`: ``model`` or ``graph``, ``parameters``, and any others that were given.
    data : str or None
        Its own data folder.
    """

    label: str
    settings: Mapping[str, Any]
    data: str | None = None


@dataclass(frozen=True)
class PlannedRun:
    """One run of the plan.

    Parameters
    ----------
    name : str
        The name of its folder inside the study's.
    label : str
        The pattern as it is written in the panel.
    config : RunConfig
    data : str or None
        The data folder; None means `nip.data.data_folder`.
    """

    name: str
    label: str
    config: RunConfig
    data: str | None = None


def read_members(text: str) -> list[Member]:
    """The panel in ``--attention``: comma-separated patterns, each followed by its own settings after ``@``.

    After ``@`` come parameters of the pattern (``order=5``), settings of a run (``seq_len=496``), or ``data=FOLDER``. A
    name that both have, such as ``seed``, is the pattern's. A graph file is allowed instead of a name.

    Raises
    ------
    ValueError
        If a pattern or setting does not exist or is given twice.

    Examples
    --------
    >>> plain, plane = read_members("hypercube, projective_plane@order=5@seq_len=496")
    >>> plane.label, dict(plane.settings)
    ('projective_plane@order=5@seq_len=496', {'model': 'projective_plane', 'parameters': {'order': 5}, 'seq_len': 496})
    """
    members = [_member(part.strip()) for part in text.split(",") if part.strip()]
    if not members:
        raise ValueError("--attention names no pattern.")
    labels = [member.label for member in members]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"--attention names {label} twice. Name it once.")
    return members


def _member(text: str) -> Member:
    name, *pairs = (part.strip() for part in text.split("@"))
    known: Iterable[str] = ()
    settings: dict[str, Any]
    if name not in graphs.PATTERNS and Path(name).is_file():
        settings = {"graph": str(Path(name).resolve())}
    else:
        known = graphs.pattern_parameters(name)
        settings = {"model": name, "parameters": {}}
    data: str | None = None
    seen: set[str] = set()
    for pair in pairs:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not key or not value:
            raise ValueError(f"@ must be followed by setting=value, such as {name}@seq_len=496. Got {pair!r} instead.")
        if key in seen:
            raise ValueError(f"{text} names {key!r} twice. Name it once.")
        seen.add(key)
        if key in known:
            settings["parameters"][key] = _value(value)
        elif key == "data":
            data = value
        elif key in _SET_OTHERWISE:
            raise ValueError(f"{key!r} is the same for all patterns of a study: {_SET_OTHERWISE[key]} sets it.")
        elif key in _SETTINGS:
            settings[key] = _value(value)
        else:
            raise ValueError(
                f"{name} has no setting {key!r}. It has the parameters {', '.join(known) or 'none'}, data, and the "
                f"settings of a run: {', '.join(n for n in _SETTINGS if n not in _SET_OTHERWISE)}."
            )
    return Member("@".join([name, *pairs]), settings, data)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return {"True": True, "False": False}.get(text, text)


def plan(
    members: Sequence[Member],
    seeds: Sequence[int],
    depths: Sequence[int],
    configure: Configure,
    *,
    data: str | None = None,
    tasks: Sequence[str] = (),
) -> list[PlannedRun]:
    """The runs of a panel, ordered by seed, so that an interrupted study has runs of every task and pattern.

    Parameters
    ----------
    members : sequence of Member
    seeds : sequence of int
        At least one.
    depths : sequence of int
        Numbers of layers; empty means the recipe's.
    configure : callable
        Returns the configuration for the given settings and data folder, or raises a ValueError.
    data : str, optional
        The data folder of patterns without one of their own.
    tasks : sequence of str, default=()
        Every pattern is trained on each; the names of runs on several tasks begin with the task. Empty means the
        configuration's one task.

    Raises
    ------
    ValueError
        If there is no seed, something is given twice, or a setting is impossible.
    """
    for option, values in (("--seeds", seeds), ("--depths", depths), ("--task", tasks)):
        if len(set(values)) < len(values):
            twice = next(value for value in values if list(values).count(value) > 1)
            raise ValueError(f"{option} names {twice} twice. Name each once.")
    if not seeds:
        raise ValueError("--seeds names no seed.")
    if depths and DEPTH not in _SETTINGS:
        raise ValueError("Runs have no setting for the depth.")
    runs: dict[str, PlannedRun] = {}
    for seed, task, depth, member in product(seeds, tasks or (None,), depths or (None,), members):
        if depth is not None and DEPTH in member.settings:
            raise ValueError(f"{member.label} has a depth of its own. Leave it or --depths out.")
        own: dict[str, Any] = {} if depth is None else {DEPTH: depth}
        if task is not None:
            own["task"] = task
        folder = member.data if member.data is not None else data
        config = configure({**own, **member.settings, "seed": seed}, folder)
        prefix = f"{_safe(str(task))}-" if len(tasks) > 1 else ""
        name = prefix + _safe(member.label) + (f"-depth{depth}" if depth is not None else "") + f"-seed{seed}"
        if name in runs:
            raise ValueError(f"{member.label} and {runs[name].label} would share the folder {name}.")
        runs[name] = PlannedRun(
            name, member.label, config, None if folder is None else str(Path(folder).expanduser().resolve())
        )
    return list(runs.values())


def _safe(label: str) -> str:
    kept = label.replace("=", "").replace("@", "-")
    return "".join(letter if letter.isalnum() or letter in "+._-" else "-" for letter in kept).strip(".-") or "graph"


def study_folder(path: Path) -> OwnedFolder:
    """The folder of a study, for what may be replaced in it; its runs have folders of their own."""
    names = ("results.json", "results.md", "*.svg", "logs/*.log", "jobs/submitted.json", LOCK, MANIFEST, PLAN_FILE)
    return OwnedFolder(path, "study", names, _is_study)


def _is_study(path: Path) -> bool:
    if (path / MANIFEST).is_file():
        return read_json(path / MANIFEST).get("kind") == KIND
    plan = path / PLAN_FILE  # of earlier versions
    return plan.is_file() and isinstance(read_json(plan).get("runs"), list)


def read_plan(study: Path) -> list[PlannedRun]:
    """The plan in a study's folder; empty if there is none.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    path = study / PLAN_FILE
    if not path.is_file():
        return []
    try:
        listed = read_json(path)["runs"]
        return [PlannedRun(run["name"], run["label"], RunConfig(**run["config"]), run["data"]) for run in listed]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is not the plan of a study: {error}") from error


def write_plan(study: Path, runs: Sequence[PlannedRun]) -> None:
    """Write the plan, atomically."""
    own = study_folder(study)
    own.check()
    study.mkdir(parents=True, exist_ok=True)
    if not (study / MANIFEST).is_file():
        write_manifest(study, KIND, (), own.names, finished=False)
    listed = [
        {"name": run.name, "label": run.label, "data": run.data, "config": dataclasses.asdict(run.config)}
        for run in runs
    ]
    write_json(study / PLAN_FILE, {"runs": listed})


def extended(there: Sequence[PlannedRun], asked: Sequence[PlannedRun]) -> list[PlannedRun]:
    """A study's plan with further runs; existing ones may get more steps.

    Parameters
    ----------
    there, asked : sequence of PlannedRun
        The existing plan, and the runs to add.

    Raises
    ------
    ValueError
        If an existing run would get other settings.
    """
    runs = {run.name: run for run in there}
    for run in asked:
        before = runs.get(run.name, run)
        planned, wanted = ({**dataclasses.asdict(each.config), "data": each.data} for each in (before, run))
        differing = differences(planned, wanted, growing=("max_steps",))
        if differing:
            raise ValueError(
                f"The study has planned {run.name} with other settings: {'; '.join(differing)}. Name another "
                "--output-dir."
            )
        runs[run.name] = run
    return list(runs.values())


def finished(study: Path, run: PlannedRun) -> bool:
    """Whether the run has finished its training and was tested.

    Raises
    ------
    ValueError
        If its folder contains a run with other settings.
    """
    folder = RunFolder(study / run.name)
    if not folder.config.is_file():
        return False
    there = read_config(folder.config)
    left_open = {name: getattr(there, name) for name in (*FOUND, "gradient_accumulation", "precision")}
    settled = {k: v for k, v in left_open.items() if getattr(run.config, k) is None}
    check_same_config(folder.path, there, dataclasses.replace(run.config, **settled))
    return folder.finished(run.config.max_steps) is not None
