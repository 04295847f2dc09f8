"""Time of scoring a pattern, compared with scipy's all-pairs distances, which are a part of a score."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from scipy.sparse.csgraph import shortest_path

from nip import graphs
from nip.bench.machine import Machine, this_machine
from nip.graphs.pattern import check_int
from nip.scoring import score

# Above these numbers of vertices or edges scipy's n × n distances take minutes and gigabytes and are not measured.
LARGEST_FOR_SCIPY = 2048
MOST_EDGES_FOR_SCIPY = 100_000


@dataclass(frozen=True)
class ScoringRow:
    """A measurement of a pattern at one size.

    Parameters
    ----------
    seconds : float
        Median time of `nip.score`: payload, congestion, worst pair and path, at token level.
    ratio_to_scipy : float or None
        Median over the pairs of calls of that time over the time of ``scipy.sparse.csgraph.shortest_path`` on the block
        graph, which computes the distances only: below 1 is faster. None if the graph is too large for it.
    """

    pattern: str
    n_tokens: int
    block_size: int
    n_vertices: int
    seconds: float
    ratio_to_scipy: float | None
    repeats: int
    machine: Machine

    def to_dict(self) -> dict[str, Any]:
        """JSON values, flat."""
        record = asdict(self)
        return {**{key: value for key, value in record.items() if key != "machine"}, **record["machine"]}


def bench_scoring(
    patterns: Sequence[str], lengths: Sequence[int], block_size: int = 16, *, repeats: int = 3
) -> Iterator[ScoringRow]:
    """Measure every pattern at every length; rows are yielded as they are measured.

    Parameters
    ----------
    patterns : sequence of str
        Names of patterns, with their default parameters.
    lengths : sequence of int
        Numbers of tokens.
    block_size : int, default=16
        Tokens per block.
    repeats : int, default=3
        Number of samples.

    Yields
    ------
    ScoringRow

    Raises
    ------
    ValueError
        If a pattern is unknown, or a number is below 1.
    """
    block_size = check_int("block_size", block_size, "bench scoring", minimum=1)
    repeats = check_int("repeats", repeats, "bench scoring", minimum=1)
    for name in patterns:
        graphs.pattern_parameters(name)
    lengths = [check_int("seq_len", length, "bench scoring", minimum=1) for length in lengths]
    return _measure(patterns, lengths, block_size, repeats)


def _measure(patterns: Sequence[str], lengths: Sequence[int], block_size: int, repeats: int) -> Iterator[ScoringRow]:
    machine = this_machine()
    score(graphs.pattern("hypercube", 8), block_size)  # compiles outside the measurement
    for length in lengths:
        for name in patterns:
            pattern = graphs.pattern(name, -(-length // block_size))
            adjacency = graphs.to_scipy(pattern)
            comparable = pattern.n <= LARGEST_FOR_SCIPY and pattern.n_edges <= MOST_EDGES_FOR_SCIPY
            ours, scipys = [], []
            for _ in range(repeats):
                ours.append(_seconds(partial(score, pattern, block_size)))
                if comparable:
                    scipys.append(_seconds(partial(shortest_path, adjacency, method="D", unweighted=True)))
            ratio = statistics.median(a / b for a, b in zip(ours, scipys, strict=True)) if comparable else None
            yield ScoringRow(
                pattern=name,
                n_tokens=pattern.n * block_size,
                block_size=block_size,
                n_vertices=pattern.n,
                seconds=statistics.median(ours),
                ratio_to_scipy=ratio,
                repeats=repeats,
                machine=machine,
            )


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


HEADER = ["pattern", "tokens", "vertices", "seconds", "time / scipy's distances"]


def cells(row: ScoringRow) -> list[str]:
    """The displayed texts of a row, in the order of `HEADER`."""
    ratio = "–" if row.ratio_to_scipy is None else f"{row.ratio_to_scipy:.2g}"
    return [row.pattern, f"{row.n_tokens:,}", f"{row.n_vertices:,}", f"{row.seconds:.3g}", ratio]


def caption(rows: Sequence[ScoringRow]) -> str:
    """The machine and the settings of the measurement."""
    return f"{rows[0].machine}; block {rows[0].block_size}; medians of {rows[0].repeats}"
