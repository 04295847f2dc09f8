"""The model to pretrain: one of transformers' own, its attention over a pattern, with first weights drawn from a seed.

``bert`` normalises after each part of a layer (post-LN), ``roberta-prelayernorm`` before it (pre-LN), ``modernbert`` is
pre-LN with rotary positions and gated layers, all of them over the pattern. What is saved is an ordinary checkpoint of
these families.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
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

from nip.data.text import Vocabulary
from nip.graphs.pattern import check_int
from nip.models.huggingface import sparsify
from nip.models.huggingface_setting import Spec
from nip.models.norms import use_rms_norm
from nip.training.pretraining.sizes import size_of

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
