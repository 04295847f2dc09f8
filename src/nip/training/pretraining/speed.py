"""How fast a run is, of what the device could do, and what it will have seen at the end of its budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from nip.training.pretraining.flops import matmul_peak, work_of
from nip.training.pretraining.forecast import Forecast, Stage, forecast
from nip.training.pretraining.run import Run, new_model
from nip.training.pretraining.settings import Settings

SLOW = 5e9  # FLOPs a second
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def masked_in(settings: Settings, length: int, made: Mapping[str, Any] | None = None) -> float:
    """Masked tokens of a sample of that length.

    Parameters
    ----------
    settings : Settings
    length : int
    made : mapping, optional
        The corpus's settings; where it was masked once, they decide.

    Examples
    --------
    >>> masked_in(Settings(max_steps=1, max_predictions=20), 128), masked_in(Settings(max_steps=1), 512)
    (19.2, 76.8)
    >>> once = {"masked_once": True, "masked_lm_prob": 0.5, "max_predictions_per_seq": 9}
    >>> masked_in(Settings(max_steps=1), 128, once)
    9.0
    """
    if made is not None and made["masked_once"]:
        return float(min(made["max_predictions_per_seq"], length * made["masked_lm_prob"]))
    return float(min(settings.max_predictions or length, length * settings.mask_probability))


def works(settings: Settings, run: Run) -> list[float]:
    """FLOPs of training on a token, stage by stage."""
    found = []
    for length, _ in settings.lengths:
        with torch.device("meta"):
            model = new_model(settings, run.corpus.vocabulary, length)
        found.append(work_of(model, length, masked_in(settings, length, run.corpus.manifest["settings"])).total)
    return found


def peak_of(device: torch.device, precision: str | None) -> float:
    """FLOPs a second of one device in a precision, measured in a fraction of a second.

    The best of many tries: beside other work most of them meet another process, and the best of five has been seen at a
    tenth of what the best of twenty says again and again.
    """
    dtype = DTYPES[precision or "fp32"]
    about = matmul_peak(device, dtype, side=256, tries=10)
    if about < SLOW:  # a processor without instructions for it: the product of large matrices would take seconds
        return about
    return max(about, matmul_peak(device, dtype, side=512 if device.type == "cpu" else None, tries=20))


def mean_batch(settings: Settings) -> float:
    """Samples of a step on average over the budget.

    Examples
    --------
    >>> mean_batch(Settings(max_steps=1, batch_size=100, ramp_from=20, ramp_share=0.5))
    80.0
    """
    if settings.ramp_from is None:
        return float(settings.batch_size)
    growing = (settings.ramp_from + settings.batch_size) / 2
    return settings.ramp_share * growing + (1 - settings.ramp_share) * settings.batch_size


def outlook(
    settings: Settings, flops: Sequence[float], speed: float, stage: int, *, fill: float, weights: int, corpus: int
) -> Forecast:
    """What the run will have seen.

    Parameters
    ----------
    flops : sequence of float
        Of a token, stage by stage.
    speed : float
        Tokens a second in the stage of that number; in the others, as many FLOPs a second.
    fill : float
        Share of the tokens that are no padding.
    weights, corpus : int
        Of the model; and tokens of the corpus.
    """
    stages = [
        Stage(share, mean_batch(settings) * length * fill, speed * flops[stage] / work)
        for (length, share), work in zip(settings.lengths, flops, strict=True)
    ]
    return forecast(
        stages,
        weights=weights,
        corpus=corpus,
        max_steps=settings.max_steps,
        max_tokens=settings.max_tokens,
        hours=settings.hours,
        exit_hours=settings.early_exit_hours,
    )
