"""Payload by distance: the payload not only of the farthest pairs but of the pairs at every distance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nip.graphs.pattern import Pattern, check_int
from nip.scoring.fast import token_degrees
from nip.scoring.sweep import batches, levels


@dataclass(frozen=True)
class PayloadAtDistance:
    """The information payload between all token pairs at one distance, as log10.

    Parameters
    ----------
    distance : int
    pairs : int
        Number of ordered pairs (a, b), information flowing from a to b.
    log10_least, log10_mean, log10_greatest : float
        log10 of the least, mean and greatest I(a, b) among them.
    """

    distance: int
    pairs: int
    log10_least: float
    log10_mean: float
    log10_greatest: float


def payload_by_distance(pattern: Pattern, block_size: int = 1) -> list[PayloadAtDistance]:
    """The payload at every distance that occurs, in ascending order; pairs without a path are not counted.

    Notes
    -----
    Takes O(n · (n + edges)) vectorized steps and bounded memory.

    Examples
    --------
    >>> from nip.graphs import pattern
    >>> cube = payload_by_distance(pattern("hypercube", 8))
    >>> [(row.distance, row.pairs, round(10**row.log10_mean, 3)) for row in cube]
    [(1, 24, 0.333), (2, 24, 0.222), (3, 8, 0.222)]
    """
    block_size = check_int("block_size", block_size, "payload_by_distance", minimum=1)
    degrees = token_degrees(pattern, block_size)
    with np.errstate(divide="ignore"):
        inverse = np.where(degrees > 0, 1 / degrees, 0.0)
        shares = block_size // degrees.shape[1] * inverse.sum(axis=1)
        # The payload differs within a block only if the pattern is causal.
        low, mean, high = np.log2(inverse[:, -1]), np.log2(inverse.mean(axis=1)), np.log2(inverse.max(axis=1))
    collected: dict[int, tuple[int, float, float, float]] = {}

    def collect(distance: int, pairs: int, least: float, total: float, greatest: float) -> None:
        before = collected.get(distance, (0, math.inf, -math.inf, -math.inf))
        collected[distance] = (
            before[0] + pairs,
            min(before[1], least),
            float(np.logaddexp2(before[2], total)),
            max(before[3], greatest),
        )

    if block_size > 1:
        inner = np.arange(block_size) if pattern.causal else np.full(degrees.shape[1], block_size - 1)
        heard = (inner > 0) & (degrees > 0)
        pairs = pattern.n * (block_size * (block_size - 1) // (2 if pattern.causal else 1))
        total = (inner * inverse).sum() * (block_size // degrees.shape[1])
        collect(1, pairs, -math.log2(degrees[heard].max()), math.log2(total), -math.log2(degrees[heard].min()))
    for batch in batches(pattern.indices, pattern.n, np.arange(pattern.n)):
        for distance, (states, logs, *_) in enumerate(levels(pattern.indptr, pattern.indices, shares, batch)):
            if distance:
                target = batch[states // pattern.n]
                total = np.logaddexp2.reduce(logs + mean[target]) + 2 * math.log2(block_size)
                pairs = states.size * block_size**2
                least, greatest = (logs + low[target]).min(), (logs + high[target]).max()
                collect(distance, pairs, float(least), float(total), float(greatest))
    two = math.log10(2)
    return [
        PayloadAtDistance(distance, pairs, least * two, total * two - math.log10(pairs), greatest * two)
        for distance, (pairs, least, total, greatest) in sorted(collected.items())
    ]
