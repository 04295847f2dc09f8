"""First weights from another model: a run's end, a Hugging Face checkpoint, or the 128 tokens before the 512."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel

from nip.data.text import Vocabulary
from nip.models.huggingface_setting import ENTRY
from nip.training.pretraining.saving import load_model
from nip.training.pretraining.state import stretched


def first_weights(model: PreTrainedModel, source: str, vocabulary: Vocabulary, positions: int) -> None:
    """Put the weights of a saved model in place of a new one's, in place.

    Fewer positions than the new model has are extended by reflection; of more, the first ones are taken.

    Parameters
    ----------
    model : PreTrainedModel
    source : str
        A folder, or a name on the hub.
    vocabulary : Vocabulary
        Of the corpus.
    positions : int
        Of the new model.

    Raises
    ------
    ValueError
        If the model there is of another family or other sizes, or there is none.
    """
    folder = Path(source).expanduser()
    if folder.exists() and not (folder / "config.json").is_file():
        raise ValueError(f"--init-from: {source} holds no model: there is no config.json.")
    name = str(folder) if folder.exists() else source
    graph = getattr(AutoConfig.from_pretrained(name), ENTRY, None)
    other: Any = AutoModelForMaskedLM.from_pretrained(name) if graph is None else load_model(Path(name))
    mine: Any = model.config
    there = other.config
    if there.model_type != mine.model_type:
        raise ValueError(f"--init-from: {source} is a {there.model_type}, the run's model a {mine.model_type}.")
    if there.vocab_size < vocabulary.size:
        raise ValueError(
            f"--init-from: {source} knows {there.vocab_size:,} tokens, the corpus's tokenizer {vocabulary.size:,}."
        )
    rows = there.max_position_embeddings - (mine.max_position_embeddings - positions)  # RoBERTa has two more
    weights = dict(other.named_parameters())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name not in weights:
                raise ValueError(f"--init-from: {source} has no {name}.")
            found = weights[name]
            if found.shape != weight.shape and "position_embeddings" in name:
                found = stretched(found, rows, positions) if rows < positions else found[: len(weight)]
            if found.shape != weight.shape:
                shapes = f"the shape {tuple(found.shape)}, the run's {tuple(weight.shape)}"
                raise ValueError(f"--init-from: {name} of {source} has {shapes}.")
            weight.copy_(found)
