"""The paper's own five points: accuracy on the Long Range Arena against NIP, and how robust their correlation is."""

from __future__ import annotations

import math
from typing import Any

from nip.study.statistics import Correlation, correlation, leave_one_out

# Average accuracy in percent and NIP relative to the complete graph, as the paper's code lists them (reference below);
# the first is dense attention, the last the hypercube; the other three are not named.
ACCURACY = (60.67, 59.69, 60.00, 59.99, 62.07)
NIP = (1.0, 1.43e-10, 0.0825, 0.0721, 4.85)
NAMES = ("complete", "third", "fourth", "fifth", "hypercube")
PRINTED = 0.96


def reproduced() -> dict[str, Any]:
    """The paper's correlation from its own numbers, with its uncertainty, as JSON values.

    Examples
    --------
    >>> found = reproduced()
    >>> round(found["pearson_r"], 3), round(found["pearson_r_squared"], 4), found["n"]
    (0.98, 0.9605, 5)

    References
    ----------
    .. [1] "What Dense Graph Do You Need for Self-Attention?", ICML 2022, arXiv 2205.14014.
    """
    plain = correlation(NIP, ACCURACY)
    ranks = correlation(NIP, ACCURACY, "spearman")
    logs = [math.log10(value) for value in NIP]
    of_logs = correlation(logs, ACCURACY)
    assert plain.r is not None and ranks.r is not None and of_logs.r is not None
    return {
        "pearson_r": plain.r,
        "pearson_r_squared": plain.r**2,
        "n": plain.n,
        "pearson_interval": _interval(plain),
        "pearson_p": plain.p,
        "without": dict(zip(NAMES, leave_one_out(NIP, ACCURACY), strict=True)),
        "spearman_r": ranks.r,
        "spearman_interval": _interval(ranks),
        "spearman_p": ranks.p,
        "log10_nip": {
            "pearson_r": of_logs.r,
            "pearson_interval": _interval(of_logs),
            "pearson_p": of_logs.p,
            "without": dict(zip(NAMES, leave_one_out(logs, ACCURACY), strict=True)),
        },
        "printed": PRINTED,
        "printed_explained": _explained(plain.r, leave_one_out(NIP, ACCURACY)[-1]),
        "points": [
            {"name": name, "accuracy": accuracy, "nip_relative": nip}
            for name, accuracy, nip in zip(NAMES, ACCURACY, NIP, strict=True)
        ],
    }


def in_words() -> str:
    """The same as sentences."""
    found = reproduced()
    logs = found["log10_nip"]
    low, high = found["pearson_interval"]
    without = {name: r for name, r in logs["without"].items() if r is not None}
    weakest, strongest = min(without, key=lambda name: without[name]), max(without, key=lambda name: without[name])
    return "\n".join(
        [
            f"Pearson's r of the paper's {found['n']} points (accuracy, NIP): {found['pearson_r']:.4f}; bootstrap "
            f"interval {low:.2f} to {high:.2f}, permutation p {found['pearson_p']:.4f}.",
            found["printed_explained"],
            f"Spearman's rho: {found['spearman_r']:.2f} (p {found['spearman_p']:.3f}, the lowest that five points in "
            "perfect order can give).",
            f"Against log10 NIP, r is {logs['pearson_r']:.3f} (p {logs['pearson_p']:.2f}): one point, of NIP 1.43e-10, "
            f"is ten orders of magnitude away from the others. Without one of the points it is between "
            f"{without[weakest]:.3f} (no {weakest}) and {without[strongest]:.3f} (no {strongest}).",
            "Five points, one seed each as far as is known, and a line that depends on two of them: this suggests a "
            "correlation, it does not show one.",
        ]
    )


def _interval(found: Correlation) -> list[float] | None:
    return None if found.interval is None else list(found.interval)


def _explained(r: float, without_hypercube: float | None) -> str:
    return (
        f"The paper prints {PRINTED}. That is r squared, {r**2:.4f}, to two digits; r itself rounds to {r:.2f}. "
        f"(Without the hypercube r would round to {without_hypercube:.2f} too; neither rank, log nor adjusted r "
        "squared does. The paper does not say which one is meant.)"
    )
