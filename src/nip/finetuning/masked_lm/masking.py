"""Masked tokens: a function of seed, epoch and example number alone, and losses and metrics over them.

A resumed run sees the same masks as an uninterrupted one, whatever order and process an example is read in, and every
evaluation predicts the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import TrainerCallback

from nip.data.masking import replaced
from nip.finetuning.losses import IGNORED
from nip.runs.accuracy import AccuracyCounts


class MaskingCollator:
    """Makes a batch of examples and masks tokens in it.

    Of the tokens that are predicted, 80 % become the mask token, 10 % a random token, and 10 % stay; all others have
    the label -100.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        With a mask token.
    probability : float
        Of a token to be predicted, in (0, 1).
    seed : int
    length : int or None
        Pad every batch to this length; None: to its longest example.

    Notes
    -----
    Examples have ``input_ids``, ``special_tokens_mask`` (1: never predicted) and ``idx``. If ``idx`` is below 0, the
    masks do not depend on the epoch: all evaluations are the same.
    """

    def __init__(self, tokenizer: Any, probability: float, seed: int, length: int | None = None) -> None:
        self.tokenizer, self.probability, self.seed, self.length = tokenizer, probability, seed, length
        self.epoch = 0

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch: ``input_ids``, ``attention_mask``, ``labels``, each of shape (batch, tokens)."""
        shape = (len(examples), self.length or max(len(example["input_ids"]) for example in examples))
        ids = np.full(shape, self.tokenizer.pad_token_id, np.int64)
        labels, attention_mask = np.full(shape, IGNORED, np.int64), np.zeros(shape, np.int64)
        for row, example in enumerate(examples):
            n = len(example["input_ids"])
            attention_mask[row, :n] = 1
            ids[row, :n], labels[row, :n] = self.masked(example)
        batch = {"input_ids": ids, "attention_mask": attention_mask, "labels": labels}
        if "token_type_ids" in self.tokenizer.model_input_names:
            batch["token_type_ids"] = np.zeros(shape, np.int64)
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def masked(self, example: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """An example's tokens, masked, and its labels."""
        ids = np.array(example["input_ids"], np.int64)
        number = int(example["idx"])
        epoch = 0 if number < 0 else self.epoch + 1
        generator = np.random.Generator(np.random.PCG64([self.seed, epoch, abs(number)]))
        chance, fate = generator.random(len(ids)), generator.random(len(ids))
        others = generator.integers(len(self.tokenizer), size=len(ids))
        predicted = (chance < self.probability) & (np.asarray(example["special_tokens_mask"]) == 0)
        labels = np.where(predicted, ids, IGNORED)
        return np.where(predicted, replaced(ids, fate, others, self.tokenizer.mask_token_id), ids), labels


class CountEpochs(TrainerCallback):  # type: ignore[misc]
    """Sets the epoch of a `MaskingCollator`."""

    def __init__(self, collator: MaskingCollator) -> None:
        self.collator = collator

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Set the epoch, also when training resumes in the middle of one."""
        self.collator.epoch = int(state.epoch or 0)


@contextmanager
def masked_tokens_only(model: Any, labels: torch.Tensor) -> Iterator[None]:
    """Within the block, compute the model's output layer for the predicted tokens only.

    Its matrix has a row for each token of the vocabulary. Loss and gradients stay the same; about a seventh of the
    layer's computation and of the memory of its logits is left. The model then returns logits of shape (predicted,
    vocabulary). A model family that does not call its output layer as a module returns all logits, as without.

    Parameters
    ----------
    model : PreTrainedModel
    labels : Tensor of shape (batch, tokens)
        -100 for tokens that are not predicted.
    """
    layer = model.get_output_embeddings()
    if layer is None:
        yield
        return
    predicted = labels != IGNORED

    def select(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden, *others = inputs
        return (hidden[predicted] if hidden.shape[:-1] == predicted.shape else hidden, *others)

    hook = layer.register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()


def masked_loss(loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A loss over the predicted tokens, given logits of these or of all tokens."""

    def over_predicted(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        predicted = labels != IGNORED
        return loss({"logits": _select(outputs["logits"], predicted)}, labels[predicted], num_items_in_batch)

    return over_predicted


def reduce_logits(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """Per example the sum of the losses, the correct and the predicted tokens, in place of logits that fill the memory.

    Parameters
    ----------
    logits : Tensor of shape (batch, tokens, vocabulary) or (predicted, vocabulary), or tuple that begins with it
    labels : Tensor of shape (batch, tokens)

    Returns
    -------
    Tensor of shape (batch, 3)
    """
    predicted = labels != IGNORED
    logits = _select(logits[0] if isinstance(logits, tuple) else logits, predicted)
    targets = labels[predicted]
    losses = functional.cross_entropy(logits.float(), targets, reduction="none")
    figures = torch.stack([losses, (logits.argmax(-1) == targets).float(), torch.ones_like(losses)], dim=1)
    return figures.new_zeros(len(labels), 3).index_add_(0, predicted.nonzero()[:, 0], figures)


def _select(logits: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    return logits if logits.dim() == 2 else logits[predicted]


class MaskedMetrics:
    """Accuracy and perplexity over all predicted tokens, computed of what `reduce_logits` returns."""

    def __init__(self) -> None:
        self.counts: AccuracyCounts | None = None

    def __call__(self, output: Any) -> dict[str, float]:
        """The metrics; the counts are kept for the accuracy's interval."""
        sums = np.asarray(output.predictions, dtype=np.float64)
        self.counts = AccuracyCounts.counted(sums[:, 1].round().astype(np.int64), sums[:, 2].round().astype(np.int64))
        return accuracy_and_perplexity(sums)


def accuracy_and_perplexity(sums: NDArray[np.float64]) -> dict[str, float]:
    """Accuracy and exp(mean loss) of an array of shape (n, 3): summed loss, correct and predicted tokens per example.

    Both are NaN if no token was predicted.

    Examples
    --------
    >>> accuracy_and_perplexity(np.array([[0.0, 1, 1], [2 * math.log(2), 0, 1]]))
    {'accuracy': 0.5, 'perplexity': 2.0}
    """
    loss, correct, predicted = sums.sum(axis=0)
    if predicted == 0:
        return {"accuracy": math.nan, "perplexity": math.nan}
    return {"accuracy": float(correct / predicted), "perplexity": float(math.exp(min(loss / predicted, 700.0)))}
