"""The speed of a run: measured peak FLOP/s of the device, and a forecast of tokens, steps and time.

A budget of hours trains on fewer tokens on a slower machine. So the tokens are forecast, compared with those of
published runs, and a warning says if they are too few for the model.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nip.data.corpus import Corpus
from nip.formatting import format_count
from nip.pretraining.cost import training_flops
from nip.pretraining.settings import Settings
from nip.pretraining.setup import new_model
from nip.training.train_step import DTYPES

TOKENS_PER_WEIGHT = 20.0
"""With fewer, a smaller model is better for the same computation (arXiv 2203.15556, of causal models)."""
SLOW = 5e9  # FLOP/s of a processor without instructions for a precision, at most


@dataclass(frozen=True)
class Published:
    """Tokens of a published run, padding included."""

    name: str
    tokens: float


PUBLISHED = (
    Published("24hBERT (large, 23,000 steps of 4,096 × 128)", 12.1e9),
    Published("MosaicBERT (base, 70,000 steps of 4,096 × 128)", 36.7e9),
    Published("BERT (1,000,000 steps of 256 × 512)", 131e9),
)
"""From arXiv 2104.07705 and its authors' answers, arXiv 2312.17482 and arXiv 1810.04805."""


def flops_per_token(settings: Settings, corpus: Corpus) -> list[float]:
    """FLOPs of training on one token, by stage."""
    found = []
    for length, _ in settings.lengths:
        with torch.device("meta"):
            model = new_model(settings, corpus.vocabulary, length)
        masked = masked_per_sample(settings, length, corpus.manifest["settings"])
        found.append(training_flops(model, length, masked).total)
    return found


def masked_per_sample(settings: Settings, length: int, corpus: Mapping[str, Any] | None = None) -> float:
    """Masked tokens of a sample, on average.

    Parameters
    ----------
    settings : Settings
    length : int
        Tokens of a sample.
    corpus : mapping, optional
        The settings of the corpus; they decide if it was masked when it was made.

    Returns
    -------
    float

    Examples
    --------
    >>> masked_per_sample(Settings(max_steps=1, max_predictions=20), 128), masked_per_sample(Settings(max_steps=1), 512)
    (19.2, 76.8)
    >>> once = {"masked_once": True, "masked_lm_prob": 0.5, "max_predictions_per_seq": 9}
    >>> masked_per_sample(Settings(max_steps=1), 128, once)
    9.0
    """
    if corpus is not None and corpus["masked_once"]:
        return float(min(corpus["max_predictions_per_seq"], length * corpus["masked_lm_prob"]))
    return float(min(settings.max_predictions or length, length * settings.mask_probability))


def peak_flops(device: torch.device, precision: str | None) -> float:
    """Peak FLOP/s of one device in a precision, measured in a fraction of a second.

    It is the best of many tries: when other processes are running, most tries are disturbed, and the best of five can
    be a tenth of what the best of twenty repeatedly is.
    """
    dtype = DTYPES[precision or "fp32"]
    about = matmul_flops(device, dtype, side=256, tries=10)
    if about < SLOW:  # a large product would take seconds
        return about
    return max(about, matmul_flops(device, dtype, side=512 if device.type == "cpu" else 8192, tries=20))


def matmul_flops(device: torch.device, dtype: torch.dtype, *, side: int, tries: int) -> float:
    """FLOP/s of the fastest of several products of square matrices.

    Parameters
    ----------
    device : torch.device
    dtype : torch.dtype
    side : int
        Rows and columns.
    tries : int

    Returns
    -------
    float
        In FLOP/s.
    """
    a, b = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2.0 * side**3 / min(timed(lambda: torch.mm(a, b), device) for _ in range(tries))


def time_step(step: Callable[[], object], device: torch.device, repeats: int = 3) -> float:
    """Seconds of a step: the median of some repeats, after a warm-up.

    Parameters
    ----------
    step : callable
    device : torch.device
    repeats : int, default=3

    Returns
    -------
    float
        In seconds.
    """
    step()
    return statistics.median(timed(step, device) for _ in range(repeats))


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds that a call takes on a device."""
    _synchronize(device)
    began = time.perf_counter()
    call()
    _synchronize(device)
    return time.perf_counter() - began


def _synchronize(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


@dataclass(frozen=True)
class Forecast:
    """What a run will have done at its end."""

    tokens: float
    steps: float
    seconds: float
    weights: int
    """Of the model."""
    corpus: int
    """Tokens of the corpus."""

    @property
    def sentences(self) -> list[str]:
        """The forecast, and the tokens of published runs, as text."""
        hours = f"{self.seconds / 3600:,.3g} h" if self.seconds >= 3600 else f"{self.seconds / 60:,.3g} min"
        steps = f"{self.steps:,.0f} step" + ("" if round(self.steps) == 1 else "s")
        published = "; ".join(f"{run.name} {format_count(run.tokens)}" for run in PUBLISHED)
        return [
            f"In {hours} this machine trains on {format_count(self.tokens)} tokens in {steps}: "
            f"{self.tokens / self.seconds:,.0f} tokens/s, {self.tokens / self.corpus:.3g} epochs of the corpus, "
            f"{self.tokens / self.weights:.3g} tokens per weight.",
            f"Tokens of published runs: {published}.",
        ]

    @property
    def warning(self) -> str | None:
        """A warning if the tokens are too few for the model."""
        wanted = TOKENS_PER_WEIGHT * self.weights
        if self.tokens >= wanted:
            return None
        return (
            f"{format_count(self.tokens)} tokens are few for {format_count(self.weights)} weights: "
            f"{TOKENS_PER_WEIGHT:g} per weight are {format_count(wanted)}. "
            "A smaller model or a larger budget is better."
        )


@dataclass(frozen=True)
class Stage:
    """The part of a run with samples of one length.

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
    """Forecast a run to the end of its budget; of several budgets, the one that is used up first counts.

    Parameters
    ----------
    stages : sequence of Stage
        Their shares add up to 1.
    weights, corpus : int
        Weights of the model, and tokens of the corpus.
    max_steps, max_tokens, hours : optional
        Budgets, at least one.
    exit_hours : float, optional
        Hours after which the run ends in any case, which shortens or omits the last stages.

    Returns
    -------
    Forecast

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


def forecast_run(
    settings: Settings, flops: Sequence[float], speed: float, stage: int, *, fill: float, weights: int, corpus: int
) -> Forecast:
    """Forecast a run of some settings.

    Parameters
    ----------
    settings : Settings
    flops : sequence of float
        Of training on one token, by stage.
    speed : float
        Tokens per second in the stage of that number; other stages are assumed to have the same FLOP/s.
    stage : int
    fill : float
        Share of the tokens that are not padding.
    weights, corpus : int
        Weights of the model, and tokens of the corpus.

    Returns
    -------
    Forecast
    """
    stages = [
        Stage(share, mean_batch_size(settings) * length * fill, speed * flops[stage] / cost)
        for (length, share), cost in zip(settings.lengths, flops, strict=True)
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


def mean_batch_size(settings: Settings) -> float:
    """Samples of a step, on average over the budget.

    Examples
    --------
    >>> mean_batch_size(Settings(max_steps=1, batch_size=100, ramp_from=20, ramp_share=0.5))
    80.0
    """
    if settings.ramp_from is None:
        return float(settings.batch_size)
    growing = (settings.ramp_from + settings.batch_size) / 2
    return settings.ramp_share * growing + (1 - settings.ramp_share) * settings.batch_size
