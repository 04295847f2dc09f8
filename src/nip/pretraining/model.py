"""The model to pretrain: one of transformers' own, its attention over a pattern, with first weights drawn from a seed.

``bert`` normalises after each part of a layer (post-LN), ``roberta-prelayernorm`` before it (pre-LN), ``modernbert`` is
pre-LN with rotary positions and gated layers, all of them over the pattern. What is saved is an ordinary checkpoint of
these families.

What pretraining asks of the model: the masked tokens, and perhaps whether two sentences belong together.

Only masked positions go through the output layer, whose matrix has a row for each token of the vocabulary: the loss and
the gradients are those of the whole, and its work and memory about a seventh.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForPreTraining,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    RobertaPreLayerNormConfig,
    RobertaPreLayerNormForMaskedLM,
)

from nip.data.corpus import Vocabulary
from nip.graphs.pattern import check_int
from nip.models.huggingface.config import Spec
from nip.models.huggingface.masks import packed
from nip.models.huggingface.norms import use_rms_norm
from nip.models.huggingface.sparsify import sparsify
from nip.models.positions import reflected
from nip.pretraining.settings import size_of
from nip.training.train_step import MicroBatch, autocast

FAMILIES = ("bert", "roberta-prelayernorm", "modernbert")
NORMS = ("layer", "rms")
VOCABULARY_MULTIPLE = 8  # matrices of other widths are slow on tensor cores
ROTARY_BASE = 10_000.0  # ModernBERT's own before it is made longer than 1,024 tokens (arXiv 2412.13663, section 2.2)
_INTEGERS = (
    "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings",
    "type_vocab_size",
)  # fmt: skip


@dataclass(frozen=True)
class ModelSettings:
    """What a model is made of; names are those of transformers where it has one.

    Parameters
    ----------
    num_hidden_layers, hidden_size, num_attention_heads, intermediate_size : int
        `ModelSettings.of_size` fills them in by a size's name.
    family : {"bert", "roberta-prelayernorm", "modernbert"}
    norm : {"layer", "rms"}
        LayerNorm, or RMSNorm in its place.
    hidden_act : str
        As transformers names it.
    hidden_dropout_prob, attention_probs_dropout_prob : float
    max_position_embeddings : int
        Tokens of the longest input, for each of which there is a learned position; ModernBERT has none.
    type_vocab_size : int
        Kinds of sentences; finetuning on pairs wants 2.
    initializer_range : float
        Standard deviation of the first weights.
    scaled_init : bool
        Draw the last matrix of each part of a layer with a standard deviation smaller by √(2 · layers), so that the sum
        of all parts does not grow with depth, as the original and Megatron do. ModernBERT always does.
    layer_norm_eps : float
    tie_word_embeddings : bool
        The output layer's matrix is the table of embeddings.
    vocab_size : int, optional
        Rows of that table: unless given the tokenizer's, rounded up to a multiple of 8.
    next_sentence : bool
        Also tell whether a sample's second part follows on its first.

    Raises
    ------
    ValueError
        If a value is outside its range, or two do not fit each other.
    """

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    family: str = "bert"
    norm: str = "layer"
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    scaled_init: bool = True
    layer_norm_eps: float = 1e-12
    tie_word_embeddings: bool = True
    vocab_size: int | None = None
    next_sentence: bool = False

    @staticmethod
    def of_size(name: str, **settings: Any) -> ModelSettings:
        """The settings of a size by its name, others as given.

        Examples
        --------
        >>> ModelSettings.of_size("base", family="roberta-prelayernorm", hidden_dropout_prob=0.0).hidden_size
        768
        """
        return ModelSettings(**{**asdict(size_of(name)), **settings})

    def __post_init__(self) -> None:
        from transformers.activations import ACT2FN

        for name in _INTEGERS:
            check_int(name, getattr(self, name), "the model", minimum=1)
        _among("family", self.family, FAMILIES)
        _among("norm", self.norm, NORMS)
        _among("hidden_act", self.hidden_act, tuple(ACT2FN))
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"The heads of the model must divide its width {self.hidden_size}. "
                f"Got {self.num_attention_heads} instead."
            )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(
                    f"The '{name}' parameter of the model must be in [0, 1). Got {getattr(self, name)} instead."
                )
        for name in ("initializer_range", "layer_norm_eps"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"The '{name}' parameter of the model must be above 0. Got {getattr(self, name)} instead."
                )
        if self.next_sentence and self.type_vocab_size < 2:
            raise ValueError("Pairs of sentences need a type_vocab_size of at least 2.")
        if self.family == "modernbert" and self.next_sentence:
            raise ValueError("ModernBERT does not tell the two sentences of a pair apart: next_sentence needs another.")
        if self.family == "modernbert" and not self.scaled_init:
            raise ValueError(
                "ModernBERT always draws the last matrices of its layers smaller: scaled_init cannot be off."
            )

    def rows(self, vocabulary: Vocabulary) -> int:
        """Rows of the table of embeddings.

        Raises
        ------
        ValueError
            If `vocab_size` is too small for the tokenizer.
        """
        if self.vocab_size is None:
            return -(-vocabulary.size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
        if self.vocab_size < vocabulary.size:
            raise ValueError(
                f"The model's vocab_size must be at least that of the tokenizer, {vocabulary.size:,}. "
                f"Got {self.vocab_size:,} instead."
            )
        return self.vocab_size


def build_model(
    settings: ModelSettings,
    vocabulary: Vocabulary,
    pattern: Spec = "hypercube",
    *,
    block_size: int = 16,
    layers: Sequence[Spec] | None = None,
    backend: str = "auto",
    seed: int = 0,
    **parameters: Any,
) -> PreTrainedModel:
    """A new model whose attention runs over a pattern: the same for the same seed. torch's generator is left as it is.

    Parameters
    ----------
    settings : ModelSettings
    vocabulary : Vocabulary
        Of the corpus.
    pattern, block_size, layers, backend, **parameters
        As `nip.sparsify` takes them; the pattern ``softmax`` is dense attention.
    seed : int, default=0

    Returns
    -------
    PreTrainedModel
        With a head for masked tokens.

    Raises
    ------
    ValueError
        If the settings do not fit the vocabulary, or there is no such pattern.
    """
    config, kind = _CONFIGS[settings.family](settings, vocabulary)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = kind(config)
    if settings.scaled_init and settings.family != "modernbert":
        _scale_residual_parts(model, settings.num_hidden_layers)
    sparsify(model, pattern, block_size=block_size, layers=layers, backend=backend, **parameters)
    return use_rms_norm(model) if settings.norm == "rms" else model


def _scale_residual_parts(model: nn.Module, layers: int) -> None:
    with torch.no_grad():
        for path, module in model.named_modules():
            # of each layer: attention.output.dense and output.dense, whose results are added to its input
            if ".layer." in path and path.endswith("output.dense") and isinstance(module, nn.Linear):
                module.weight /= math.sqrt(2 * layers)


def _shared(settings: ModelSettings, vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "vocab_size": settings.rows(vocabulary),
        "hidden_size": settings.hidden_size,
        "num_hidden_layers": settings.num_hidden_layers,
        "num_attention_heads": settings.num_attention_heads,
        "intermediate_size": settings.intermediate_size,
        "initializer_range": settings.initializer_range,
        "tie_word_embeddings": settings.tie_word_embeddings,
        "pad_token_id": vocabulary.pad,
    }


def _encoder(settings: ModelSettings, vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        **_shared(settings, vocabulary),
        "hidden_act": settings.hidden_act,
        "hidden_dropout_prob": settings.hidden_dropout_prob,
        "attention_probs_dropout_prob": settings.attention_probs_dropout_prob,
        "type_vocab_size": settings.type_vocab_size,
        "layer_norm_eps": settings.layer_norm_eps,
    }


def _bert(settings: ModelSettings, vocabulary: Vocabulary) -> tuple[Any, type[Any]]:
    config = BertConfig(**_encoder(settings, vocabulary), max_position_embeddings=settings.max_position_embeddings)
    return config, BertForPreTraining if settings.next_sentence else BertForMaskedLM


def _roberta(settings: ModelSettings, vocabulary: Vocabulary) -> tuple[Any, type[Any]]:
    rows = settings.max_position_embeddings + vocabulary.pad + 1  # its positions begin after the padding token's number
    config = RobertaPreLayerNormConfig(
        **_encoder(settings, vocabulary),
        max_position_embeddings=rows,
        bos_token_id=vocabulary.cls,
        eos_token_id=vocabulary.sep,
    )
    return config, RobertaPreLayerNormForMaskedLM


def _modernbert(settings: ModelSettings, vocabulary: Vocabulary) -> tuple[Any, type[Any]]:
    rotary = {"rope_type": "default", "rope_theta": ROTARY_BASE}
    config = ModernBertConfig(
        **_shared(settings, vocabulary),
        hidden_activation=settings.hidden_act,
        max_position_embeddings=settings.max_position_embeddings,
        norm_eps=settings.layer_norm_eps,
        attention_dropout=settings.attention_probs_dropout_prob,
        embedding_dropout=settings.hidden_dropout_prob,
        mlp_dropout=settings.hidden_dropout_prob,
        layer_types=["full_attention"] * settings.num_hidden_layers,  # no windows: the pattern says who attends to whom
        rope_parameters={"full_attention": rotary, "sliding_attention": rotary},
        cls_token_id=vocabulary.cls,
        sep_token_id=vocabulary.sep,
        bos_token_id=vocabulary.cls,
        eos_token_id=vocabulary.sep,
    )
    return config, ModernBertForMaskedLM


_CONFIGS: dict[str, Callable[[ModelSettings, Vocabulary], tuple[Any, type[Any]]]] = {
    "bert": _bert,
    "roberta-prelayernorm": _roberta,
    "modernbert": _modernbert,
}


def _among(name: str, value: str, legal: Sequence[str]) -> None:
    if value not in legal:
        raise ValueError(
            f"The '{name}' parameter of the model must be one of {', '.join(legal)}. Got {value!r} instead."
        )


class MaskedSums(NamedTuple):
    """Sums over a micro-batch, which add up over micro-batches and processes; of no dimension but for `right`."""

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
    ) -> MaskedSums:
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
            return MaskedSums(loss, right, nothing, nothing)
        answers = (_own_sentences(self.model, hidden) if self.sentences is None else self.sentences(hidden)).float()
        sentence_loss = functional.cross_entropy(answers, next_sentence, reduction="sum")
        return MaskedSums(loss, right, sentence_loss, (answers.argmax(-1) == next_sentence).sum())


def masked_sums(
    model: nn.Module, accelerator: Accelerator, micro_batch: MicroBatch, precision: str | None
) -> MaskedSums:
    """The sums of a micro-batch, computed in a precision.

    Parameters
    ----------
    model : Module
        A `MaskedObjective`, as the accelerator wraps it.
    accelerator : Accelerator
    micro_batch : MicroBatch
    precision : {"fp32", "bf16", "fp16"}, optional
    """
    micro_batch = micro_batch.to(accelerator.device)
    with autocast(accelerator, precision):
        sums: MaskedSums = model(**micro_batch.inputs, labels=micro_batch.targets)
    return sums


def total_loss(sums: MaskedSums, asked: int, samples: int) -> Tensor:
    """What to descend: the mean over the masked tokens, plus that over the samples' next sentences where it is asked.

    Parameters
    ----------
    sums : MaskedSums
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


def extend_table(table: Tensor, before: int, now: int) -> Tensor:
    """A position table with rows for more positions, by reflection; leading rows that are no position stay.

    Parameters
    ----------
    table : Tensor of shape (extra + before, …)
    before, now : int
        Positions so far, and from now on.

    Returns
    -------
    Tensor of shape (extra + now, …)

    Examples
    --------
    >>> extend_table(torch.arange(6.0), 4, 8).tolist()  # RoBERTa has two rows that stand for no position
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 4.0, 3.0, 2.0]
    """
    extra = len(table) - before
    return torch.cat([table[:extra], reflected(table[extra:], now)]).contiguous()
