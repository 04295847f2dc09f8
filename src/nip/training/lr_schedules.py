"""Learning-rate schedules: plain functions of the step, or of the hours or tokens of a budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

DIV_FACTOR = 25.0  # of one_cycle, as torch names it: the peak over the first learning rate …
FINAL_DIV_FACTOR = 1e4  # … and the first one over the last
BETA_LOW, BETA_HIGH = 0.85, 0.95
BETA = 0.9


def one_cycle(step: int, total: int, peak: float, warmup: float) -> tuple[float, float]:
    """Learning rate and Adam's beta1 of torch's ``OneCycleLR`` with its defaults.

    The learning rate rises from ``peak / 25`` to `peak` and falls to ``peak / 250000``, each along half a cosine; beta1
    falls from 0.95 to 0.85 and rises again. The original code does not ask for cycling beta1, but the default cycles
    it, so its runs had it.

    Parameters
    ----------
    step : int
        In [0, total).
    total : int
        Steps of the run. The schedule is a function of its arguments: a run that is continued with a larger total
        continues at its step of the longer schedule.
    peak : float
        The largest learning rate.
    warmup : float
        Share of the steps in which the learning rate rises, in (0, 1].

    Returns
    -------
    (float, float)
        Learning rate and beta1.

    References
    ----------
    .. [1] L. N. Smith, N. Topin, "Super-Convergence", arXiv 1708.07120.

    Examples
    --------
    >>> [round(one_cycle(step, 5, 1.0, 0.4)[0], 4) for step in range(5)]
    [0.04, 1.0, 0.75, 0.25, 0.0]
    """
    turn = warmup * total - 1
    first = peak / DIV_FACTOR
    if step <= turn:
        share = step / turn if turn else 1.0
        return _cosine(first, peak, share), _cosine(BETA_HIGH, BETA_LOW, share)
    share = (step - turn) / (total - 1 - turn)
    return _cosine(peak, first / FINAL_DIV_FACTOR, share), _cosine(BETA_LOW, BETA_HIGH, share)


def warmup_cosine(step: int, total: int, peak: float, warmup: float) -> tuple[float, float]:
    """Learning rate and Adam's beta1 of the modern recipe: linear warmup, then cosine decay; beta1 is 0.9.

    The learning rate reaches 0 one step after the last.

    Parameters
    ----------
    step, total, peak, warmup
        As for `one_cycle`.

    Examples
    --------
    >>> [round(warmup_cosine(step, 6, 1.0, 0.34)[0], 4) for step in range(6)]
    [0.3333, 0.6667, 1.0, 0.8536, 0.5, 0.1464]
    """
    rising = math.floor(warmup * total)
    if step < rising:
        return peak * (step + 1) / (rising + 1), BETA
    return _cosine(peak, 0.0, (step - rising) / (total - rising)), BETA


def warmup_constant(step: int, total: int, peak: float, warmup: float) -> tuple[float, float]:
    """Learning rate and Adam's beta1: linear warmup as in `warmup_cosine`, then constant at the peak.

    Parameters
    ----------
    step, total, peak, warmup
        As for `one_cycle`.

    Examples
    --------
    >>> [round(warmup_constant(step, 6, 1.0, 0.34)[0], 4) for step in range(6)]
    [0.3333, 0.6667, 1.0, 1.0, 1.0, 1.0]
    """
    return peak * min(1.0, (step + 1) / (math.floor(warmup * total) + 1)), BETA


SCHEDULES = {"original": one_cycle, "modern": warmup_cosine, "constant": warmup_constant}
"""By the name in a configuration of Long Range Arena; the first two are those of the recipe of that name."""


@dataclass(frozen=True)
class LRSchedule:
    """A learning rate that rises and decays between the start of a budget and its end.

    Positions, the total, `warmup` and `decay_step` have one unit: steps, hours or tokens. With warmup, the learning
    rate at position 0 is 0, as in the original code and in transformers.

    Parameters
    ----------
    curve : str
        One of `CURVES`.
    peak : float
        The largest learning rate.
    warmup : float
        The position at which the peak is reached.
    decay_rate, decay_step : float
        Of ``exp``: the rate is multiplied by `decay_rate` in every `decay_step`.
    decay_share : float
        Of ``warmup-stable-decay``: the share of the total, at its end, in which the rate decays, in (0, 1].

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
        """The learning rate at a position of a budget; after the budget's end, that at its end.

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
    return 1.0 - _share_of_decay(schedule.warmup, position, total)


def _half_cosine(schedule: LRSchedule, position: float, total: float) -> float:
    return _cosine(1.0, 0.0, _share_of_decay(schedule.warmup, position, total))


def _exponential(schedule: LRSchedule, position: float, total: float) -> float:
    return float(schedule.decay_rate ** ((position - schedule.warmup) / schedule.decay_step))


def _stable_decay(schedule: LRSchedule, position: float, total: float) -> float:
    # 1 − sqrt decays fast at first, and was best among the forms that arXiv 2405.18392 (section 4) compares
    start = max(schedule.warmup, total * (1.0 - schedule.decay_share))
    return 1.0 if position < start else 1.0 - math.sqrt(_share_of_decay(start, position, total))


CURVES: dict[str, Callable[[LRSchedule, float, float], float]] = {
    "linear": _linear,
    "exp": _exponential,
    "cosine": _half_cosine,
    "warmup-stable-decay": _stable_decay,
}
"""The share of the peak after the warmup. With ``exp`` the warmup is quadratic, else linear."""


def _share_of_decay(start: float, position: float, total: float) -> float:
    return (position - start) / (total - start) if total > start else 1.0


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))
