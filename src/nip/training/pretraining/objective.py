"""What pretraining asks of the model: the masked tokens, and perhaps whether two sentences belong together.

Only masked positions go through the output layer, whose matrix has a row for each token of the vocabulary: the loss and
the gradients are those of the whole, and its work and memory about a seventh.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from nip.models.huggingface_mask import packed


class Sums(NamedTuple):
    """Of a micro-batch: what adds up over micro-batches and processes; of no dimension but for `right`."""

    loss: Tensor
    """Cross-entropies of the masked tokens, float32."""
    right: Tensor
    """How many of them were guessed, of each sample: shape (b,)."""
    sentence_loss: Tensor
    """Cross-entropies of the next-sentence answers; 0 where it is not asked."""
    sentence_right: Tensor


HEADS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "bert": lambda model, hidden: model.cls.predictions(hidden),
    "roberta-prelayernorm": lambda model, hidden: model.lm_head(hidden),
    "modernbert": lambda model, hidden: model.decoder(model.head(hidden)),
}
"""By the family: from the last layer (m, width) to the scores of the vocabulary (m, rows)."""


class MaskedObjective(nn.Module):
    """A model with its objective, as one module: what is given to accelerate, DDP or FSDP.

    Parameters
    ----------
    model : PreTrainedModel
        As `build_model` makes it.
    next_sentence : bool, default=False
        Families without a head for it get one here, which is not saved with the model.
    seed : int, default=0
        For that head's first weights.

    Raises
    ------
    ValueError
        If next sentences are asked of a model that cannot tell.
    """

    def __init__(self, model: PreTrainedModel, *, next_sentence: bool = False, seed: int = 0) -> None:
        super().__init__()
        self.model = model
        self._no_split_modules = model._no_split_modules  # what FSDP cuts by
        self._head = HEADS[model.config.model_type]
        self.sentences: nn.Module | None = None
        self._asks_sentences = next_sentence
        if next_sentence and not _has_own_sentences(model):
            config = model.config
            self.sentences = Sentences(config.hidden_size, config.initializer_range, seed)

    def tie_weights(self) -> None:
        """As the model's own: for accelerate, which takes tied weights apart when FSDP cuts them."""
        self.model.tie_weights()

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        labels: Tensor,
        segment_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        next_sentence: Tensor | None = None,
    ) -> Sums:
        """The sums of a micro-batch.

        Parameters
        ----------
        input_ids : int64 Tensor of shape (b, L)
        positions : int64 Tensor of shape (m,)
            Of the masked tokens, in the flattened (b · L) batch.
        labels : int64 Tensor of shape (m,)
            The tokens that stood there.
        segment_ids : integer Tensor of shape (b, L), optional
            Packed documents, inside which attention stays.
        token_type_ids : int64 Tensor of shape (b, L), optional
        next_sentence : int64 Tensor of shape (b,), optional
            1 where the second sentence is a random one.
        """
        inputs: dict[str, Any] = {"input_ids": input_ids}
        if segment_ids is not None:
            inputs["attention_mask"] = packed(segment_ids)
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        hidden: Tensor = self.model.base_model(**inputs).last_hidden_state
        scores = self._head(self.model, hidden.flatten(0, 1).index_select(0, positions)).float()
        loss = functional.cross_entropy(scores, labels, reduction="sum")
        hits = (scores.argmax(-1) == labels).long()
        right = hits.new_zeros(len(input_ids)).index_add_(0, positions // input_ids.shape[1], hits)
        nothing = loss.new_zeros(())
        if not self._asks_sentences or next_sentence is None:
            return Sums(loss, right, nothing, nothing)
        answers = (_own_sentences(self.model, hidden) if self.sentences is None else self.sentences(hidden)).float()
        sentence_loss = functional.cross_entropy(answers, next_sentence, reduction="sum")
        return Sums(loss, right, sentence_loss, (answers.argmax(-1) == next_sentence).sum())


def total_loss(sums: Sums, asked: int, samples: int) -> Tensor:
    """What to descend: the mean over the masked tokens, plus that over the samples' next sentences where it is asked.

    Parameters
    ----------
    sums : Sums
        Of a micro-batch.
    asked, samples : int
        Masked tokens and samples of the whole global batch, so that the gradients of its micro-batches add up to its
        own. Where several processes average gradients, their number is to be multiplied in.
    """
    return sums.loss / max(asked, 1) + sums.sentence_loss / samples


class Sentences(nn.Module):
    """Whether a sample's second part is a random one, asked of its first token: as BERT's pooler and head do it."""

    def __init__(self, width: int, std: float, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.dense, self.answer = nn.Linear(width, width), nn.Linear(width, 2)
            for layer in (self.dense, self.answer):
                nn.init.normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """From the last layer (b, L, width) to scores (b, 2)."""
        scores: Tensor = self.answer(torch.tanh(self.dense(hidden[:, 0])))
        return scores


def _has_own_sentences(model: Any) -> bool:
    if not getattr(model.config, "type_vocab_size", 0):
        raise ValueError(f"{type(model).__name__} does not tell the two sentences of a pair apart.")
    if model.config.model_type != "bert":
        return False
    if not hasattr(model.cls, "seq_relationship"):
        raise ValueError("The model was built without a head for next sentences: build it with next_sentence=True.")
    return True


def _own_sentences(model: Any, hidden: Tensor) -> Tensor:
    scores: Tensor = model.cls.seq_relationship(model.bert.pooler(hidden))
    return scores
