"""The plan of a study: which runs there are, written down before the first one starts.

The folder of a study holds ``plan.json`` and, beside it, a run folder of ``nip lra`` for every pattern, depth and seed.
A plan grows: a later one adds runs, and may ask for more steps; a run that is there keeps its settings.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nip import graphs
from nip.lra.config import FOUND, RunConfig, check_same_config, read_config
from nip.runs.folder import RunFolder, differences, write_json

PLAN_FILE = "plan.json"
DEPTH = "layers"  # the field of a run's configuration that --depths sets
_SET_OTHERWISE = {"seed": "--seeds", "task": "--task", "model": "--attention", "graph": "--attention"}
_SETTINGS = tuple(each.name for each in dataclasses.fields(RunConfig) if each.name not in (*FOUND, "parameters"))

Configure = Callable[[dict[str, Any]], RunConfig]


@dataclass(frozen=True)
class Member:
    """One pattern of the panel, with the settings that it has of its own.

    Parameters
    ----------
    label : str
        As it was written: ``projective_plane@order=5@seq_len=496``.
    settings : mapping
        Fields of `RunConfig`: ``model`` or ``graph``, ``parameters``, and what else was named.
    data : str or None
        A data folder of its own.
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
        Of its folder, within the study's.
    label : str
        The pattern as the panel calls it.
    config : RunConfig
        Its complete setting.
    data : str or None
        The data folder; None: where `nip.data.data_folder` finds it.
    """

    name: str
    label: str
    config: RunConfig
    data: str | None = None


def read_members(text: str) -> list[Member]:
    """The panel that ``--attention`` names: patterns set apart by commas, each with settings of its own behind ``@``.

    Behind ``@`` stand parameters of the pattern (``order=5``), settings of a run (``seq_len=496``), or ``data=FOLDER``.
    A name that both have, such as ``seed``, means the pattern's. In place of a name may stand a graph file.

    Raises
    ------
    ValueError
        If there is no such pattern or setting, or one is named twice.

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
            raise ValueError(f"Behind @ stands setting=value, such as {name}@seq_len=496. Got {pair!r} instead.")
        if key in seen:
            raise ValueError(f"{text} names {key!r} twice. Name it once.")
        seen.add(key)
        if key in known:
            settings["parameters"][key] = _value(value)
        elif key == "data":
            data = value
        elif key in _SET_OTHERWISE:
            raise ValueError(f"{key!r} is not a pattern's own in a study: {_SET_OTHERWISE[key]} sets it.")
        elif key in _SETTINGS:
            settings[key] = _value(value)
        else:
            raise ValueError(
                f"There is no setting {key!r} for {name}. There are its parameters ({', '.join(known) or 'none'}), "
                f"data, and the settings of a run: {', '.join(n for n in _SETTINGS if n not in _SET_OTHERWISE)}."
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
) -> list[PlannedRun]:
    """The runs of a panel, seed after seed, so that an interrupted study has every pattern.

    Parameters
    ----------
    members : sequence of Member
    seeds : sequence of int
        At least one.
    depths : sequence of int
        Numbers of layers; empty: the recipe's.
    configure : callable
        Makes a configuration of given settings, refusing impossible ones.
    data : str, optional
        The data folder of those that have none of their own.

    Raises
    ------
    ValueError
        If nothing is planned, something is named twice, or a setting is not possible.
    """
    for option, values in (("--seeds", seeds), ("--depths", depths)):
        if len(set(values)) < len(values):
            raise ValueError(f"{option} names a number twice. Name each once.")
    if not seeds:
        raise ValueError("--seeds names no seed.")
    if depths and DEPTH not in _SETTINGS:
        raise ValueError("Runs have no setting for the depth.")
    runs: dict[str, PlannedRun] = {}
    for seed in seeds:
        for depth in depths or (None,):
            for member in members:
                if depth is not None and DEPTH in member.settings:
                    raise ValueError(f"{member.label} has a depth of its own. Leave it or --depths out.")
                own = {DEPTH: depth} if depth is not None else {}
                config = configure({**own, **member.settings, "seed": seed})
                name = _safe(member.label) + (f"-depth{depth}" if depth is not None else "") + f"-seed{seed}"
                if name in runs:
                    raise ValueError(f"{member.label} and {runs[name].label} would share the folder {name}.")
                folder = member.data if member.data is not None else data
                runs[name] = PlannedRun(
                    name, member.label, config, None if folder is None else str(Path(folder).expanduser().resolve())
                )
    return list(runs.values())


def _safe(label: str) -> str:
    kept = label.replace("=", "").replace("@", "-")
    return "".join(letter if letter.isalnum() or letter in "+._-" else "-" for letter in kept).strip(".-") or "graph"


def read_plan(study: Path) -> list[PlannedRun]:
    """The plan that a study's folder holds; empty where there is none.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    path = study / PLAN_FILE
    if not path.is_file():
        return []
    try:
        listed = json.loads(path.read_text("utf-8"))["runs"]
        return [PlannedRun(run["name"], run["label"], RunConfig(**run["config"]), run["data"]) for run in listed]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no plan of a study: {error}") from error


def write_plan(study: Path, runs: Sequence[PlannedRun]) -> None:
    """Write the plan, complete or not at all."""
    study.mkdir(parents=True, exist_ok=True)
    listed = [
        {"name": run.name, "label": run.label, "data": run.data, "config": json.loads(run.config.to_json())}
        for run in runs
    ]
    write_json(study / PLAN_FILE, {"runs": listed})


def extended(there: Sequence[PlannedRun], asked: Sequence[PlannedRun]) -> list[PlannedRun]:
    """A study's plan with what is asked for now: runs are added, and steps may become more.

    Raises
    ------
    ValueError
        If a run that is planned already would get other settings.
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
    """Whether the run is done and tested.

    Raises
    ------
    ValueError
        If its folder holds a run of other settings.
    """
    folder = RunFolder(study / run.name)
    if not folder.config.is_file():
        return False
    there = read_config(folder.config)
    left_open = {name: getattr(there, name) for name in (*FOUND, "gradient_accumulation", "precision")}
    settled = {k: v for k, v in left_open.items() if getattr(run.config, k) is None}
    check_same_config(folder.path, there, dataclasses.replace(run.config, **settled))
    return folder.finished(run.config.max_steps) is not None
