"""The folder of a pretraining run: whose it is, whether it is finished, and what is left of an older end.

It is a model's folder, which `transformers`, `nip glue` and `nip mlm` read, and a run's folder beside it:

================================  =====================================================================================
``config.json``                   the model's configuration, written last of all; weights and tokenizer beside it
``run.json``                      command, settings, checksums of corpus and graph
``environment.json``              versions, processor, threads, device at the last start
``metrics.jsonl``                 one line a step and an evaluation
``checkpoint/state.safetensors``  from which the run goes on
``checkpoint/good.safetensors``   to which it rolls back
``finetune-2h/`` …                models that were kept on the way
``result.json``                   there once the run has ended
``tracking/``                     tensorboard's files
``run.log``                       what was said
================================  =====================================================================================
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nip.pretraining.settings import CHANGEABLE, Settings, flag
from nip.runs.folder import RunFolder, locked, read_run_file

KIND = "pretraining"
BUDGETS = ("max_steps", "max_tokens", "hours", "early_exit_hours")
STOPS = (*BUDGETS, "early_stop_loss", "early_stop_minutes", "overflow_limit")  # what may end a run


def good_state(folder: RunFolder) -> Path:
    """The state that the run rolls back to."""
    return folder.checkpoint.with_name("good.safetensors")


def trackers_folder(folder: RunFolder) -> Path:
    """What trackers write; it is there before the model is, and so before ``run.json``."""
    return folder.path / "tracking"


@contextmanager
def claimed_run(folder: RunFolder) -> Iterator[Mapping[str, Any] | None]:
    """Make the folder, keep every other process out, and say what ``run.json`` there says; None where it is new.

    Raises
    ------
    ValueError
        If another process is at work in the folder, or it holds something else than a pretraining run.
    OSError
        If it cannot be made or written to.
    """
    with locked(folder):
        for leftover in folder.path.glob(".unfinished-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        facts = read_run_file(folder.path)
        before_run_file = {folder.lock, folder.log, trackers_folder(folder)}
        if facts is None and set(folder.path.iterdir()) - before_run_file:
            raise ValueError(f"{folder.path} is not empty and holds no pretraining run; name another --out.")
        if facts is not None and facts.get("kind") != KIND:
            raise ValueError(f"{folder.path} holds a run of another kind; name another --out.")
        yield facts


def settings_of(facts: Mapping[str, Any], where: Path) -> Settings:
    """The settings that ``run.json`` names.

    Raises
    ------
    ValueError
        If it lacks them, or they are none.
    """
    try:
        return Settings(**facts["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where / 'run.json'} is damaged: {error}.") from error


def refuse_other(folder: RunFolder, facts: Mapping[str, Any], settings: Settings, data: str, checksum: str) -> None:
    """Refuse a command whose run is not the folder's.

    Raises
    ------
    ValueError
        If a setting, the corpus or the graph differs; budgets may have grown.
    """
    there, here = settings_of(facts, folder.path).to_dict(), settings.to_dict()
    said = [
        f"{flag(name)} is {there[name]!r} there and {here[name]!r} here"
        for name in here
        if here[name] != there[name] and name not in CHANGEABLE
    ]
    said += [
        f"{flag(name)} was {there[name]:g} and cannot become {here[name] or 'none'}"
        for name in ("max_steps", "max_tokens", "hours")
        if there[name] is not None and (here[name] is None or here[name] < there[name])
    ]
    said += [
        f"{flag(name)} was none and cannot become {here[name]:g}"
        for name in ("max_steps", "max_tokens", "hours")
        if there[name] is None and here[name] is not None
    ]
    if facts.get("data", {}).get("train") != data:
        said.append("the corpus is another one")
    if not said and facts.get("checksum") != checksum:  # else it follows from what was said
        said.append("the graph is another one")
    if said:
        raise ValueError(
            f"{folder.path} holds another run: {'; '.join(said)}. Name another --out, or repeat its settings."
        )


def finished(folder: RunFolder, settings: Settings) -> dict[str, Any] | None:
    """The result, if the run has ended with these budgets and left its model."""
    if not (folder.result.is_file() and folder.config.is_file()):
        return None
    result: dict[str, Any] = json.loads(folder.result.read_text("utf-8"))
    return result if result.get("planned") == planned(settings) else None


def planned(settings: Settings) -> dict[str, Any]:
    """What ends the run, as ``result.json`` holds it."""
    return {name: getattr(settings, name) for name in STOPS}
