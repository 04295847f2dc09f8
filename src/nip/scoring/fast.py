"""Fast computation of `payload` and `congestion`: token-level scores from the block graph alone.

Tokens of adjacent blocks are adjacent, so the distance of two tokens of different blocks is that of their blocks, and
every shortest path between them enters one new block per step, in which it may use any token. With b tokens per block
and D = b · (blocks attended, own included) − 1 the degree of a token,

    I(token of block u, token of block v) = 1/D_v · Σ over shortest block paths of ∏ over interior blocks i of b/D_i.

The N × N matrix of tokens is never needed. In a causal pattern token t of a block attends to the t tokens before it in
the block, so D = b · (earlier blocks attended) + t differs within a block: an interior block passes on Σ_t 1/D(i, t),
and the token of a block with the least payload is its last.

The load of congestion is computed in the same way: the flow through a block is distributed over its tokens in
proportion to their shares.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nip.graphs.pattern import Pattern, check_int
from nip.scoring import sweep
from nip.scoring.congestion import congestion


@dataclass(frozen=True)
class TokenPayload:
    """The payload of a pattern at token level.

    Parameters
    ----------
    mean_degree : float
        Mean number of tokens a token attends to, without itself.
    max_degree : int
        Maximum of that number.
    diameter : float
        The greatest distance between two tokens; infinite if disconnected, 0 for a single token.
    log10_payload, log10_bottleneck_payload : float or None
        log10 of IP, plain and bottleneck-discounted; −inf if disconnected, None for a single token.
    worst_pair : (int, int) or None
        Blocks (a, b) of the first farthest pair of least payload, information flowing from a to b; if the graph is
        disconnected, of the first pair without a path. None for a single token.
    worst_path : tuple of int or None
        The blocks on one shortest path from a to b; None if there is none.
    """

    mean_degree: float
    max_degree: int
    diameter: float
    log10_payload: float | None
    log10_bottleneck_payload: float | None
    worst_pair: tuple[int, int] | None
    worst_path: tuple[int, ...] | None


def token_degrees(pattern: Pattern, block_size: int) -> NDArray[np.int64]:
    """The number of tokens a token attends to, without itself.

    Returns
    -------
    ndarray of shape (n, 1), or (n, block_size) if the pattern is causal and the tokens of a block differ.
    """
    if pattern.causal:
        degrees: NDArray[np.int64] = pattern.degrees[:, None] * block_size + np.arange(block_size)
        return degrees
    return (pattern.degrees[:, None] + 1) * block_size - 1


def token_payload(pattern: Pattern, block_size: int = 1, *, compiled: bool = sweep.COMPILED) -> TokenPayload:
    """Score a pattern with blocks of `block_size` tokens, exactly.

    Parameters
    ----------
    pattern : Pattern
        Of n blocks.
    block_size : int, default=1
        Tokens per block; 1 scores the pattern's own vertices.
    compiled : bool
        Use the loops compiled by numba; default: if it is installed.

    Returns
    -------
    TokenPayload

    Notes
    -----
    Takes O(n · (n + edges)) steps for the plain score and up to three times that with the discounted one; O(n + edges)
    memory with numba.
    """
    block_size = check_int("block_size", block_size, "score", minimum=1)
    degrees = token_degrees(pattern, block_size)
    mean_degree = float(degrees.mean())
    max_degree = int(degrees.max())
    if pattern.n * block_size == 1:
        return TokenPayload(0.0, 0, 0, None, None, None, None)
    if pattern.n == 1:  # one block: its tokens form a complete graph
        last = -math.log10(max_degree)
        return TokenPayload(mean_degree, max_degree, 1, last, last, (0, 0), (0, 0))

    with np.errstate(divide="ignore"):  # the first causal token attends to no other, and is interior to no path
        inverse = np.where(degrees > 0, 1 / degrees, 0.0)
        log2_end = -np.log2(degrees.max(axis=1))
    tokens = block_size // degrees.shape[1]  # tokens per entry of `degrees`
    shares = tokens * inverse.sum(axis=1)
    graph = (pattern.indptr, pattern.indices)
    far = sweep.farthest(*graph, shares, np.arange(pattern.n), causal=pattern.causal, compiled=compiled)
    if (far.distance < 0).any():
        target = int(np.argmax(far.distance < 0))
        pair = (int(far.source[target]), target)
        return TokenPayload(mean_degree, max_degree, math.inf, -math.inf, -math.inf, pair, None)

    diameter = int(far.distance.max())
    targets = np.flatnonzero(far.distance == diameter)
    log2_payload = (far.log2_payload + log2_end)[targets]
    target = int(targets[np.argmax(log2_payload <= log2_payload.min() + 1e-9)])
    pair = (int(far.source[target]), target)

    log2_bottleneck = log2_payload
    if diameter > 1:
        load = sweep.load(*graph, shares, targets, diameter, compiled=compiled)
        token_load = (load / np.where(shares > 0, shares, 1.0))[:, None] * inverse
        factors = congestion(token_load, load.sum() / (pattern.n * block_size))
        discounted = tokens * (inverse / factors).sum(axis=1)
        again = sweep.farthest(*graph, discounted, targets, causal=pattern.causal, compiled=compiled)
        log2_bottleneck = again.log2_payload + log2_end[targets]
    return TokenPayload(
        mean_degree,
        max_degree,
        diameter,
        float(log2_payload.min()) * math.log10(2),
        float(log2_bottleneck.min()) * math.log10(2),
        pair,
        tuple(sweep.path(*graph, *pair)),
    )
