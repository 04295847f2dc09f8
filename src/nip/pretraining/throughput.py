"""How fast a run is, of what the device could do, and what it will have seen at the end of its budget.

What a run will have seen when its budget is spent, beside what published runs saw: told at its start.

A budget of hours trains less on a slower machine, and nothing else shows it; so tokens are forecast, and where they are
too few there is a warning.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nip.data.corpus import Corpus
from nip.formatting import format_count
from nip.pretraining.cost import matmul_peak, timed, work_of
from nip.pretraining.settings import Settings
from nip.pretraining.setup import new_model

TOKENS_PER_WEIGHT = 20.0
"""Below it a smaller model would be better for the same computation (arXiv 2203.15556, of causal models)."""


@dataclass(frozen=True)
class Published:
    """What a known run saw, padding counted."""

    name: str
    tokens: float


PUBLISHED = (
    Published("24hBERT (large, 23,000 steps of 4,096 × 128)", 12.1e9),
    Published("MosaicBERT (base, 70,000 steps of 4,096 × 128)", 36.7e9),
    Published("BERT (1,000,000 steps of 256 × 512)", 131e9),
)
"""From arXiv 2104.07705 and its authors' answers, arXiv 2312.17482 and arXiv 1810.04805."""


@dataclass(frozen=True)
class Stage:
    """A part of a run with samples of one length.

    Parameters
    ----------
    share : float
        Of the budget.
    tokens_per_step : float
    tokens_per_second : float
    """

    share: float
    tokens_per_step: float
    tokens_per_second: float


@dataclass(frozen=True)
class Forecast:
    """What a run will have done."""

    tokens: float
    steps: float
    seconds: float
    weights: int
    """Of the model."""
    corpus: int
    """Tokens of the corpus."""

    @property
    def sentences(self) -> list[str]:
        """For a reader, the figures first."""
        hours = f"{self.seconds / 3600:,.3g} h" if self.seconds >= 3600 else f"{self.seconds / 60:,.3g} min"
        steps = f"{self.steps:,.0f} step" + ("" if round(self.steps) == 1 else "s")
        published = "; ".join(f"{run.name} {format_count(run.tokens)}" for run in PUBLISHED)
        return [
            f"In {hours} this machine sees {format_count(self.tokens)} tokens in {steps}: "
            f"{self.tokens / self.seconds:,.0f} a second, {self.tokens / self.corpus:.3g} times the corpus, "
            f"{self.tokens / self.weights:.3g} for each weight.",
            f"Published runs saw: {published}.",
        ]

    @property
    def warning(self) -> str | None:
        """A sentence where the tokens are too few for the model."""
        wanted = TOKENS_PER_WEIGHT * self.weights
        if self.tokens >= wanted:
            return None
        return (
            f"{format_count(self.tokens)} tokens are few for {format_count(self.weights)} weights: "
            f"{format_count(wanted)} are {TOKENS_PER_WEIGHT:g} for each. "
            "A smaller model or a larger budget does better."
        )


def forecast(
    stages: Sequence[Stage],
    *,
    weights: int,
    corpus: int,
    max_steps: int | None = None,
    max_tokens: int | None = None,
    hours: float | None = None,
    exit_hours: float | None = None,
) -> Forecast:
    """What a run will have done at the end of its budget: of several, of the one that is spent first.

    Parameters
    ----------
    stages : sequence of Stage
        Their shares add up to 1.
    weights, corpus : int
        Of the model; and tokens of the corpus.
    max_steps, max_tokens, hours : optional
        Budgets, one at least.
    exit_hours : float, optional
        When the run ends even so; its last stages are then cut short, or not begun.

    Raises
    ------
    ValueError
        If there is no budget.

    Examples
    --------
    >>> slow = forecast([Stage(1.0, 1000, 50)], weights=1000, corpus=10_000, max_steps=10, hours=1.0)
    >>> slow.tokens, slow.steps, slow.seconds
    (10000.0, 10.0, 200.0)
    >>> stages = [Stage(0.5, 1000, 100), Stage(0.5, 1000, 50)]
    >>> forecast(stages, weights=1000, corpus=10_000, hours=1.0, exit_hours=0.75).tokens  # 1800 s × 100 + 900 s × 50
    225000.0
    """
    found = []
    if max_steps is not None:
        found.append([max_steps * stage.share * stage.tokens_per_step for stage in stages])
    if max_tokens is not None:
        found.append([max_tokens * stage.share for stage in stages])
    if hours is not None:
        found.append([3600 * hours * stage.share * stage.tokens_per_second for stage in stages])
    if not found:
        raise ValueError("A forecast needs a budget: steps, tokens or hours.")

    def seconds(tokens: Sequence[float]) -> float:
        return sum(each / stage.tokens_per_second for each, stage in zip(tokens, stages, strict=True))

    tokens = min(found, key=seconds)
    if exit_hours is not None:
        left, cut = 3600 * exit_hours, []
        for each, stage in zip(tokens, stages, strict=True):
            cut.append(min(each, left * stage.tokens_per_second))
            left -= cut[-1] / stage.tokens_per_second
        tokens = cut
    steps = sum(each / stage.tokens_per_step for each, stage in zip(tokens, stages, strict=True))
    return Forecast(sum(tokens), steps, seconds(tokens), weights, corpus)


def time_step(step: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """Seconds that a step takes, once it runs smoothly: a median of some, after one that does not count."""
    step()
    return statistics.median(timed(step, device) for _ in range(repeats))


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


def flops_per_token(settings: Settings, corpus: Corpus) -> list[float]:
    """FLOPs of training on a token, stage by stage."""
    found = []
    for length, _ in settings.lengths:
        with torch.device("meta"):
            model = new_model(settings, corpus.vocabulary, length)
        found.append(work_of(model, length, masked_in(settings, length, corpus.manifest["settings"])).total)
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


def forecast_run(
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
