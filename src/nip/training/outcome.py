"""What a run has achieved, beside what costs nothing to achieve."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Z95 = 1.959963984540054


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
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


def learnt(interval: tuple[float, float], baselines: Mapping[str, float]) -> bool:
    """Whether even the lower end lies above every accuracy that needs no learning."""
    return interval[0] > max(baselines.values())


def in_words(result: Mapping[str, Any]) -> str:
    """The result in two sentences.

    Examples
    --------
    >>> print(in_words({"test_accuracy": 0.38, "interval": [0.359, 0.401], "n_test": 2000, "best_step": 50,
    ...                 "dev_accuracy": 0.39, "learnt": False,
    ...                 "baselines": {"commonest_label": 0.17, "root_operator": 0.36}}))
    Test accuracy 38.0 % (95 % interval 35.9–40.1 %, 2,000 examples) with the weights of step 50.
    Not learnt: always the commonest label gives 17.0 %, knowing only the root operator 36.0 %.
    """
    low, high = result["interval"]
    baselines = result["baselines"]
    known = {"commonest_label": "always the commonest label gives", "root_operator": "knowing only the root operator"}
    beside = ", ".join(f"{known.get(name, name)} {100 * share:.1f} %" for name, share in baselines.items())
    return (
        f"Test accuracy {100 * result['test_accuracy']:.1f} % (95 % interval {100 * low:.1f}–{100 * high:.1f} %, "
        f"{result['n_test']:,} examples) with the weights of step {result['best_step']:,}.\n"
        f"{'Learnt' if result['learnt'] else 'Not learnt'}: {beside}."
    )
