"""Masking tokens: which ones follows from the seed, the pass over the data and the example's number, and nothing else.

So training that is stopped and goes on sees the same masks as training that is not, in whatever order and by whatever
process an example is read, and every evaluation asks the same questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import TrainerCallback

from nip.finetuning.losses import IGNORED
from nip.finetuning.metrics import accuracy_and_perplexity
from nip.training.outcome import Answers

MASKED, RANDOM = 0.8, 0.1


class Masking:
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
        hidden = asked & (fate < MASKED)
        changed = asked & (fate >= MASKED) & (fate < MASKED + RANDOM)
        return np.where(hidden, self.tokenizer.mask_token_id, np.where(changed, others, ids)), labels


class Turns(TrainerCallback):  # type: ignore[misc]
    """Tells the masking which pass over the data it is."""

    def __init__(self, masking: Masking) -> None:
        self.masking = masking

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Take note of the pass, also where training goes on in the middle of one."""
        self.masking.turn = int(state.epoch or 0)


def reduce_logits(logits: Any, labels: torch.Tensor) -> torch.Tensor:
    """Of every example: the sum of its losses, the right answers, the questions. Shape (batch, 3).

    Logits of a whole vocabulary for every token of a set would fill any memory.
    """
    logits = logits[0] if isinstance(logits, tuple) else logits
    asked = labels != IGNORED
    loss = functional.cross_entropy(
        logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
    ).view(labels.shape)
    right = (logits.argmax(-1) == labels) & asked
    return torch.stack([loss.sum(1), right.sum(1).float(), asked.sum(1).float()], dim=1)


class MaskedMetrics:
    """Accuracy and perplexity over all tokens that were asked for, of what `reduce_logits` leaves."""

    def __init__(self) -> None:
        self.answers: Answers | None = None

    def __call__(self, output: Any) -> dict[str, float]:
        """The metrics; what their interval needs is kept."""
        sums = np.asarray(output.predictions, dtype=np.float64)
        self.answers = Answers.counted(sums[:, 1].round().astype(np.int64), sums[:, 2].round().astype(np.int64))
        return accuracy_and_perplexity(sums)
