"""Metrics of classification and regression, from scikit-learn and scipy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def accuracy(predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    """The fraction of correct predictions."""
    return float(np.mean(predicted == labels))


def f1(predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    """F1 of label 1; 0 if it is neither predicted nor correct anywhere."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predicted, zero_division=0))


def matthews_correlation(predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    """Matthews correlation coefficient; 0 if all predictions or all labels are the same."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(labels, predicted))


def pearson(predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    """Pearson correlation; 0 if predictions or labels are constant."""
    from scipy import stats

    return _correlation(stats.pearsonr, predicted, labels)


def spearmanr(predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    """Spearman rank correlation; 0 if predictions or labels are constant."""
    from scipy import stats

    return _correlation(stats.spearmanr, predicted, labels)


METRICS: dict[str, Callable[[NDArray[Any], NDArray[Any]], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews_correlation": matthews_correlation,
    "pearson": pearson,
    "spearmanr": spearmanr,
}


def measure(names: Sequence[str], predicted: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
    """The metrics of these names; ``combined_score`` is the mean of the others.

    Parameters
    ----------
    names : sequence of str
        Of `METRICS`, or ``combined_score``.
    predicted, labels : ndarray of shape (n,)
        Class ids or numbers.

    Examples
    --------
    >>> import numpy as np
    >>> measure(["accuracy", "f1", "combined_score"], np.array([1, 1, 0, 0]), np.array([1, 0, 0, 0]))
    {'accuracy': 0.75, 'f1': 0.6666666666666666, 'combined_score': 0.7083333333333333}
    """
    found = {name: METRICS[name](predicted, labels) for name in names if name != "combined_score"}
    return {**found, "combined_score": float(np.mean(list(found.values())))} if "combined_score" in names else found


def _correlation(function: Callable[..., Any], predicted: NDArray[Any], labels: NDArray[Any]) -> float:
    if len(labels) < 2 or np.ptp(predicted) == 0 or np.ptp(labels) == 0:
        return 0.0
    value = float(function(predicted, labels)[0])
    return value if math.isfinite(value) else 0.0
