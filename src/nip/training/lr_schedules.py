"""The course of learning rate and momentum over a run: plain functions of the step, or of hours or tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(frozen=True)
class LRSchedule:
    """How a learning rate rises and falls between the start of a budget and its end.

    Positions, the total, `warmup` and `decay_step` are all in one unit: steps, hours or tokens. At position 0 the rate
    is 0 where there is a warmup, as in the original and in transformers.

    Parameters
    ----------
    curve : str
        Among `CURVES`.
    peak : float
        The largest learning rate.
    warmup : float
        Where the peak is reached, from 0 on.
    decay_rate, decay_step : float
        Of ``exp``: the rate falls by the factor `decay_rate` in every `decay_step`.
    decay_share : float
        Of ``warmup-stable-decay``: the share of the total at its end in which the rate falls, in (0, 1].

    Raises
    ------
    ValueError
        If there is no such curve.
    """

    curve: str
    peak: float
    warmup: float
    decay_rate: float = 0.99
    decay_step: float = 1000.0
    decay_share: float = 0.1

    def __post_init__(self) -> None:
        if self.curve not in CURVES:
            raise ValueError(f"There is no curve {self.curve!r}. The curves are {', '.join(CURVES)}.")

    def rate(self, position: float, total: float) -> float:
        """The learning rate at a position of a budget; after its end, that at the end.

        Examples
        --------
        >>> linear = LRSchedule("linear", 1.0, warmup=2.0)
        >>> [linear.rate(step, 10) for step in (0, 1, 2, 6, 10)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
        """
        position = min(position, total)
        if position < self.warmup:
            rising = position / self.warmup
            return self.peak * (rising**2 if self.curve == "exp" else rising)
        return self.peak * CURVES[self.curve](self, position, total)


def _linear(schedule: LRSchedule, position: float, total: float) -> float:
    return 1.0 - _since(schedule.warmup, position, total)


def _half_cosine(schedule: LRSchedule, position: float, total: float) -> float:
    return _cosine(1.0, 0.0, _since(schedule.warmup, position, total))


def _exponential(schedule: LRSchedule, position: float, total: float) -> float:
    return float(schedule.decay_rate ** ((position - schedule.warmup) / schedule.decay_step))


def _stable_then_falling(schedule: LRSchedule, position: float, total: float) -> float:
    # One minus a root falls fast at first, and was best among the forms that arXiv 2405.18392 (section 4) compares.
    start = max(schedule.warmup, total * (1.0 - schedule.decay_share))
    return 1.0 if position < start else 1.0 - math.sqrt(_since(start, position, total))


def _since(start: float, position: float, total: float) -> float:
    """The share of the way from `start` to the end."""
    return (position - start) / (total - start) if total > start else 1.0


CURVES: dict[str, Callable[[LRSchedule, float, float], float]] = {
    "linear": _linear,
    "exp": _exponential,
    "cosine": _half_cosine,
    "warmup-stable-decay": _stable_then_falling,
}
"""Share of the peak after the warmup. In ``exp`` alone the rate rises with the square of the position."""


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
