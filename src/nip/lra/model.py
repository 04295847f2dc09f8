"""The encoder's sizes and the attention backend of a configuration."""

from __future__ import annotations

import torch

from nip.attention import Choice, explain
from nip.data import TASKS
from nip.graphs import Pattern
from nip.lra.config import RunConfig
from nip.models import EncoderConfig


def encoder_config(config: RunConfig) -> EncoderConfig:
    """The sizes of the encoder of a configuration."""
    task, modern = TASKS[config.task], config.recipe == "modern"
    return EncoderConfig(
        vocab_size=task.vocab_size,
        n_classes=task.n_classes,
        length=config.seq_len,
        positions=config.positions,
        block_size=config.block_size,
        width=config.width,
        heads=config.heads,
        head_dim=config.head_dim,
        inner_width=config.inner_width,
        layers=config.layers,
        repeats=config.repeats,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout_here,
        mean_over_padding=config.protocol == "original",
        pair=task.pair,
        per_token=task.targets,
        rotary=modern,
        columns=task.shape[1] if modern and task.shape else None,
        gated=modern,
        masked=modern,
        gradient_checkpointing=config.gradient_checkpointing,
        head_width=config.head_width,
        token_std=config.token_std,
        parts=task.parts,
    )


def attention_choice(config: RunConfig, graph: Pattern, device: torch.device) -> Choice:
    """The attention backend for a micro-batch of full inputs.

    Parameters
    ----------
    config : RunConfig
        Resolved.
    graph : Pattern
    device : torch.device

    Returns
    -------
    Choice

    Raises
    ------
    ValueError
        If the configuration's backend does not exist or does not support this.
    """
    sizes = encoder_config(config)
    assert config.gradient_accumulation
    micro_batch = -(-config.batch_size // config.gradient_accumulation)
    q = torch.empty(micro_batch, sizes.heads, config.seq_len, sizes.head_dim, device=device)
    return explain(q, q, q, graph, config.block_size, dropout_p=sizes.attention_dropout, backend=config.backend)
