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
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nip.finetuning.commands import COMMANDS
from nip.ownership import LOCK, OwnedFolder, removed_on_error
from nip.runs.folder import (
    MANIFEST,
    RUN_FILE,
    RunFolder,
    check_same_run,
    differences,
    kind_of,
    locked,
    read_json,
    read_run_file,
    write_manifest,
)

CHECKPOINT = re.compile(r"checkpoint-(\d+)")
STATE_FILE = "trainer_state.json"
RESULTS = (
    *("result.json", "metrics.jsonl", "curves.svg", "trainer_state.json", RUN_FILE, MANIFEST, "checkpoints.json"),
    *("checkpoints.svg", "all_results.json", "eval_results.json", "predict_results.json"),
    *(name for command in COMMANDS.values() for name in command.outputs),
)
WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json", "pattern.npz", "pattern-*.npz")
MODEL = (
    *(*WEIGHTS, "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"),
    *("vocab.json", "merges.txt", "spiece.model", "special_tokens_map.json", "added_tokens.json", "training_args.bin"),
    *("chat_template.jinja", "sentencepiece.bpe.model", "tokenizer.model", "source.spm", "target.spm"),
)
CHECKPOINT_FILES = (
    *(*MODEL, STATE_FILE, "optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state.pth"),
    *("rng_state_*.pth", "pytorch_model_fsdp.bin", "latest", "zero_to_fp32.py", "global_step*/**/*"),
    *("optimizer_0/*", "pytorch_model_fsdp_0/*"),
)
# The files of a run, for its manifest.
OWNED = (
    *(*RESULTS, *MODEL, "environment.json", "run.log"),
    *(f"checkpoint-*/{name}" for name in CHECKPOINT_FILES),
)
EVALUATION = "evaluation"  # kind of a folder that only evaluations have written to, such as that of a model


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
                "only (--save_only_model). Name another --output-dir, or give --overwrite_output_dir to start again."
            )
        return last


@contextmanager
def claim_output_dir(
    path: str | Path, kind: str, settings: Mapping[str, Any], *, overwrite: bool, trains: bool, main: bool = True
) -> Iterator[Claim]:
    """Lock the output folder and check that the command may write to it.

    Parameters
    ----------
    path : str or Path
        Created if it does not exist.
    kind : str
        The command's name.
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
    own = owned_folder(folder.path, trains=trains)
    check_output_dir(own, overwrite=overwrite, trains=trains)
    with ExitStack() as stack:
        if main:
            stack.enter_context(removed_on_error(folder.path, {LOCK, folder.log.name, MANIFEST}))
            stack.enter_context(locked(folder.lock))
        claim = _claim(folder, settings, overwrite=overwrite, trains=trains)
        if main:
            missing = not (folder.path / MANIFEST).is_file()  # also in a run of earlier versions
            if not own.ours() or (trains and (missing or kind_of(folder.path) == EVALUATION)):
                write_manifest(folder.path, kind if trains else EVALUATION, (), own.names, finished=False)
            own.delete_leftovers()
        yield claim


def owned_folder(path: Path, *, trains: bool = True) -> OwnedFolder:
    """An output folder, for what may be deleted and replaced in it.

    Parameters
    ----------
    path : Path
    trains : bool, default=True
        Whether the command trains; one that only evaluates writes results next to any model.
    """
    if trains:
        return OwnedFolder(path, "run", (*OWNED, LOCK), lambda path: kind_of(path) in COMMANDS)
    results = ("environment.json", "run.log", LOCK, *RESULTS)
    return OwnedFolder(path, "run", results, lambda path: kind_of(path) is not None or _evaluated(path))


def _evaluated(path: Path) -> bool:
    """Whether an evaluation of earlier versions, which wrote no manifest, has left its result in the folder."""
    return (path / "result.json").is_file() and read_json(path / "result.json").get("kind") in COMMANDS


def check_output_dir(own: OwnedFolder, *, overwrite: bool, trains: bool) -> None:
    """Check that nothing of others would be changed in an output folder.

    Parameters
    ----------
    own : OwnedFolder
    overwrite : bool
        Accept a folder with files of others, unless they have names of the run's own files.
    trains : bool

    Raises
    ------
    ValueError
        If there are such files, or another command's run.
    """
    there = kind_of(own.path) if own.path.is_dir() else None
    if trains and there not in (None, EVALUATION, *COMMANDS):
        raise ValueError(f"{own.path} holds a run of another kind ({there}); name another --output-dir.")
    mend = "Name another --output-dir" + ("." if overwrite or not trains else ", or give --overwrite_output_dir.")
    own.check(mend=mend, beside=overwrite or not trains)


def _claim(folder: RunFolder, settings: Mapping[str, Any], *, overwrite: bool, trains: bool) -> Claim:
    run = read_run_file(folder.path)
    if not trains:
        return Claim(folder, None, replace=False)
    if run is None:
        return Claim(folder, None, replace=False, overwrite=overwrite)
    before = run.get("settings", {})
    if not overwrite:
        mend = "Name another --output-dir, repeat its settings, or give --overwrite_output_dir."
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
    names = [*(path.name for _, path in checkpoints(folder.path)), *RESULTS, *(WEIGHTS if weights else ())]
    owned_folder(folder.path).delete([name for name in names if name != MANIFEST])


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
            owned_folder(path).delete([incomplete.name for incomplete in later])
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
