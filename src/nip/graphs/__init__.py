"""Attention patterns: generators, operations on graphs, and conversion to and from other libraries' formats."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from nip.graphs.compose import causal, corner, lift, permute, rename, undirected, union
from nip.graphs.exchange import from_mask, from_networkx, from_scipy, to_mask, to_networkx, to_scipy
from nip.graphs.expander import expander
from nip.graphs.graph_files import GraphFileWarning, read_graph, write_graph
from nip.graphs.hypercube import hypercube
from nip.graphs.pattern import Pattern, not_traced
from nip.graphs.polygons import SMALLEST, generalized_quadrangle, projective_plane
from nip.graphs.random import bigbird, local_random, random_rows
from nip.graphs.windows import complete, global_tokens, local_window, longformer

__all__ = [
    "PATTERNS",
    "GraphFileWarning",
    "Pattern",
    "bigbird",
    "causal",
    "complete",
    "corner",
    "expander",
    "from_mask",
    "from_networkx",
    "from_scipy",
    "generalized_quadrangle",
    "global_tokens",
    "hypercube",
    "lift",
    "local_random",
    "local_window",
    "longformer",
    "names_at",
    "pattern",
    "pattern_parameters",
    "permute",
    "projective_plane",
    "random_rows",
    "read_graph",
    "rename",
    "to_mask",
    "to_networkx",
    "to_scipy",
    "undirected",
    "union",
    "write_graph",
]

PATTERNS: dict[str, Callable[..., Pattern]] = {
    "softmax": complete,
    "hypercube": hypercube,
    "bigbird": bigbird,
    "longformer": longformer,
    "global": global_tokens,
    "local": local_window,
    "random": random_rows,
    "local+random": local_random,
    "projective_plane": projective_plane,
    "generalized_quadrangle": generalized_quadrangle,
    "expander": expander,
}


@not_traced
def pattern(name: str, n: int, *, causal: bool = False, **parameters: Any) -> Pattern:
    """Build a registered pattern; the same name, n and parameters always give the same graph.

    Parameters
    ----------
    name : str
        One of `PATTERNS`: softmax, hypercube, bigbird, longformer, global, local, random, local+random,
        projective_plane, generalized_quadrangle, expander.
    n : int
        Number of vertices (blocks), at least 1.
    causal : bool, default=False
        Keep attention to earlier blocks and tokens only.
    **parameters
        Keyword parameters of the pattern's function, such as ``num_random_blocks`` or ``seed``.

    Returns
    -------
    Pattern

    Raises
    ------
    ValueError
        If the name is unknown, the pattern has no such parameter, or a value is out of range.

    Examples
    --------
    >>> pattern("random", 128, num_random_blocks=2)
    <Pattern random, n=128, num_random_blocks=2, seed=0, symmetric=False; mean degree 2>
    """
    known = pattern_parameters(name)
    for parameter in parameters:
        if parameter not in known:
            takes = f"It takes {', '.join(known)}." if known else "It takes only causal."
            raise ValueError(f"The pattern {name!r} has no parameter {parameter!r}. {takes}")
    if not isinstance(causal, bool):
        raise ValueError(f"The 'causal' parameter of {name} must be true or false. Got {causal!r} instead.")
    made = PATTERNS[name](n, **parameters)
    return _causal(made) if causal else made


def names_at(n: int) -> list[str]:
    """The names of the patterns that exist on n vertices; only the finite geometries have a minimum size.

    Examples
    --------
    >>> [name for name in PATTERNS if name not in names_at(16)]
    ['generalized_quadrangle']
    """
    return [name for name in PATTERNS if n >= SMALLEST.get(name, 1)]


def pattern_parameters(name: str) -> dict[str, Any]:
    """The parameters of the named pattern other than n and causal, with their defaults."""
    if name not in PATTERNS:
        raise ValueError(f"There is no pattern {name!r}. The patterns are {', '.join(PATTERNS)}.")
    signature = inspect.signature(PATTERNS[name])
    return {p.name: p.default for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}


_causal = causal
