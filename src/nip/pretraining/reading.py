"""What a report needs of a pretraining run's folder, without torch or transformers.

The folder's ``config.json`` is the model's; the run is told by ``run.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nip.lra.config import RunConfig
from nip.pretraining.output_dir import settings_of
from nip.pretraining.settings import size_of
from nip.runs.folder import RunFolder


def as_run_config(facts: Mapping[str, Any], folder: Path) -> RunConfig:
    """The run's settings in the terms of `RunConfig`, which a report compares and groups runs by.

    Where the budget counts no steps, those of the result are taken.

    Raises
    ------
    ValueError
        If ``run.json`` lacks something or holds what cannot be.
    """
    settings = settings_of(facts, folder)
    size = size_of(settings.size)
    width, heads = settings.width or size.hidden_size, settings.heads or size.num_attention_heads
    result = RunFolder(folder).result
    done: dict[str, Any] = json.loads(result.read_text("utf-8")) if result.is_file() else {}
    try:
        return RunConfig(
            task=facts["task"],
            seq_len=settings.tokens_at_most,
            positions=settings.positions or settings.tokens_at_most,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            warmup=settings.warmup or 1e-9,
            weight_decay=settings.weight_decay,
            beta2=settings.beta2,
            dropout=settings.dropout,
            attention_dropout=settings.attention_dropout,
            max_steps=settings.max_steps or done.get("steps") or 1,
            eval_every=settings.eval_every,
            eval_steps=None,
            model=settings.model,
            parameters=settings.parameters,
            block_size=settings.block_size,
            checksum=facts["checksum"],
            seed=settings.seed,
            data=facts["data"]["train"],
            layers=settings.layers or size.num_hidden_layers,
            repeats=1,
            width=width,
            heads=heads,
            head_dim=width // heads,
            inner_width=settings.inner_width or size.intermediate_size,
            gradient_checkpointing=settings.gradient_checkpointing,
            backend=settings.backend,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'run.json'} is damaged: {error}.") from error
