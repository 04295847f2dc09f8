"""The output folder of a pretraining run: whose it is, and whether the run has finished.

It is a model's folder, which `transformers`, `nip glue` and `nip mlm` read, and at the same time a run's folder:

================================  =====================================================================================
``config.json``                   the model's configuration, written last; with weights and tokenizer
``run.json``                      the record of the run: command, settings, checksums of corpus and graph
``environment.json``              versions, processor, threads, device of the last start
``metrics.jsonl``                 one line per step and per evaluation
``checkpoint/state.safetensors``  the checkpoint from which the run resumes
``checkpoint/good.safetensors``   the checkpoint to which it rolls back
``finetune-2h/`` …                models kept during the run
``result.json``                   the result, once the run has finished
``tracking/``                     the files of tensorboard
``run.log``                       what was printed
``manifest.json``                 which files nip wrote, and the checksums of the binary ones
================================  =====================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nip.ownership import OwnedFolder
from nip.pretraining.settings import CHANGEABLE, Settings
from nip.runs.folder import RunFolder, check_same_run, claimed, read_json, run_folder
from nip.runs.record import RunRecord

KIND = "pretraining"
GROWING = ("max_steps", "max_tokens", "hours")
STOPS = (*GROWING, "early_exit_hours", "early_stop_loss", "early_stop_minutes", "overflow_limit")
"""Settings that may end a run."""
MODEL = (
    *("model*.safetensors", "model.safetensors.index.json", "pattern.npz", "pattern-*.npz", "generation_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json"),
)
OWNED = (
    *("config.json", "run.json", "environment.json", "metrics.jsonl", "result.json", "run.log", "tracking/**/*"),
    *("checkpoint/state.safetensors", "checkpoint/good.safetensors", *MODEL),
    *(f"finetune-*h/{name}" for name in ("config.json", *MODEL)),
)
"""The files of a run, for its manifest."""


def trackers_folder(folder: RunFolder) -> Path:
    """The folder of the trackers, which write before there is a ``run.json``."""
    return folder.path / "tracking"


@contextmanager
def claimed_run(folder: RunFolder) -> Iterator[Mapping[str, Any] | None]:
    """As `nip.runs.folder.claimed`."""
    with claimed(folder, KIND, OWNED) as facts:
        yield facts


def owned_folder(folder: RunFolder) -> OwnedFolder:
    """The folder, for what may be deleted in it."""
    return run_folder(folder.path, KIND, OWNED)


def settings_of(facts: Mapping[str, Any], where: Path) -> Settings:
    """The settings in ``run.json``.

    Raises
    ------
    ValueError
        If they are missing or impossible.
    """
    try:
        return Settings(**facts["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where / 'run.json'} is damaged: {error}.") from error


def check_same_settings(folder: RunFolder, facts: Mapping[str, Any], here: RunRecord) -> None:
    """Check that a command continues the folder's run, with the same or larger budgets.

    Parameters
    ----------
    folder : RunFolder
    facts : mapping
        The contents of its ``run.json``.
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
    """The result, if the run has finished with these budgets and written its model; else None."""
    if not (folder.result.is_file() and folder.config.is_file()):
        return None
    result = read_json(folder.result)
    return result if result.get("planned") == planned(settings) else None


def planned(settings: Settings) -> dict[str, Any]:
    """The settings that may end the run, as in ``result.json``."""
    return {name: getattr(settings, name) for name in STOPS}
