"""The course of learning rate and momentum over a run: plain functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable

START = 25.0  # the first learning rate is the peak over this …
END = 1e4  # … and the last one the first over this
BETA_LOW, BETA_HIGH = 0.85, 0.95
BETA = 0.9


def one_cycle(step: int, total: int, peak: float, warmup: float) -> tuple[float, float]:
    """Learning rate and first beta of the step of that number, counted from 0.

    The learning rate rises from ``peak / 25`` to `peak` and falls to ``peak / 250000``, each along half a cosine; beta
    falls from 0.95 to 0.85 and rises again. These are torch's ``OneCycleLR`` and its defaults. The original asks for
    no cycling of beta, but the default does it, so its runs had it.

    Parameters
    ----------
    step : int
        In [0, total).
    total : int
        Steps of the run. The schedule has no memory: a run that is continued with a larger total goes on at the place
        of its step in the longer schedule.
    peak : float
        The largest learning rate.
    warmup : float
        Share of the steps in which it rises, in (0, 1].

    References
    ----------
    .. [1] L. N. Smith, N. Topin, "Super-Convergence", arXiv 1708.07120.

    Examples
    --------
    >>> [round(one_cycle(step, 5, 1.0, 0.4)[0], 4) for step in range(5)]
    [0.04, 1.0, 0.75, 0.25, 0.0]
    """
    turn = warmup * total - 1
    first = peak / START
    if step <= turn:
        share = step / turn if turn else 1.0
        return _cosine(first, peak, share), _cosine(BETA_HIGH, BETA_LOW, share)
    share = (step - turn) / (total - 1 - turn)
    return _cosine(peak, first / END, share), _cosine(BETA_LOW, BETA_HIGH, share)


def warm_up_and_fall(step: int, total: int, peak: float, warmup: float) -> tuple[float, float]:
    """Learning rate and first beta of the step of that number, counted from 0, in the modern recipe.

    The learning rate rises along a line in the first ``warmup * total`` steps, then falls along half a cosine, and
    would be 0 at the step after the last; beta is 0.9. Parameters as in `one_cycle`.

    Examples
    --------
    >>> [round(warm_up_and_fall(step, 6, 1.0, 0.34)[0], 4) for step in range(6)]
    [0.3333, 0.6667, 1.0, 0.8536, 0.5, 0.1464]
    """
    rising = math.floor(warmup * total)
    if step < rising:
        return peak * (step + 1) / (rising + 1), BETA
    return _cosine(peak, 0.0, (step - rising) / (total - rising)), BETA


def warm_up_and_stay(step: int, total: int, peak: float, warmup: float) -> tuple[float, float]:
    """Learning rate and first beta of the step of that number: as `warm_up_and_fall`, but the rate stays at the peak.

    Examples
    --------
    >>> [round(warm_up_and_stay(step, 6, 1.0, 0.34)[0], 4) for step in range(6)]
    [0.3333, 0.6667, 1.0, 1.0, 1.0, 1.0]
    """
    return peak * min(1.0, (step + 1) / (math.floor(warmup * total) + 1)), BETA


Schedule = Callable[[int, int, float, float], tuple[float, float]]
SCHEDULES: dict[str, Schedule] = {"original": one_cycle, "modern": warm_up_and_fall, "constant": warm_up_and_stay}
"""By the name that a configuration gives, or that of its recipe."""


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
