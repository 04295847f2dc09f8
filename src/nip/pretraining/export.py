"""A pretrained model as an ordinary Hugging Face checkpoint, and back."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, BertForPreTraining, PreTrainedModel
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

import nip.models.huggingface.sparsify as over_graphs
from nip.atomic import usual_mode
from nip.data.corpus import Corpus
from nip.pretraining.model import MaskedObjective
from nip.pretraining.settings import Settings
from nip.pretraining.setup import new_model
from nip.training.distributed import gather_full
from nip.training.trainer import Run

LAST = "config.json"  # where it stands, all else does: without it no folder is a checkpoint


def save_model(
    model: PreTrainedModel,
    tokenizer: Path,
    folder: Path,
    *,
    max_tokens: int,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write ``model.safetensors``, the tokenizer's files and, last of all, ``config.json`` into a folder.

    Each file appears complete or not at all. The tokenizer is told how long inputs may be, and gives out the kinds of
    sentences only where the model reads them.

    Parameters
    ----------
    model : PreTrainedModel
    tokenizer : Path
        The folder of the corpus's.
    folder : Path
        Is made if need be.
    max_tokens : int
        Of the longest input.
    weights : mapping of str to Tensor, optional
        Other weights than the model holds, under the names of its own ``state_dict``: such as those that several
        processes have shared out.

    Raises
    ------
    OSError
        If something cannot be written; the folder then holds no finished model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    own.model_max_length = max_tokens
    kinds = getattr(model.config, "type_vocab_size", 0) > 0
    own.model_input_names = ["input_ids", *(["token_type_ids"] if kinds else []), "attention_mask"]
    unfinished = Path(tempfile.mkdtemp(dir=folder, prefix=".unfinished-"))
    try:
        with _silence():
            model.save_pretrained(unfinished, state_dict=None if weights is None else _once(model, weights))
        own.save_pretrained(unfinished)
        for path in sorted(unfinished.iterdir(), key=lambda path: path.name == LAST):
            path.chmod(usual_mode())
            with path.open("rb") as file:
                os.fsync(file.fileno())
            path.replace(folder / path.name)
    except SafetensorError as error:  # such as of a disk that is full
        raise OSError(f"{folder}: the model cannot be written: {error}.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _once(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without those that the model holds under another name too: tied ones would be written twice."""
    names: dict[int, str] = {}
    for name, weight in model.state_dict().items():
        names.setdefault(weight.data_ptr(), name)
    return {name: weights[name] for name in names.values()}


@contextmanager
def _silence() -> Iterator[None]:
    """Without transformers' bars of progress, and without DeepSpeed's log on standard output.

    transformers imports DeepSpeed wherever it is installed, and its log keeps to the output that it finds then.
    """
    shown = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        if shown:
            enable_progress_bar()


def load_model(folder: Path) -> PreTrainedModel:
    """The model that `save_model` wrote: weights, head, graphs and norms.

    Raises
    ------
    ValueError
        If the folder holds no finished checkpoint, or one that was not pretrained here.
    """
    if not (folder / LAST).is_file():
        raise ValueError(f"{folder} holds no finished model: there is no {LAST}.")
    config = AutoConfig.from_pretrained(folder)
    with_pairs = config.architectures == [BertForPreTraining.__name__]
    model: PreTrainedModel = over_graphs.from_pretrained(
        folder, BertForPreTraining if with_pairs else AutoModelForMaskedLM
    )
    return model


def keep_model(run: Run, settings: Settings, corpus: Corpus, hours: float) -> None:
    """Keep the model as it is in a folder of its own, to finetune; called by all processes.

    Parameters
    ----------
    run : Run
    settings : Settings
    corpus : Corpus
        Whose tokenizer is written too.
    hours : float
        Of the run so far; they name the folder.
    """
    folder = run.folder.path / f"finetune-{hours:g}h"
    weights = model_weights(run)
    if run.main:
        if not (folder / LAST).is_file():  # a restart may come by here again
            unfinished = folder.with_name(f".unfinished-{folder.name}")
            shutil.rmtree(unfinished, ignore_errors=True)
            write_model(run, settings, corpus, unfinished, weights)
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
        run.console.say(f"The model after {hours:g} hours, step {run.progress.step:,}, is kept in {folder}.")
    run.accelerator.wait_for_everyone()


def write_model(run: Run, settings: Settings, corpus: Corpus, folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write weights as a Hugging Face checkpoint with the corpus's tokenizer.

    Parameters
    ----------
    run : Run
        Says how many positions the model has.
    settings : Settings
    corpus : Corpus
    folder : Path
        Made where it is missing.
    weights : mapping of str to Tensor
        As `model_weights` gives them.
    """
    positions = run.state.extra["positions"]
    model = new_model(settings, corpus.vocabulary, positions)
    save_model(model, corpus.tokenizer, folder, max_tokens=positions, weights=weights)


def model_weights(run: Run) -> dict[str, Tensor]:
    """The model's weights, gathered, under the names of its own ``state_dict``; called by all processes."""
    objective = run.state.bare_model
    assert isinstance(objective, MaskedObjective)
    weights = gather_full(objective.model.state_dict(), keep=run.main)
    return {name: weight.detach().cpu() for name, weight in weights.items()}
