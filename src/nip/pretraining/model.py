"""The model to pretrain and its objective: an encoder of transformers whose attention runs over a pattern.

``bert`` normalizes after each sublayer (post-LN), ``roberta-prelayernorm`` before it (pre-LN); ``modernbert`` is pre-LN
with rotary positions and gated feed-forward layers. Models are saved as ordinary checkpoints of these architectures.

The objective is masked-token prediction, and optionally next-sentence prediction. Only masked positions go through the
output layer, whose matrix has a row for each token of the vocabulary: loss and gradients are the same, for about a
seventh of the computation and memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
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
from nip.pretraining.settings import ARCHITECTURES, NORMS, size_of
from nip.training.train_step import MicroBatch, autocast

VOCABULARY_MULTIPLE = 8  # other widths are slow on tensor cores
ROTARY_BASE = 10_000.0  # of ModernBERT before its extension beyond 1,024 tokens (arXiv 2412.13663, section 2.2)
_INTEGERS = (
    "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "max_position_embeddings",
    "type_vocab_size",
)  # fmt: skip


@dataclass(frozen=True)
class ModelSettings:
    """The settings of a model, named as in transformers where it has them.

    Parameters
    ----------
    num_hidden_layers, hidden_size, num_attention_heads, intermediate_size : int
        `ModelSettings.of_size` fills them in by the name of a size.
    architecture : {"bert", "roberta-prelayernorm", "modernbert"}
    norm : {"layer", "rms"}
        LayerNorm or RMSNorm.
    hidden_act : str
        Activation of the feed-forward layers.
    hidden_dropout_prob, attention_probs_dropout_prob : float
        In [0, 1).
    max_position_embeddings : int
        Tokens of the longest input; ModernBERT has no position embeddings.
    type_vocab_size : int
        Token types; finetuning on pairs of sentences needs 2.
    initializer_range : float
        Standard deviation of the initial weights.
    scaled_init : bool
        Divide the initial weights of the last matrix of each sublayer by √(2 · layers), so that the residual sum does
        not grow with depth, as the original and Megatron do. ModernBERT always does.
    layer_norm_eps : float
    tie_word_embeddings : bool
        The output layer shares its matrix with the token embeddings.
    vocab_size : int, optional
        Rows of the embedding table; by default that of the tokenizer, rounded up to a multiple of 8.
    next_sentence : bool
        Add a head for next-sentence prediction.

    Raises
    ------
    ValueError
        If a value is out of range, or two contradict each other.
    """

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    architecture: str = "bert"
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
        """The settings of a size by its name, with others as given.

        Examples
        --------
        >>> ModelSettings.of_size("base", architecture="roberta-prelayernorm", hidden_dropout_prob=0.0).hidden_size
        768
        """
        return ModelSettings(**{**asdict(size_of(name)), **settings})

    def __post_init__(self) -> None:
        from transformers.activations import ACT2FN

        for name in _INTEGERS:
            object.__setattr__(self, name, check_int(name, getattr(self, name), "the model", minimum=1))
        legal: Collection[str]
        for name, legal in (("architecture", ARCHITECTURES), ("norm", NORMS), ("hidden_act", ACT2FN.keys())):
            if getattr(self, name) not in legal:
                raise ValueError(
                    f"The '{name}' parameter of the model must be one of {', '.join(legal)}. "
                    f"Got {getattr(self, name)!r} instead."
                )
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
        if self.architecture == "modernbert" and self.next_sentence:
            raise ValueError("ModernBERT has no token types, which next_sentence needs: use another architecture.")
        if self.architecture == "modernbert" and not self.scaled_init:
            raise ValueError(
                "ModernBERT always scales the initial weights of its residual layers: scaled_init cannot be off."
            )

    def rows(self, vocabulary: Vocabulary) -> int:
        """Rows of the embedding table.

        Raises
        ------
        ValueError
            If `vocab_size` is smaller than the tokenizer's vocabulary.
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
    """A new model whose attention runs over a pattern; its initial weights are a function of the seed.

    Parameters
    ----------
    settings : ModelSettings
    vocabulary : Vocabulary
        Of the corpus.
    pattern, block_size, layers, backend, **parameters
        As for `nip.sparsify`; the pattern ``softmax`` is dense attention.
    seed : int, default=0

    Returns
    -------
    PreTrainedModel
        With a head for masked tokens, on the CPU (without weights if torch's default device is "meta").

    Raises
    ------
    ValueError
        If the settings do not fit the vocabulary, or there is no such pattern.
    """
    config, kind = _CONFIGS[settings.architecture](settings, vocabulary)
    with torch.random.fork_rng(devices=[]), _cpu_or_meta():
        torch.manual_seed(seed)
        model: PreTrainedModel = kind(config)
    if settings.scaled_init and settings.architecture != "modernbert":
        _scale_residual_layers(model, settings.num_hidden_layers)
    # Samples fill their length, and a stage of shorter samples has the graph of its length.
    sparsify(model, pattern, block_size=block_size, layers=layers, backend=backend, lengths="own", **parameters)
    return use_rms_norm(model) if settings.norm == "rms" else model


def _cpu_or_meta() -> torch.device:
    """The device on which weights are drawn: every other has a generator of its own, which draws other weights."""
    return torch.device("meta" if torch.get_default_device().type == "meta" else "cpu")


def _scale_residual_layers(model: nn.Module, layers: int) -> None:
    with torch.no_grad():
        for path, module in model.named_modules():
            # of each layer: attention.output.dense and output.dense, which write to the residual stream
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
    rows = settings.max_position_embeddings + vocabulary.pad + 1  # its positions start after the padding token's id
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
        layer_types=["full_attention"] * settings.num_hidden_layers,  # no windows: attention follows the pattern
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


class MaskedLMSums(NamedTuple):
    """Sums over a micro-batch, which add up over micro-batches and processes."""

    loss: Tensor
    """Cross-entropy of the masked tokens, float32 of shape ()."""
    correct: Tensor
    """Number of correctly predicted tokens in each sample, int64 of shape (b,)."""
    sentence_loss: Tensor
    """Cross-entropy of next-sentence prediction, of shape (); 0 without it."""
    sentence_correct: Tensor
    """Number of correct next-sentence predictions, of shape ()."""


HEADS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "bert": lambda model, hidden: model.cls.predictions(hidden),
    "roberta-prelayernorm": lambda model, hidden: model.lm_head(hidden),
    "modernbert": lambda model, hidden: model.decoder(model.head(hidden)),
}
"""By the architecture: from hidden states of the last layer (m, width) to scores (m, rows)."""


class MaskedLMObjective(nn.Module):
    """A model and its objective as one module, which accelerate, DDP or FSDP wraps.

    Parameters
    ----------
    model : PreTrainedModel
        As `build_model` makes it.
    next_sentence : bool, default=False
        Architectures without a head for it get one here, which is not saved with the model.
    seed : int, default=0
        Of that head's initial weights.

    Raises
    ------
    ValueError
        If the model cannot predict next sentences.
    """

    def __init__(self, model: PreTrainedModel, *, next_sentence: bool = False, seed: int = 0) -> None:
        super().__init__()
        self.model = model
        self._no_split_modules = model._no_split_modules  # the layers that FSDP shards one by one
        self._head = HEADS[model.config.model_type]
        self.sentences: nn.Module | None = None
        self._next_sentence = next_sentence
        config: Any = model.config
        if next_sentence:
            if not getattr(config, "type_vocab_size", 0):
                raise ValueError(f"{type(model).__name__} does not distinguish the two sentences of a pair.")
            if config.model_type != "bert":
                self.sentences = NextSentenceHead(config.hidden_size, config.initializer_range, seed)
            elif not isinstance(model, BertForPreTraining):
                raise ValueError("The model has no head for next sentences: build it with next_sentence=True.")

    def tie_weights(self) -> None:
        """Tie the model's weights: accelerate calls it after sharding by FSDP, which unties them."""
        self.model.tie_weights()

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        labels: Tensor,
        segment_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        next_sentence: Tensor | None = None,
    ) -> MaskedLMSums:
        """The sums of a micro-batch.

        Parameters
        ----------
        input_ids : int64 Tensor of shape (b, L)
        positions : int64 Tensor of shape (m,)
            Of the masked tokens, in the flattened (b · L) batch.
        labels : int64 Tensor of shape (m,)
            The original ids of the masked tokens.
        segment_ids : integer Tensor of shape (b, L), optional
            Numbers of packed documents; attention does not cross their boundaries.
        token_type_ids : int64 Tensor of shape (b, L), optional
        next_sentence : int64 Tensor of shape (b,), optional
            1 if the second sentence is a random one, else 0.

        Returns
        -------
        MaskedLMSums
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
        correct = hits.new_zeros(len(input_ids)).index_add_(0, positions // input_ids.shape[1], hits)
        zero = loss.new_zeros(())
        if not self._next_sentence or next_sentence is None:
            return MaskedLMSums(loss, correct, zero, zero)
        if self.sentences is not None:
            answers = self.sentences(hidden).float()
        else:
            bert: Any = self.model
            answers = bert.cls.seq_relationship(bert.bert.pooler(hidden)).float()
        sentence_loss = functional.cross_entropy(answers, next_sentence, reduction="sum")
        return MaskedLMSums(loss, correct, sentence_loss, (answers.argmax(-1) == next_sentence).sum())


class NextSentenceHead(nn.Module):
    """Whether the second sentence of a pair is a random one, from the first token, like BERT's pooler and head.

    Parameters
    ----------
    width : int
        Of the hidden states.
    std : float
        Standard deviation of the initial weights.
    seed : int
    """

    def __init__(self, width: int, std: float, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]), _cpu_or_meta():
            torch.manual_seed(seed)
            self.dense, self.answer = nn.Linear(width, width), nn.Linear(width, 2)
            for layer in (self.dense, self.answer):
                nn.init.normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """From the last layer (b, L, width) to scores (b, 2)."""
        scores: Tensor = self.answer(torch.tanh(self.dense(hidden[:, 0])))
        return scores


def masked_lm_sums(
    model: nn.Module, accelerator: Accelerator, micro_batch: MicroBatch, precision: str | None
) -> MaskedLMSums:
    """Run the forward pass of a micro-batch.

    Parameters
    ----------
    model : Module
        A `MaskedLMObjective`, as the accelerator wraps it.
    accelerator : Accelerator
    micro_batch : MicroBatch
    precision : {"fp32", "bf16", "fp16"}, optional

    Returns
    -------
    MaskedLMSums
    """
    micro_batch = micro_batch.to(accelerator.device)
    with autocast(accelerator, precision):
        sums: MaskedLMSums = model(**micro_batch.inputs, labels=micro_batch.targets)
    return sums


def total_loss(sums: MaskedLMSums, masked: int, samples: int) -> Tensor:
    """A micro-batch's share of the loss: the mean over masked tokens, plus the mean of next-sentence prediction.

    Parameters
    ----------
    sums : MaskedLMSums
        Of the micro-batch.
    masked, samples : int
        Masked tokens and samples of the global batch, so that its micro-batches' gradients add up to its gradient.

    Returns
    -------
    Tensor of shape ()
    """
    return sums.loss / max(masked, 1) + sums.sentence_loss / samples


def extend_table(table: Tensor, before: int, now: int) -> Tensor:
    """Extend a position table by reflection; leading rows that are not positions are kept.

    Parameters
    ----------
    table : Tensor of shape (extra + before, …)
    before, now : int
        Numbers of positions.

    Returns
    -------
    Tensor of shape (extra + now, …)

    Examples
    --------
    >>> extend_table(torch.arange(6.0), 4, 8).tolist()  # RoBERTa has two rows that are not positions
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 4.0, 3.0, 2.0]
    """
    extra = len(table) - before
    return torch.cat([table[:extra], reflected(table[extra:], now)]).contiguous()
