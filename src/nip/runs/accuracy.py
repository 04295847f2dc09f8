"""Accuracy with its confidence interval, compared with the baselines that need no training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nip.formatting import format_percent

Z95 = 1.959963984540054


def wilson_interval(correct: float, n: float) -> tuple[float, float]:
    """The 95 % confidence interval of a proportion, by Wilson's score method.

    References
    ----------
    .. [1] E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927), 209.

    Examples
    --------
    >>> [round(end, 4) for end in wilson_interval(760, 2000)]
    [0.359, 0.4015]
    """
    share = correct / n
    centre = share + Z95**2 / (2 * n)
    half = Z95 * math.sqrt(share * (1 - share) / n + Z95**2 / (4 * n * n))
    scale = 1 + Z95**2 / n
    return max(0.0, min(share, (centre - half) / scale)), min(1.0, max(share, (centre + half) / scale))


@dataclass(frozen=True)
class AccuracyCounts:
    """Numbers of answers and of correct ones, and the sums of their squares and products over the examples.

    The squares measure how strongly the answers within one example are correlated.

    Parameters
    ----------
    right, asked : int
        Correct answers, and all answers.
    examples : int
        Examples with at least one answer.
    right_squared, asked_squared, right_asked : int
        Sums over the examples of r², a² and r·a, with r correct answers of a.
    """

    right: int = 0
    asked: int = 0
    examples: int = 0
    right_squared: int = 0
    asked_squared: int = 0
    right_asked: int = 0

    @classmethod
    def counted(cls, right: NDArray[np.int64], asked: NDArray[np.int64]) -> AccuracyCounts:
        """The counts of n examples, from the correct and all answers of each, both of shape (n,)."""
        right, asked = right.astype(np.int64), asked.astype(np.int64)
        sums = (right, asked, asked > 0, right * right, asked * asked, right * asked)
        return cls(*(int(each.sum()) for each in sums))

    @property
    def sums(self) -> tuple[int, ...]:
        """All six numbers, which are additive over sets of examples."""
        return (
            *(self.right, self.asked, self.examples),
            *(self.right_squared, self.asked_squared, self.right_asked),
        )

    def __add__(self, other: AccuracyCounts) -> AccuracyCounts:
        return AccuracyCounts(*(one + two for one, two in zip(self.sums, other.sums, strict=True)))

    @property
    def accuracy(self) -> float:
        """Correct answers by all answers."""
        return self.right / self.asked

    @property
    def effective(self) -> float:
        """The effective sample size: the number of independent answers that give the same variance.

        Answers within one example may be correlated. The accuracy p is a ratio of sums over independent examples, so
        its variance is n/(n − 1) · Σ(rᵢ − p aᵢ)² / (Σ aᵢ)², with rᵢ correct answers of aᵢ. Where all answers are
        correct, or none is, their correlation cannot be estimated, and the number of examples is returned.
        """
        p = self.accuracy
        if self.examples == self.asked:
            return float(self.asked)
        if p in (0.0, 1.0) or self.examples < 2:
            return float(self.examples)
        spread = self.right_squared - 2 * p * self.right_asked + p * p * self.asked_squared
        variance = self.examples / (self.examples - 1) * spread / self.asked**2
        return min(self.asked, p * (1 - p) / variance) if variance > 0 else float(self.asked)

    @property
    def interval(self) -> tuple[float, float]:
        """The accuracy's 95 % confidence interval: Wilson's, for the effective sample size.

        References
        ----------
        .. [1] C. Franco et al., "Comparative study of confidence intervals for proportions in complex sample surveys",
           Journal of Survey Statistics and Methodology 7 (2019), 334: Wilson's with the effective sample size.

        Examples
        --------
        Four sequences of 100 queries each, in which all or no queries are answered, count as three answers:

        >>> alike = AccuracyCounts.counted(np.array([100, 0, 100, 100]), np.full(4, 100))
        >>> round(alike.effective, 6), [round(end, 2) for end in alike.interval]
        (3.0, [0.26, 0.96])
        """
        return wilson_interval(self.accuracy * self.effective, self.effective)


def learned(interval: tuple[float, float], baselines: Mapping[str, float]) -> bool:
    """Whether the lower end of the 95 % interval is above every baseline that needs no training."""
    return interval[0] > max(baselines.values())


def format_result(result: Mapping[str, Any]) -> str:
    """A test result in two sentences.

    Examples
    --------
    >>> print(format_result({"test_accuracy": 0.38, "interval": [0.359, 0.401], "n_test": 2000, "best_step": 50,
    ...                 "dev_accuracy": 0.39, "learnt": False,
    ...                 "baselines": {"commonest_label": 0.17, "root_operator": 0.36}}))
    Test accuracy 38.0 % (95 % interval 35.9–40.1 %, 2,000 examples) with the weights of step 50.
    Not learned: always the commonest label gives 17.0 %, knowing only the root operator 36.0 %.
    """
    low, high = result["interval"]
    baselines = result["baselines"]
    known = {"commonest_label": "always the commonest label gives", "root_operator": "knowing only the root operator"}
    stated = ", ".join(f"{known.get(name, name)} {format_percent(share)}" for name, share in baselines.items())
    number = f"{result['n_test']:,} examples"
    if "n_answers" in result:
        number = f"{result['n_answers']:,} answers in {number}"
    weights = result["weights"] if "weights" in result else f"step {result['best_step']:,}"
    return (
        f"Test accuracy {format_percent(result['test_accuracy'])} (95 % interval {100 * low:.1f}–"
        f"{format_percent(high)}, {number}) with the weights of {weights}.\n"
        f"{'Learned' if result['learnt'] else 'Not learned'}: {stated}."
    )
