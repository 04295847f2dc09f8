"""The output folder of a finetuning run: whose it is, from where the run resumes, what an older run has left.

It is a model's folder, which `transformers` and `nip.from_pretrained` read, and at the same time a run's folder:

=====================  ================================================================================================
``config.json``        the model's configuration; weights and tokenizer are added at the end of training
``run.json``           the record of the run: command, settings, graph; at the end of training also steps and best step
``environment.json``   versions, processor, threads, device of the last start
``metrics.jsonl``      one line per step and per evaluation
``checkpoint-N/``      the Trainer's checkpoints, from which the run resumes
``result.json``        the result, once the run has finished
``curves.svg``         loss and main metric by step
``run.log``            what was printed
``manifest.json``      which files nip wrote, and the checksums of the binary ones
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
PARTIAL = ".*.partial"  # what a killed process leaves of a file
RESULTS = (
    *("result.json", "metrics.jsonl", "curves.svg", "trainer_state.json", RUN_FILE, MANIFEST, "checkpoints.json"),
    *("checkpoints.svg", "all_results.json", "eval_results.json", "predict_results.json"),
    *(name for command in COMMANDS.values() for name in command.outputs),
)
WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json", "pattern.npz", "pattern-*.npz")
# The files of a run, for its manifest.
OWNED = (
    *(*RESULTS, *WEIGHTS, "config.json", "generation_config.json", "environment.json", "run.log", "checkpoint-*/*"),
    *("tokenizer*.json", "vocab.*", "merges.txt", "spiece.model", "special_tokens_map.json", "training_args.bin"),
)


@dataclass(frozen=True)
class Claim:
    """An output folder that this run may write to.

    Parameters
    ----------
    folder : RunFolder
    before : mapping or None
        The ``run.json`` of the run in the folder.
    replace : bool
        Whether that run is replaced: deleted once nothing can stop the new one from starting.
    overwrite : bool, default=False
        Whether checkpoints that cannot be resumed may be deleted.
    """

    folder: RunFolder
    before: Mapping[str, Any] | None
    replace: bool
    overwrite: bool = False

    @property
    def trained(self) -> Mapping[str, Any] | None:
        """The outcome of training, if it has ended."""
        if self.before is None or self.replace:
            return None
        trained: Mapping[str, Any] | None = self.before.get("trained")
        return trained

    def checkpoint(self, processes: int) -> Path | None:
        """The checkpoint from which training resumes; None if it has ended, or starts from the beginning.

        Raises
        ------
        ValueError
            If the checkpoints contain weights only: a start from the beginning would delete them.
        """
        if self.before is None or self.replace or self.trained is not None:
            return None
        last = last_checkpoint(self.folder.path, processes)
        weights_only = [folder for step, folder in checkpoints(self.folder.path) if is_complete(folder, step)]
        if last is None and weights_only and not self.overwrite:
            raise ValueError(
                f"{self.folder.path} holds an unfinished run that cannot resume: {weights_only[-1].name} has weights "
                "only (--save_only_model). Name another --output_dir, or give --overwrite_output_dir to start again."
            )
        return last


@contextmanager
def claim_output_dir(
    path: str | Path, settings: Mapping[str, Any], *, overwrite: bool, trains: bool, main: bool = True
) -> Iterator[Claim]:
    """Lock the output folder and check that the command may write to it.

    Parameters
    ----------
    path : str or Path
        Created if it does not exist.
    settings : mapping
        The settings that identify the run.
    overwrite : bool
        Replace a finished run, and one with other settings.
    trains : bool
        Whether the command trains; one that only evaluates may use the folder of any run.
    main : bool, default=True
        Whether this is the main process, which takes the lock.

    Yields
    ------
    Claim

    Raises
    ------
    ValueError
        If another process has locked the folder, or it contains another run or other files.
    """
    folder = RunFolder(Path(path))
    folder.path.mkdir(parents=True, exist_ok=True)
    with locked(folder.lock) if main else nullcontext():
        claim = _claim(folder, settings, overwrite=overwrite, trains=trains)
        for leftover in folder.path.glob(PARTIAL) if main else ():
            leftover.unlink()
        yield claim


def _claim(folder: RunFolder, settings: Mapping[str, Any], *, overwrite: bool, trains: bool) -> Claim:
    run = read_run_file(folder.path)
    if not trains:
        return Claim(folder, None, replace=False)
    if run is None or run.get("kind") == "lra":
        known = {folder.lock, folder.log, *folder.path.glob(PARTIAL)}
        foreign = [each for each in folder.path.iterdir() if each not in known]
        if foreign and not overwrite:
            raise ValueError(
                f"{folder.path} is not empty and holds no run; name another --output_dir, or give "
                "--overwrite_output_dir."
            )
        return Claim(folder, None, replace=bool(foreign), overwrite=overwrite)
    before = run.get("settings", {})
    if not overwrite:
        mend = "Name another --output_dir, repeat its settings, or give --overwrite_output_dir."
        check_same_run(folder.path, before, settings, mend=mend)
    replaced = overwrite and ("trained" in run or bool(differences(before, settings)))
    return Claim(folder, run, replaced, overwrite)


def clear(folder: RunFolder, *, weights: bool = False) -> None:
    """Delete the checkpoints and results of an older run, but no other files.

    Parameters
    ----------
    folder : RunFolder
    weights : bool, default=False
        Delete its model, too, which would be taken for that of the new run.
    """
    for _, checkpoint in checkpoints(folder.path):
        shutil.rmtree(checkpoint)
    for name in RESULTS:
        (folder.path / name).unlink(missing_ok=True)
    for file in [file for name in WEIGHTS for file in folder.path.glob(name)] if weights else ():
        file.unlink()


def checkpoints(path: Path) -> list[tuple[int, Path]]:
    """The folders ``checkpoint-N`` with their N, in ascending order, complete or not."""
    found = [(CHECKPOINT.fullmatch(each.name), each) for each in path.iterdir() if each.is_dir()]
    return sorted((int(match.group(1)), each) for match, each in found if match)


def last_checkpoint(path: Path, processes: int) -> Path | None:
    """The latest checkpoint from which `processes` processes can resume; later, incomplete ones are deleted.

    If there is none, nothing is deleted.
    """
    generators = ["rng_state.pth"] if processes == 1 else [f"rng_state_{rank}.pth" for rank in range(processes)]
    later: list[Path] = []
    for step, folder in reversed(checkpoints(path)):
        if is_complete(folder, step) and all((folder / name).is_file() for name in generators):
            for incomplete in later:
                shutil.rmtree(incomplete, ignore_errors=True)
            return folder
        later.append(folder)
    return None


def is_complete(folder: Path, step: int) -> bool:
    """Whether a checkpoint was written completely: the Trainer writes its state last."""
    try:
        state = json.loads((folder / STATE_FILE).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(state, dict) and state.get("global_step") == step
