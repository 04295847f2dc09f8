"""What the settings and the device decide: model, graph, masking, precision, micro-batches, attention backend."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from nip.attention import Choice, explain
from nip.data.corpus import Masking, Vocabulary
from nip.graphs import Pattern, pattern
from nip.pretraining.model import ModelSettings, build_model
from nip.pretraining.settings import Settings, size_of

MICRO_BATCH_TOKENS = {True: 2**13, False: 2**15}  # on a CPU and elsewhere


def resolve(settings: Settings, there: Settings | None, device: torch.device) -> Settings:
    """Fill in the settings that depend on the device: those of the run in the folder, if there is one.

    Parameters
    ----------
    settings : Settings
    there : Settings or None
        Of the run in the folder.
    device : torch.device

    Returns
    -------
    Settings
    """
    if settings.precision is not None:
        return settings
    default = "bf16" if device.type == "cuda" else "fp32"
    return replace(settings, precision=default if there is None else there.precision)


def model_settings(settings: Settings, positions: int) -> ModelSettings:
    """The model's settings, for a number of positions."""
    size = size_of(settings.size)
    return ModelSettings(
        num_hidden_layers=settings.layers or size.num_hidden_layers,
        hidden_size=settings.width or size.hidden_size,
        num_attention_heads=settings.heads or size.num_attention_heads,
        intermediate_size=settings.inner_width or size.intermediate_size,
        architecture=settings.architecture,
        norm=settings.norm,
        hidden_act=settings.activation,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.attention_dropout,
        max_position_embeddings=positions,
        type_vocab_size=settings.token_types,
        initializer_range=settings.initializer_range,
        scaled_init=settings.scaled_init,
        layer_norm_eps=settings.norm_eps,
        tie_word_embeddings=settings.tied,
        vocab_size=settings.vocab_size,
        next_sentence=settings.next_sentence,
    )


def new_model(settings: Settings, vocabulary: Vocabulary, positions: int) -> PreTrainedModel:
    """The model with its initial weights.

    Parameters
    ----------
    settings : Settings
    vocabulary : Vocabulary
        Of the corpus.
    positions : int
        Tokens of the longest input.

    Returns
    -------
    PreTrainedModel
    """
    return build_model(
        model_settings(settings, positions),
        vocabulary,
        settings.model,
        block_size=settings.block_size,
        backend=settings.backend,
        seed=settings.seed,
        **settings.parameters,
    )


def positions_in(settings: Settings, stage: int) -> int:
    """Positions of the model in a stage: `Settings.positions`, or by default the tokens of a sample."""
    return settings.positions or settings.lengths[stage][0]


def graph_of(settings: Settings, length: int) -> Pattern:
    """The graph for samples of a number of tokens.

    Raises
    ------
    ValueError
        If there is no such pattern, or it has no such parameters.
    """
    return pattern(settings.model, -(-length // settings.block_size), **settings.parameters)


def masking_of(settings: Settings, length: int) -> Masking:
    """How tokens of samples of that length are chosen and replaced.

    Examples
    --------
    >>> masking_of(Settings(max_steps=1), 128).max_predictions
    20
    """
    most = settings.max_predictions or math.ceil(length * settings.mask_probability)
    return Masking(settings.mask_probability, most, settings.mask_share, settings.random_share)


def micro_batch_size(settings: Settings, length: int, device: torch.device, processes: int) -> int:
    """Samples of a micro-batch: `Settings.micro_batch`, or by default a number that suits the device.

    The setting is for the first stage; micro-batches of longer samples have the same number of tokens.

    Parameters
    ----------
    settings : Settings
    length : int
        Tokens of a sample.
    device : torch.device
    processes : int

    Returns
    -------
    int
    """
    if settings.micro_batch is not None:
        return max(1, settings.micro_batch * settings.lengths[0][0] // length)
    share = max(1, settings.batch_size // processes)
    return max(1, min(share, MICRO_BATCH_TOKENS[device.type == "cpu"] // length))


def attention_choice(settings: Settings, length: int, micro_batch: int, device: torch.device) -> Choice:
    """The attention backend for micro-batches of samples of a length.

    Parameters
    ----------
    settings : Settings
    length, micro_batch : int
        Tokens of a sample, and samples.
    device : torch.device

    Returns
    -------
    Choice

    Raises
    ------
    ValueError
        If the backend of the settings does not exist or does not support this.
    """
    model = model_settings(settings, length)
    heads = model.num_attention_heads
    q = torch.empty(micro_batch, heads, length, model.hidden_size // heads, device=device)
    return explain(
        q,
        q,
        q,
        graph_of(settings, length),
        settings.block_size,
        dropout_p=settings.attention_dropout,
        backend=settings.backend,
    )
