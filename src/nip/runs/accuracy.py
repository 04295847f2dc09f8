"""What a run has achieved, beside what costs nothing to achieve."""

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
    """The 95 % interval of a share, by Wilson's score method.

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
    """How many answers were asked for and how many were right, and over the examples the sums of their squares.

    The squares tell how much more the answers of one example are alike than those of two.
    """

    right: int = 0
    asked: int = 0
    examples: int = 0
    right_squared: int = 0
    asked_squared: int = 0
    right_asked: int = 0

    @classmethod
    def counted(cls, right: NDArray[np.int64], asked: NDArray[np.int64]) -> AccuracyCounts:
        """Of the right and the asked answers in each example, both of shape (n,); who asks nothing is not counted."""
        right, asked = right.astype(np.int64), asked.astype(np.int64)
        sums = (right, asked, asked > 0, right * right, asked * asked, right * asked)
        return cls(*(int(each.sum()) for each in sums))

    @property
    def sums(self) -> tuple[int, ...]:
        """All six numbers; those of two sets of examples add up."""
        return (
            *(self.right, self.asked, self.examples),
            *(self.right_squared, self.asked_squared, self.right_asked),
        )

    def __add__(self, other: AccuracyCounts) -> AccuracyCounts:
        return AccuracyCounts(*(one + two for one, two in zip(self.sums, other.sums, strict=True)))

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.right / self.asked

    @property
    def effective(self) -> float:
        """How many independent answers would tell the accuracy as exactly.

        Answers within one example may be right or wrong together. The variance of the share is that of a ratio of sums
        over the examples, which are independent: n/(n − 1) · Σ(rᵢ − p aᵢ)² / (Σ aᵢ)², with rᵢ right answers of aᵢ.
        Where all are right, or none is, nothing tells how they hang together, and the examples are counted.
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
        """The accuracy's 95 % interval: Wilson's, for the number of answers that are as good as independent.

        References
        ----------
        .. [1] C. Franco et al., "Comparative study of confidence intervals for proportions in complex sample surveys",
           Journal of Survey Statistics and Methodology 7 (2019), 334: Wilson's with the effective sample size.

        Examples
        --------
        Four sequences of 100 queries each, of which all or none are answered, are worth no more than three answers:

        >>> alike = AccuracyCounts.counted(np.array([100, 0, 100, 100]), np.full(4, 100))
        >>> round(alike.effective, 6), [round(end, 2) for end in alike.interval]
        (3.0, [0.26, 0.96])
        """
        return wilson_interval(self.accuracy * self.effective, self.effective)


def learned(interval: tuple[float, float], baselines: Mapping[str, float]) -> bool:
    """Whether even the lower end lies above every accuracy that needs no learning."""
    return interval[0] > max(baselines.values())


def format_result(result: Mapping[str, Any]) -> str:
    """The result in two sentences.

    Examples
    --------
    >>> print(format_result({"test_accuracy": 0.38, "interval": [0.359, 0.401], "n_test": 2000, "best_step": 50,
    ...                 "dev_accuracy": 0.39, "learnt": False,
    ...                 "baselines": {"commonest_label": 0.17, "root_operator": 0.36}}))
    Test accuracy 38.0 % (95 % interval 35.9–40.1 %, 2,000 examples) with the weights of step 50.
    Not learnt: always the commonest label gives 17.0 %, knowing only the root operator 36.0 %.
    """
    low, high = result["interval"]
    baselines = result["baselines"]
    known = {"commonest_label": "always the commonest label gives", "root_operator": "knowing only the root operator"}
    beside = ", ".join(f"{known.get(name, name)} {format_percent(share)}" for name, share in baselines.items())
    number = f"{result['n_test']:,} examples"
    if "n_answers" in result:
        number = f"{result['n_answers']:,} answers in {number}"
    return (
        f"Test accuracy {format_percent(result['test_accuracy'])} (95 % interval {100 * low:.1f}–"
        f"{format_percent(high)}, {number}) with the weights of step {result['best_step']:,}.\n"
        f"{'Learnt' if result['learnt'] else 'Not learnt'}: {beside}."
    )
