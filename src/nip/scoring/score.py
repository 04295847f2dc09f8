"""The score of a pattern: NIP, its components and graph statistics in one record."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from nip.graphs.pattern import Pattern, check_int
from nip.graphs.polygons import SMALLEST, native_size
from nip.scoring import sweep
from nip.scoring.fast import token_payload


@dataclass(frozen=True)
class Score:
    """How good a graph is for self-attention, before any training.

    Parameters
    ----------
    pattern, parameters
        The pattern's name and the parameters that rebuild it.
    n_vertices, block_size, n_tokens : int
        Blocks, tokens per block and their product. Everything below is about the n_tokens tokens.
    density : float
        Attended pairs, self edges included, over n_tokens².
    mean_degree, max_degree
        Number of tokens attended to, without the token itself.
    diameter : float
        The greatest distance; infinite if some token cannot reach another.
    cost : float
        CC = mean degree · diameter.
    payload : float or None
        IP, the least payload among the farthest pairs; 0 if disconnected, None for a single token. Very small
        numbers underflow to 0 here and stay exact in `log10_nip`.
    nip, nip_relative : float or None
        IP / CC, absolute and relative to the complete graph with the same number of tokens.
    log10_nip : float or None
        log10 of `nip`, exact at any size; −inf if `nip` is 0 because the graph is disconnected.
    bottleneck_nip, bottleneck_nip_relative : float or None
        The same as `nip` and `nip_relative`, discounted for congestion (`nip.scoring.congestion`).
    log10_nip_relative, log10_bottleneck_nip_relative : float or None
        log10 of the relative scores, exact at any size.
    connected : bool
        Whether every token is reached by every other (in a causal pattern: by every earlier one).
    worst_pair : (int, int) or None
        Blocks (a, b) of a farthest pair of least payload, information flowing from a to b; a pair without a path if
        disconnected.
    worst_path : tuple of int or None
        The blocks along one shortest path from a to b.
    method : str
        The algorithm, and which pairs are counted.
    native_n_vertices, native_nip_relative : int, float or None
        For a projective plane or generalized quadrangle: the size at which its geometry is neither doubled nor merged,
        and the relative score at that size and this block size; None for other patterns and causal ones.
    """

    pattern: str
    parameters: dict[str, Any]
    n_vertices: int
    block_size: int
    n_tokens: int
    density: float
    mean_degree: float
    max_degree: int
    diameter: float
    cost: float
    payload: float | None
    nip: float | None
    nip_relative: float | None
    log10_nip: float | None
    bottleneck_nip: float | None
    bottleneck_nip_relative: float | None
    log10_nip_relative: float | None
    log10_bottleneck_nip_relative: float | None
    connected: bool
    worst_pair: tuple[int, int] | None
    worst_path: tuple[int, ...] | None
    method: str
    native_n_vertices: int | None = None
    native_nip_relative: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as valid JSON values: infinite numbers become None."""
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in dataclasses.asdict(self).items()
        }


def score(pattern: Pattern, block_size: int = 1) -> Score:
    """Score a pattern, exactly.

    Parameters
    ----------
    pattern : Pattern
    block_size : int, default=1
        Tokens per vertex of the pattern. 1 is the paper's definition, in which the vertices attend; with b > 1 the
        score is that of the token graph, in which tokens are adjacent if their blocks are. The two differ: a hypercube
        of 128 blocks of 16 has 0.748 of the complete graph's NIP, its vertices alone 2.014.

    Returns
    -------
    Score

    Raises
    ------
    ValueError
        If the block size is not an integer of at least 1.

    Notes
    -----
    Takes O(n · (n + edges)) steps on the block graph, independent of the block size.

    Examples
    --------
    >>> import nip
    >>> cube = nip.score(nip.pattern("hypercube", 2048))
    >>> cube.diameter, round(cube.nip_relative, 4)
    (11, 4.8449)

    References
    ----------
    .. [1] "What Dense Graph Do You Need for Self-Attention?", ICML 2022, arXiv 2205.14014.
    """
    block_size = check_int("block_size", block_size, "score", minimum=1)
    tokens = token_payload(pattern, block_size)
    n_tokens = pattern.n * block_size
    connected = math.isfinite(tokens.diameter)
    cost = tokens.mean_degree * tokens.diameter if connected else math.inf
    log10_nip = log10_bottleneck = log10_relative = log10_bottleneck_relative = None
    if tokens.log10_payload is not None and tokens.log10_bottleneck_payload is not None:
        log10_complete = log10_complete_nip(n_tokens, causal=pattern.causal)
        log10_nip = tokens.log10_payload - math.log10(cost)
        log10_bottleneck = tokens.log10_bottleneck_payload - math.log10(cost)
        log10_relative = log10_nip - log10_complete
        log10_bottleneck_relative = log10_bottleneck - log10_complete
    native_n, native_relative = _native(pattern, block_size)
    return Score(
        pattern=pattern.name,
        parameters=dict(pattern.parameters),
        n_vertices=pattern.n,
        block_size=block_size,
        n_tokens=n_tokens,
        density=(tokens.mean_degree + 1) / n_tokens,
        mean_degree=tokens.mean_degree,
        max_degree=tokens.max_degree,
        diameter=tokens.diameter,
        cost=cost,
        payload=_power(tokens.log10_payload),
        nip=_power(log10_nip),
        nip_relative=_power(log10_relative),
        log10_nip=log10_nip,
        bottleneck_nip=_power(log10_bottleneck),
        bottleneck_nip_relative=_power(log10_bottleneck_relative),
        log10_nip_relative=log10_relative,
        log10_bottleneck_nip_relative=log10_bottleneck_relative,
        connected=connected,
        worst_pair=tokens.worst_pair,
        worst_path=tokens.worst_path,
        method=_method(pattern),
        native_n_vertices=native_n,
        native_nip_relative=native_relative,
    )


def log10_complete_nip(n_tokens: int, *, causal: bool = False) -> float:
    """log10 of the NIP of the complete graph: 1/(N − 1)², or 2/(N − 1)² if causality halves the mean degree."""
    return math.log10(2 if causal else 1) - 2 * math.log10(n_tokens - 1)


def _native(pattern: Pattern, block_size: int) -> tuple[int | None, float | None]:
    order = pattern.parameters.get("order")
    if pattern.name not in SMALLEST or order is None or pattern.causal:
        return None, None
    n = native_size(pattern.name, order)
    diameter = 3 if pattern.name == "projective_plane" else 4
    # q + 1 paths connect the farthest vertices, each through any token of diameter − 1 blocks
    degree = block_size * (order + 2) - 1
    payload = (order + 1) * block_size ** (diameter - 1) / degree**diameter
    return n, payload / (degree * diameter) * (n * block_size - 1) ** 2


def _power(exponent: float | None) -> float | None:
    return None if exponent is None else float(10.0**exponent)


def _method(pattern: Pattern) -> str:
    engine = "compiled" if sweep.COMPILED else "vectorized"
    if pattern.causal:
        pairs = "causal: ordered pairs, later attends to earlier; relative to the complete causal graph"
    elif pattern.symmetric:
        pairs = "undirected: all pairs"
    else:
        pairs = "directed: all ordered pairs, information flows from attended to attending"
    return f"exact, block graph, {engine}; {pairs}"
