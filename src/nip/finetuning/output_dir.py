"""The output folder of a finetuning run: whose it is, where the run goes on, and what is left of an older one.

It is a model's folder, which `transformers` and `nip.from_pretrained` read, and a run's folder beside it:

=====================  ================================================================================================
``config.json``        the model's configuration, with weights and tokenizer beside it, once training has ended
``run.json``           the command, what decides its numbers, the graph; where training has ended also what came of it
``environment.json``   versions, processor, threads, device at the last start
``metrics.jsonl``      one line a step and an evaluation
``checkpoint-N/``      from which the run goes on: the Trainer's own
``result.json``        there once the run is finished
``curves.svg``         loss and the metric that counts, by step
``run.log``            what was said
=====================  ================================================================================================
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nip.finetuning.commands import COMMANDS
from nip.runs.folder import MANIFEST, RUN_FILE, RunFolder, check_same_run, differences, locked, read_run_file

CHECKPOINT = re.compile(r"checkpoint-(\d+)")
STATE_FILE = "trainer_state.json"
LEFTOVERS = ".*.partial"  # of files that a killed process was writing
OUTCOMES = (
    *("result.json", "metrics.jsonl", "curves.svg", "trainer_state.json", RUN_FILE, MANIFEST, "checkpoints.json"),
    *("checkpoints.svg", "all_results.json", "eval_results.json", "predict_results.json"),
    *(name for command in COMMANDS.values() for name in command.outputs),
)
WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json", "pattern.npz", "pattern-*.npz")
# The files of a run, for its manifest.
OWNED = (
    *(*OUTCOMES, *WEIGHTS, "config.json", "generation_config.json", "environment.json", "run.log", "checkpoint-*/*"),
    *("tokenizer*.json", "vocab.*", "merges.txt", "spiece.model", "special_tokens_map.json", "training_args.bin"),
)


@dataclass(frozen=True)
class Claim:
    """An output folder that this run may write to.

    Parameters
    ----------
    folder : RunFolder
    there : mapping or None
        What ``run.json`` says of the run that is there and has the same settings.
    replace : bool
        Whether the run that is there is to be replaced: deleted once the new one is sure to begin.
    overwrite : bool, default=False
        Whether what is there may be deleted.
    """

    folder: RunFolder
    there: Mapping[str, Any] | None
    replace: bool
    overwrite: bool = False

    @property
    def trained(self) -> Mapping[str, Any] | None:
        """What training came to, where it has ended already."""
        if self.there is None or self.replace:
            return None
        trained: Mapping[str, Any] | None = self.there.get("trained")
        return trained

    def checkpoint(self, processes: int) -> Path | None:
        """The checkpoint from which the run that is there goes on; None where it has ended, or there is none.

        Raises
        ------
        ValueError
            If its checkpoints have weights only: to begin anew would delete them.
        """
        if self.there is None or self.replace or self.trained is not None:
            return None
        last = last_checkpoint(self.folder.path, processes)
        bare = [folder for step, folder in checkpoints(self.folder.path) if written(folder, step)]
        if last is None and bare and not self.overwrite:
            raise ValueError(
                f"{self.folder.path} holds an unfinished run that cannot go on: {bare[-1].name} has weights only "
                "(--save_only_model). Name another --output_dir, or give --overwrite_output_dir to begin anew."
            )
        return last


def output_folder(path: str | Path) -> RunFolder:
    """The paths in an output folder."""
    return RunFolder(Path(path))


@contextmanager
def claimed_output(
    path: str | Path, settings: Mapping[str, Any], *, overwrite: bool, trains: bool, main: bool = True
) -> Iterator[Claim]:
    """Keep every other process out of the output folder, and find what it holds.

    Parameters
    ----------
    path : str or Path
        It is made where it does not exist.
    settings : mapping
        What decides the run's numbers: a run with other settings is another run.
    overwrite : bool
        Replace a finished run, and one with other settings.
    trains : bool
        Whether the command trains; one that only evaluates may do so beside any run.
    main : bool, default=True
        False in all processes of one run but the first, which takes the lock.

    Raises
    ------
    ValueError
        If another process is at work there, or the folder holds another run or other files.
    """
    folder = output_folder(path)
    folder.path.mkdir(parents=True, exist_ok=True)
    with locked(folder.lock) if main else nullcontext():
        claim = _claim(folder, settings, overwrite=overwrite, trains=trains)
        for leftover in folder.path.glob(LEFTOVERS) if main else ():
            leftover.unlink()
        yield claim


def _claim(folder: RunFolder, settings: Mapping[str, Any], *, overwrite: bool, trains: bool) -> Claim:
    there = read_run_file(folder.path)
    if not trains:
        return Claim(folder, None, replace=False)
    if there is None or there.get("kind") == "lra":
        known = {folder.lock, folder.log, *folder.path.glob(LEFTOVERS)}
        strange = [each for each in folder.path.iterdir() if each not in known]
        if strange and not overwrite:
            raise ValueError(
                f"{folder.path} is not empty and holds no run; name another --output_dir, or give "
                "--overwrite_output_dir."
            )
        return Claim(folder, None, replace=bool(strange), overwrite=overwrite)
    before = there.get("settings", {})
    if not overwrite:
        mend = "Name another --output_dir, repeat its settings, or give --overwrite_output_dir."
        check_same_run(folder.path, before, settings, mend=mend)
    replaced = overwrite and ("trained" in there or bool(differences(before, settings)))
    return Claim(folder, there, replaced, overwrite)


def clear(folder: RunFolder, *, weights: bool = False) -> None:
    """Delete what an older run left: its checkpoints and outcomes. Anything else in the folder stays.

    Parameters
    ----------
    folder : RunFolder
    weights : bool, default=False
        The model that it came to as well: beside another run's figures it would pass for that run's.
    """
    for _, checkpoint in checkpoints(folder.path):
        shutil.rmtree(checkpoint)
    for name in OUTCOMES:
        (folder.path / name).unlink(missing_ok=True)
    for file in [file for name in WEIGHTS for file in folder.path.glob(name)] if weights else ():
        file.unlink()


def checkpoints(path: Path) -> list[tuple[int, Path]]:
    """The folders ``checkpoint-N`` in a folder with their N, in its order, complete or not."""
    found = [(CHECKPOINT.fullmatch(each.name), each) for each in path.iterdir() if each.is_dir()]
    return sorted((int(match.group(1)), each) for match, each in found if match)


def last_checkpoint(path: Path, processes: int) -> Path | None:
    """The latest complete checkpoint; later ones that a killed process left half-written are deleted.

    Where none is complete, nothing is deleted.
    """
    later: list[Path] = []
    for step, folder in reversed(checkpoints(path)):
        if complete(folder, step, processes):
            for half in later:
                shutil.rmtree(half, ignore_errors=True)
            return folder
        later.append(folder)
    return None


def complete(folder: Path, step: int, processes: int) -> bool:
    """Whether training can go on from a checkpoint: it was written to its end, with each process's generators."""
    generators = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    return written(folder, step) and all((folder / name).is_file() for name in generators)


def written(folder: Path, step: int) -> bool:
    """Whether a checkpoint was written to its end: the Trainer's state comes last."""
    try:
        state = json.loads((folder / STATE_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(state, dict) and state.get("global_step") == step
