"""Random regular graphs, the expanders of Exphormer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from nip.graphs.exchange import to_scipy
from nip.graphs.pattern import Pattern, check_int, not_traced

Integers = NDArray[np.int64]


@not_traced
def expander(n: int, *, degree: int | None = None, seed: int = 0) -> Pattern:
    """Draw a random connected undirected graph in which every vertex has the same degree.

    Parameters
    ----------
    n : int
        Number of vertices, at least 1.
    degree : int, optional
        Default: ⌈log2 n⌉ as in the hypercube, plus one if n · degree is odd, since then no such graph exists.
    seed : int, default=0
        The same seed gives the same graph on every machine: draws use the raw bits of a separate PCG64 generator.

    Returns
    -------
    Pattern

    Raises
    ------
    ValueError
        If no connected graph of that degree exists on n vertices.

    Notes
    -----
    Steger and Wormald's pairing: every vertex gets `degree` stubs, which are paired at random; pairs that form a self
    loop or a repeated edge are split and their stubs paired again. The draw restarts if the remaining stubs cannot be
    paired or the graph is disconnected, which is rare for degrees of 3 and more. A graph with more than half of all
    pairs is drawn as the complement of a sparser one. Nearly all such graphs are close to optimal expanders: the second
    eigenvalue is close to 2 √(degree − 1) (Friedman).

    References
    ----------
    .. [1] "Exphormer: Sparse Transformers for Graphs", ICML 2023, arXiv 2303.06147.
    .. [2] A. Steger and N. C. Wormald, "Generating random regular graphs quickly", 1999.

    Examples
    --------
    >>> expander(100)
    <Pattern expander, n=100, degree=7, seed=0; mean degree 7>
    """
    n = check_int("n", n, "expander", minimum=1)
    seed = check_int("seed", seed, "expander", minimum=0)
    if degree is None:
        degree = (n - 1).bit_length()
        degree += n * degree % 2
    degree = check_int("degree", degree, "expander", minimum=0)
    if degree >= n or n * degree % 2 or degree < min(n - 1, 2):
        raise ValueError(
            f"The 'degree' parameter of expander must be from {min(n - 1, 2)} to {n - 1} on {n} vertices, and "
            f"n · degree even: no other connected regular graph exists. Got {degree!r} instead."
        )
    generator = np.random.PCG64(seed)
    while True:
        edges = _regular(n, min(degree, n - 1 - degree), generator)
        if edges is None:
            continue
        if 2 * degree > n - 1:
            edges = np.setdiff1d(np.ravel_multi_index(np.triu_indices(n, 1), (n, n)), edges)
        parameters = {"degree": degree, "seed": seed}
        made = Pattern.from_edges(n, edges // n, edges % n, symmetric=True, name="expander", parameters=parameters)
        if connected_components(to_scipy(made))[0] == 1:
            return made


def _regular(n: int, degree: int, generator: np.random.PCG64) -> Integers | None:
    """The edges i · n + j, i < j, of a random regular graph; None if the last stubs cannot be paired."""
    edges = np.empty(0, dtype=np.int64)
    stubs = np.repeat(np.arange(n), degree)
    while stubs.size:
        order = np.argsort(generator.random_raw(stubs.size), kind="stable")  # 64 bits each: a uniform order
        i, j = np.sort(stubs[order].reshape(-1, 2)).T
        keys = i * n + j
        first = np.zeros(keys.size, dtype=bool)
        first[np.unique(keys, return_index=True)[1]] = True
        taken = first & (i != j) & ~np.isin(keys, edges)
        edges = np.concatenate([edges, keys[taken]])
        stubs = np.concatenate([i[~taken], j[~taken]])
        if not taken.any() and not _can_be_paired(stubs, edges, n):
            return None
    return edges


def _can_be_paired(stubs: Integers, edges: Integers, n: int) -> bool:
    """Whether any two vertices with stubs left are not adjacent yet."""
    ends = np.unique(stubs)
    i, j = (ends[index] for index in np.triu_indices(ends.size, 1))
    return bool((~np.isin(i * n + j, edges)).any())
