"""Initial weights from another model: an earlier run, also of shorter samples, or a Hugging Face checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForMaskedLM, BertForPreTraining, PreTrainedModel

import nip.models.huggingface.sparsify as over_graphs
from nip.data.corpus import Vocabulary
from nip.models.huggingface.config import ENTRY
from nip.models.huggingface.fit import check_weights_fit
from nip.models.huggingface.original_bert import converted_config, is_original, load_original
from nip.pretraining.checks import check_tokenizer
from nip.pretraining.model import extend_table

TOKENIZERS = ("tokenizer.json", "vocab.txt")
SENTENCES = ("cls.seq_relationship", "bert.pooler")  # weights of next-sentence prediction, which other models lack


def load_initial_weights(
    model: PreTrainedModel, source: str, dataset: Path, vocabulary: Vocabulary, positions: int
) -> list[str]:
    """Load the weights of a saved model into a new one.

    A position table that is too short is extended by reflection; of one that is too long the first rows are used.

    Parameters
    ----------
    model : PreTrainedModel
    source : str
        A folder, or a name on the hub.
    dataset : Path
        The corpus; its tokenizer must be the saved model's, if that is in the folder.
    vocabulary : Vocabulary
        Of the corpus.
    positions : int
        Of the new model.

    Returns
    -------
    list of str
        Weights that the saved model lacks and that keep their random values: those of next-sentence prediction.

    Raises
    ------
    ValueError
        If the saved model has another architecture, size or tokenizer, is damaged, or does not exist.
    """
    name = resolve_source(source)
    if any((Path(name) / file).is_file() for file in TOKENIZERS):
        check_tokenizer(name, dataset, option="--init-from")
    mine: Any = model.config
    with _reading(source):
        there: Any = (
            converted_config(name) if is_original(name) else AutoConfig.from_pretrained(name, trust_remote_code=False)
        )
    if there.model_type != mine.model_type:
        raise ValueError(f"--init-from: {source} is a {there.model_type}, the run's model a {mine.model_type}.")
    if there.vocab_size < vocabulary.size:
        raise ValueError(
            f"--init-from: {source} has {there.vocab_size:,} token ids, the corpus's tokenizer {vocabulary.size:,}."
        )
    if norm_of(there) != norm_of(mine):
        raise ValueError(f"--init-from: {source} has --norm {norm_of(there)}, the run {norm_of(mine)}.")
    pairs = there.architectures == [BertForPreTraining.__name__]
    kind: Any = BertForPreTraining if pairs else AutoModelForMaskedLM
    with _reading(source):
        if is_original(name):
            loaded, info = load_original(name, kind, output_loading_info=True)
        elif getattr(there, ENTRY, None) is not None:
            loaded, info = over_graphs.from_pretrained(name, kind, output_loading_info=True)
        else:
            loaded, info = kind.from_pretrained(name, output_loading_info=True, trust_remote_code=False)
        check_weights_fit(loaded, info, source, new_head=False)
    weights = dict(loaded.named_parameters())
    new = []
    rows = there.max_position_embeddings - (mine.max_position_embeddings - positions)  # RoBERTa has two more
    with torch.no_grad():
        for each, weight in model.named_parameters():
            if each not in weights and not each.startswith(SENTENCES):
                raise ValueError(f"--init-from: {source} has no {each}.")
            if each not in weights:
                new.append(each)
                continue
            found = weights[each]
            if found.shape != weight.shape and "position_embeddings" in each:
                found = extend_table(found, rows, positions) if rows < positions else found[: len(weight)]
            if found.shape != weight.shape:
                shapes = f"the shape {tuple(found.shape)}, the run's {tuple(weight.shape)}"
                raise ValueError(f"--init-from: {each} of {source} has {shapes}.")
            weight.copy_(found)
    return new


@contextmanager
def _reading(source: str) -> Iterator[None]:
    """Shorten errors of reading to one sentence that names the model."""
    try:
        yield
    except (OSError, SafetensorError, ValueError) as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(f"--init-from: {source} cannot be read: {first}") from error


def resolve_source(source: str) -> str:
    """The path of a folder, or a name on the hub.

    Raises
    ------
    ValueError
        If it looks like a folder that does not exist, or the folder contains no model.
    """
    folder = Path(source).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ValueError(f"--init-from: {source} contains no model: there is no config.json.")
        return str(folder)
    if folder.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        raise ValueError(f"--init-from: there is no folder {source}.")
    return source


def norm_of(config: Any) -> str:
    """The norm of a model, by its configuration: ``rms`` or ``layer``."""
    entry = getattr(config, ENTRY, None) or {}
    return "rms" if entry.get("norm") == "rms" else "layer"
