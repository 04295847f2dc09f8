"""Attention over a pattern against torch's dense attention: time and peak memory, side by side.

Times are taken alternately, one call of each, so that a machine that is busy for a moment slows both; the ratio of each
pair is what counts, and the median of these ratios is what is told.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from nip import graphs
from nip.attention import BACKENDS, attend, explain
from nip.bench.machine import Machine, this_machine
from nip.bench.memory import peak_mib
from nip.graphs.pattern import Pattern, check_int

if TYPE_CHECKING:
    from rich.table import Table

DENSE = "torch-sdpa"
"""What every backend is compared with: `torch.nn.functional.scaled_dot_product_attention` without a mask."""

DIRECTIONS = ("forward", "forward+backward")


@dataclass(frozen=True)
class Case:
    """One problem: self-attention of `batch` sequences over a pattern."""

    pattern: str
    n_tokens: int
    block_size: int = 16
    batch: int = 4
    heads: int = 4
    head_dim: int = 32
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("n_tokens", "block_size", "batch", "heads", "head_dim"):
            check_int(name, getattr(self, name), "bench attention", minimum=1)
        if self.dtype not in {"float16", "bfloat16", "float32", "float64"}:
            raise ValueError(
                f"The 'dtype' parameter of bench attention must be float16, bfloat16, float32 or float64. "
                f"Got {self.dtype!r} instead."
            )


@dataclass(frozen=True)
class Row:
    """One backend on one case."""

    backend: str
    case: Case
    direction: str
    """A pass through attention: forward, or forward+backward."""
    ms: float
    """Median time of a call."""
    ratio_to_dense: float
    """Median over the pairs of calls of time / time of torch's dense attention: below 1 is faster."""
    repeats: int
    peak_mib: float | None
    """Memory beside the inputs; None where it was not measured."""
    machine: Machine

    def to_dict(self) -> dict[str, Any]:
        """JSON values, flat."""
        return {
            "backend": self.backend,
            **asdict(self.case),
            "pass": self.direction,
            "ms": self.ms,
            "ratio_to_dense": self.ratio_to_dense,
            "repeats": self.repeats,
            "peak_mib": self.peak_mib,
            **asdict(self.machine),
        }


def bench_attention(
    cases: Sequence[Case],
    backends: Sequence[str] = ("auto",),
    directions: Sequence[str] = DIRECTIONS,
    *,
    repeats: int = 7,
    memory: bool = True,
) -> Iterator[Row]:
    """Measure every case with every backend and with dense attention; rows come as they are measured.

    Parameters
    ----------
    cases : sequence of Case
    backends : sequence of str
        Names as `attend` takes them; a row tells which backend "auto" took.
    directions : sequence of str
        Among `DIRECTIONS`.
    repeats : int, default=7
        Pairs of calls, after one that is not counted.
    memory : bool, default=True
        Also measure peak memory, each in a process of its own.

    Raises
    ------
    ValueError
        If a pattern, backend or direction is unknown, or a backend cannot do this.
    """
    check_int("repeats", repeats, "bench attention", minimum=1)
    for direction in directions:
        if direction not in DIRECTIONS:
            raise ValueError(f"There is no pass {direction!r}. The passes are {', '.join(DIRECTIONS)}.")
    for name in backends:
        if name != "auto" and name not in BACKENDS:
            raise ValueError(f"There is no attention backend {name!r}. The backends are auto, {', '.join(BACKENDS)}.")
    for pattern in {case.pattern for case in cases}:
        graphs.pattern_parameters(pattern)
    return _measure_all(cases, backends, directions, repeats, memory=memory)


def _measure_all(
    cases: Sequence[Case], backends: Sequence[str], directions: Sequence[str], repeats: int, *, memory: bool
) -> Iterator[Row]:
    machine = this_machine()
    for case in cases:
        taken = list(dict.fromkeys(_taken(case, name) for name in backends))
        for direction in directions:
            names = [DENSE, *taken]
            times = _times({name: prepare(case, name, direction) for name in names}, repeats)
            for name in names:
                yield Row(
                    backend=name,
                    case=case,
                    direction=direction,
                    ms=statistics.median(times[name]),
                    ratio_to_dense=statistics.median(
                        own / dense for own, dense in zip(times[name], times[DENSE], strict=True)
                    ),
                    repeats=repeats,
                    peak_mib=peak_mib(case, name, direction, machine.threads) if memory else None,
                    machine=machine,
                )


def prepare(case: Case, backend: str, direction: str) -> Callable[[], object]:
    """One call of attention on random inputs, ready to be measured."""
    generator = torch.Generator().manual_seed(0)
    with_backward = direction == "forward+backward"
    dtype = getattr(torch, case.dtype)
    q, k, v, gradient = (
        torch.randn(case.batch, case.heads, case.n_tokens, case.head_dim, generator=generator).to(dtype)
        for _ in range(4)
    )
    for x in (q, k, v):
        x.requires_grad_(with_backward)
    pattern = _pattern(case)

    def forward() -> torch.Tensor:
        if backend == DENSE:
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return attend(q, k, v, pattern, case.block_size, backend=backend)

    def call() -> object:
        out = forward()
        return torch.autograd.grad(out, (q, k, v), gradient) if with_backward else out

    return call


def _times(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each call, taken alternately."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    return times


def _pattern(case: Case) -> Pattern:
    return graphs.pattern(case.pattern, -(-case.n_tokens // case.block_size))


def _taken(case: Case, backend: str) -> str:
    """The backend that attend takes for that name."""
    like = torch.empty(case.batch, case.heads, case.n_tokens, case.head_dim, dtype=getattr(torch, case.dtype))
    return explain(like, like, like, _pattern(case), case.block_size, backend=backend).backend


def _cells(row: Row) -> list[str]:
    case = row.case
    peak = "" if row.peak_mib is None else f"{row.peak_mib:,.0f}"
    ratio = "1" if row.backend == DENSE else f"{row.ratio_to_dense:.3g}"
    pattern = "dense" if row.backend == DENSE else case.pattern
    return [pattern, f"{case.n_tokens:,}", row.direction, row.backend, f"{row.ms:,.1f}", ratio, peak]


_HEADER = ["pattern", "tokens", "pass", "backend", "ms", "time / dense", "peak MiB"]


def _caption(rows: Sequence[Row]) -> str:
    case, first = rows[0].case, rows[0]
    shape = f"batch {case.batch}, {case.heads} heads of {case.head_dim}, block {case.block_size}, {case.dtype}"
    return f"{first.machine}; {shape}; medians of {first.repeats}"


def to_table(rows: Sequence[Row]) -> Table:
    """The rows for a terminal."""
    from rich.table import Table

    table = Table(title=_caption(rows), title_justify="left")
    for name in _HEADER:
        table.add_column(name, justify="left" if name in {"pattern", "pass", "backend"} else "right")
    for row in rows:
        table.add_row(*_cells(row))
    return table


def to_markdown(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table under a line that tells how they were measured."""
    lines = [_caption(rows), "", f"| {' | '.join(_HEADER)} |", "|---|--:|---|---|--:|--:|--:|"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in rows]
    return "\n".join(lines) + "\n"
