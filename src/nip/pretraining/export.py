"""Write a pretrained model as an ordinary Hugging Face checkpoint, and load it."""

from __future__ import annotations

import os
import sys
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
from nip.ownership import move_into, remove_temporary, temporary_name
from nip.pretraining.model import MaskedLMObjective
from nip.pretraining.settings import Settings
from nip.pretraining.setup import new_model
from nip.training.distributed import gather_full
from nip.training.trainer import Run

LAST = "config.json"  # written last: a folder without it is not a complete checkpoint


def save_model(
    model: PreTrainedModel,
    tokenizer: Path,
    folder: Path,
    *,
    max_tokens: int,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write ``model.safetensors``, the tokenizer's files and, last, ``config.json`` into a folder, each atomically.

    The tokenizer's maximum length is that of the model, and it returns token types only if the model has them.

    Parameters
    ----------
    model : PreTrainedModel
    tokenizer : Path
        The tokenizer's folder in the corpus.
    folder : Path
        Created if missing.
    max_tokens : int
        Tokens of the longest input.
    weights : mapping of str to Tensor, optional
        Weights to write in place of the model's, such as those gathered from several processes.

    Raises
    ------
    OSError
        If a file cannot be written; the folder then contains no complete model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True, trust_remote_code=False)
    own.model_max_length = max_tokens
    kinds = getattr(model.config, "type_vocab_size", 0) > 0
    own.model_input_names = ["input_ids", *(["token_type_ids"] if kinds else []), "attention_mask"]
    unfinished = temporary_name(folder / "model")
    unfinished.mkdir()
    try:
        with _silence():
            model.save_pretrained(unfinished, state_dict=None if weights is None else _without_ties(model, weights))
        own.save_pretrained(unfinished)
        for path in sorted(unfinished.iterdir(), key=lambda path: path.name == LAST):
            path.chmod(usual_mode())
            with path.open("rb") as file:
                os.fsync(file.fileno())
            move_into(path, folder / path.name)
    except SafetensorError as error:  # such as a full disk
        raise OSError(f"{folder}: the model cannot be written: {error}.") from error
    finally:
        remove_temporary(unfinished)


def _without_ties(model: PreTrainedModel, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights, tied ones under their first name only."""
    names: dict[int, str] = {}
    for name, weight in model.state_dict().items():
        names.setdefault(weight.data_ptr(), name)
    return {name: weights[name] for name in names.values()}


@contextmanager
def _silence() -> Iterator[None]:
    """Silence transformers' progress bars, and DeepSpeed's logger on standard output.

    transformers imports DeepSpeed wherever it is installed; its logger keeps the stream that is standard output then.
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
    """Load the model that `save_model` wrote: weights, head, graphs and norms.

    Raises
    ------
    ValueError
        If the folder contains no complete checkpoint, or one that nip did not write.
    """
    if not (folder / LAST).is_file():
        raise ValueError(f"{folder} contains no complete model: there is no {LAST}.")
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with_pairs = config.architectures == [BertForPreTraining.__name__]
    model: PreTrainedModel = over_graphs.from_pretrained(
        folder, BertForPreTraining if with_pairs else AutoModelForMaskedLM
    )
    return model


def export_model(run: Run, settings: Settings, corpus: Corpus, hours: float) -> None:
    """Write the current model into ``finetune-HOURSh/`` of the run folder; called by all processes.

    Parameters
    ----------
    run : Run
    settings : Settings
    corpus : Corpus
        Whose tokenizer is written too.
    hours : float
        Of the run so far.
    """
    folder = run.folder.path / f"finetune-{hours:g}h"
    weights = model_weights(run)
    if run.main:
        if not (folder / LAST).is_file():  # a resumed run may get here again
            write_model(run, settings, corpus, folder, weights)
        run.console.say(f"The model after {hours:g} hours, step {run.progress.step:,}, was written to {folder}.")
    run.accelerator.wait_for_everyone()


def write_model(run: Run, settings: Settings, corpus: Corpus, folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Write weights as a Hugging Face checkpoint with the corpus's tokenizer.

    Parameters
    ----------
    run : Run
    settings : Settings
    corpus : Corpus
    folder : Path
        Created if missing.
    weights : mapping of str to Tensor
        From `model_weights`.
    """
    positions = run.state.extra["positions"]
    model = new_model(settings, corpus.vocabulary, positions)
    save_model(model, corpus.tokenizer, folder, max_tokens=positions, weights=weights)


def model_weights(run: Run) -> dict[str, Tensor]:
    """The model's weights, gathered and on the CPU, by their names in its ``state_dict``; called by all processes."""
    objective = run.state.unwrapped_model
    assert isinstance(objective, MaskedLMObjective)
    weights = gather_full(objective.model.state_dict(), keep=run.main)
    return {name: weight.detach().cpu() for name, weight in weights.items()}
