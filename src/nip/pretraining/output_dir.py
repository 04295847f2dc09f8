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

from nip.pretraining.settings import CHANGEABLE, Settings
from nip.runs.folder import RunFolder, check_same_run, claimed
from nip.runs.record import RunRecord

KIND = "pretraining"
GROWING = ("max_steps", "max_tokens", "hours")
STOPS = (*GROWING, "early_exit_hours", "early_stop_loss", "early_stop_minutes", "overflow_limit")  # what may end a run


# The files of a run, for its manifest.
OWNED = (
    *("config.json", "run.json", "environment.json", "metrics.jsonl", "result.json", "run.log", "tracking/**/*"),
    *("checkpoint/*.safetensors", "finetune-*h/*", "*.safetensors", "*.safetensors.index.json", "pattern*.npz"),
    *("tokenizer*.json", "vocab.txt", "special_tokens_map.json"),
)


def good_state(folder: RunFolder) -> Path:
    """The state that the run rolls back to."""
    return folder.checkpoint.with_name("good.safetensors")


def trackers_folder(folder: RunFolder) -> Path:
    """What trackers write; it is there before the model is, and so before ``run.json``."""
    return folder.path / "tracking"


@contextmanager
def claimed_run(folder: RunFolder) -> Iterator[Mapping[str, Any] | None]:
    """As `nip.runs.folder.claimed`; models that a killed process left unfinished are removed as well."""
    with claimed(folder, KIND, early=(trackers_folder(folder),)) as facts:
        for leftover in folder.path.glob(".unfinished-*"):
            shutil.rmtree(leftover, ignore_errors=True)
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


def check_same_settings(folder: RunFolder, facts: Mapping[str, Any], here: RunRecord) -> None:
    """Check that a command continues the folder's run; budgets may have grown.

    Parameters
    ----------
    folder : RunFolder
    facts : mapping
        From its ``run.json``.
    here : RunRecord
        Of the command.

    Raises
    ------
    ValueError
        If a setting, the corpus or the graph differs.
    """
    check_same_run(
        folder.path,
        settings_of(facts, folder.path).to_dict(),
        here.settings,
        changeable=[name for name in CHANGEABLE if name not in GROWING],
        growing=GROWING,
        data=(facts.get("data"), here.data),
        graph=(facts.get("checksum"), here.checksum),
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
