"""Masking tokens: which ones follows from the seed, the pass over the data and the example's number, and nothing else.

So training that is stopped and goes on sees the same masks as training that is not, in whatever order and by whatever
process an example is read, and every evaluation asks the same questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import TrainerCallback

from nip.data.masking import replaced
from nip.finetuning.glue.metrics import accuracy_and_perplexity
from nip.finetuning.losses import IGNORED
from nip.runs.accuracy import AccuracyCounts


class MaskingCollator:
    """Makes a batch of examples, some of whose tokens are to be guessed.

    Of the tokens that are asked for, 80 % become the mask, 10 % another token, and 10 % stay; all others have the label
    -100.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        With a mask token.
    share : float
        Of the tokens, in (0, 1).
    seed : int
    length : int or None
        Give every batch that length; None: that of its longest example.

    Notes
    -----
    Examples have ``input_ids``, ``special_tokens_mask`` (1: never asked for) and ``idx``. Where ``idx`` is below 0 the
    pass does not matter: evaluations are alike.
    """

    def __init__(self, tokenizer: Any, share: float, seed: int, length: int | None = None) -> None:
        self.tokenizer, self.share, self.seed, self.length = tokenizer, share, seed, length
        self.turn = 0

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """A batch: ``input_ids``, ``attention_mask``, ``labels``, each of shape (batch, tokens)."""
        longest = self.length or max(len(example["input_ids"]) for example in examples)
        shape = (len(examples), longest)
        ids = np.full(shape, self.tokenizer.pad_token_id, np.int64)
        labels, present = np.full(shape, IGNORED, np.int64), np.zeros(shape, np.int64)
        for row, example in enumerate(examples):
            n = len(example["input_ids"])
            present[row, :n] = 1
            ids[row, :n], labels[row, :n] = self.masked(example)
        batch = {"input_ids": ids, "attention_mask": present, "labels": labels}
        if "token_type_ids" in self.tokenizer.model_input_names:
            batch["token_type_ids"] = np.zeros(shape, np.int64)
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def masked(self, example: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        """An example's tokens, some of them hidden, and its labels."""
        ids = np.array(example["input_ids"], np.int64)
        number = int(example["idx"])
        turn = 0 if number < 0 else self.turn + 1
        drawn = np.random.Generator(np.random.PCG64([self.seed, turn, abs(number)]))
        chance, fate = drawn.random(len(ids)), drawn.random(len(ids))
        others = drawn.integers(len(self.tokenizer), size=len(ids))
        asked = (chance < self.share) & (np.asarray(example["special_tokens_mask"]) == 0)
        labels = np.where(asked, ids, IGNORED)
        return np.where(asked, replaced(ids, fate, others, self.tokenizer.mask_token_id), ids), labels


class CountEpochs(TrainerCallback):  # type: ignore[misc]
    """Tells the masking which pass over the data it is."""

    def __init__(self, masking: MaskingCollator) -> None:
        self.masking = masking

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Take note of the pass, also where training goes on in the middle of one."""
        self.masking.turn = int(state.epoch or 0)


@contextmanager
def masked_tokens_only(model: Any, labels: torch.Tensor) -> Iterator[None]:
    """Within the block, let only the tokens that are asked for through the model's output layer.

    Its matrix has a row for each token of the vocabulary: loss and gradients stay the same, and of the layer's work and
    of the memory of its scores about a seventh is left. The model then gives scores of shape (asked, vocabulary). A
    family that does not call its output layer as a module gives all scores, as ever.

    Parameters
    ----------
    model : PreTrainedModel
    labels : Tensor of shape (batch, tokens)
        -100 where nothing is asked.
    """
    layer = model.get_output_embeddings()
    if layer is None:
        yield
        return
    asked = labels != IGNORED

    def choose(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden, *others = inputs
        return (hidden[asked] if hidden.shape[:-1] == asked.shape else hidden, *others)

    hook = layer.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        hook.remove()


def masked_loss(loss: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A loss over the tokens that are asked for, of a model's scores of these tokens or of all."""

    def of_asked(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        asked = labels != IGNORED
        return loss({"logits": _at(outputs["logits"], asked)}, labels[asked], num_items_in_batch)

    return of_asked


def reduce_logits(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """Of every example: the sum of its losses, the right answers, the questions. Shape (batch, 3).

    Logits of a whole vocabulary for every token of a set would fill any memory.
    """
    logits = logits[0] if isinstance(logits, tuple) else logits
    asked = labels != IGNORED
    scores, answers = _at(logits, asked), labels[asked]
    losses = functional.cross_entropy(scores.float(), answers, reduction="none")
    rows = asked.nonzero()[:, 0]
    told = torch.stack([losses, (scores.argmax(-1) == answers).float(), torch.ones_like(losses)], dim=1)
    return told.new_zeros(len(labels), 3).index_add_(0, rows, told)


def _at(logits: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """The scores of the tokens that are asked for, of those alone or of all."""
    return logits if logits.dim() == 2 else logits[asked]


class MaskedMetrics:
    """Accuracy and perplexity over all tokens that were asked for, of what `reduce_logits` leaves."""

    def __init__(self) -> None:
        self.answers: AccuracyCounts | None = None

    def __call__(self, output: Any) -> dict[str, float]:
        """The metrics; what their interval needs is kept."""
        sums = np.asarray(output.predictions, dtype=np.float64)
        self.answers = AccuracyCounts.counted(sums[:, 1].round().astype(np.int64), sums[:, 2].round().astype(np.int64))
        return accuracy_and_perplexity(sums)
