"""Tables of attention measurements for a terminal or a page, and the growth of times with the number of tokens."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nip.bench.rows import DENSE, Row

if TYPE_CHECKING:
    from rich.table import Table

LONG = 2048
"""Growth is fitted to lengths of at least this number of tokens: below, the fixed cost of a call is not negligible."""

_HEADER = ["pattern", "tokens", "block", "dtype", "pass", "backend", "ms", "times dense", "1 / density"]
_HEADER += ["GFLOP/s", "of sgemm", "quiet", "peak MiB"]
TEXT_COLUMNS = {"pattern", "dtype", "pass", "backend", "way", "attention", "output", "step", "operations"}
"""Headings of the columns that are aligned to the left."""


def _cells(row: Row) -> list[str]:
    case = row.case
    dense = row.backend == DENSE
    return [
        "dense" if dense else case.pattern,
        f"{case.n_tokens:,}",
        f"{case.block_size}",
        case.dtype,
        row.direction,
        row.backend,
        f"{row.ms:,.3g}" if row.ms < 100 else f"{row.ms:,.0f}",
        "" if row.speedup_over_dense is None else f"{row.speedup_over_dense:.3g}",
        "" if row.density is None else f"{1 / row.density:.3g}",
        "" if row.gflops is None else f"{row.gflops:.3g}",
        "" if row.fraction_of_sgemm is None else f"{row.fraction_of_sgemm:.0%}",
        "" if row.kept is None else f"{row.kept}",
        "" if row.peak_mib is None else f"{row.peak_mib:,.0f}",
    ]


def _columns(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and cells, without columns that are empty or constant and given in the caption."""
    cells = [_cells(row) for row in rows]
    shown = [
        k
        for k, name in enumerate(_HEADER)
        if any(line[k] for line in cells) and (name not in {"block", "dtype"} or len({line[k] for line in cells}) > 1)
    ]
    return [_HEADER[k] for k in shown], [[line[k] for k in shown] for line in cells]


def caption(rows: Sequence[Row]) -> str:
    """The machine and the settings of the measurement."""
    first = rows[0]
    parts = [str(first.machine), f"batch {first.case.batch}, {first.case.heads} heads of {first.case.head_dim}"]
    if len({row.case.block_size for row in rows}) == 1:
        parts[1] += f", block {first.case.block_size}"
    if len({row.case.dtype for row in rows}) == 1:
        parts[1] += f", {first.case.dtype}"
    parts.append(f"medians of {first.repeats}")
    if first.sgemm_gflops is not None:
        parts.append(f"sgemm {max(row.sgemm_gflops or 0 for row in rows):.0f} GFLOP/s")
    half = [row.mm_gflops for row in rows if row.mm_gflops is not None and row.case.dtype == "bfloat16"]
    if half:
        parts.append(f"torch.mm in bfloat16 {max(half):.0f} GFLOP/s")
    return "; ".join(parts)


@dataclass(frozen=True)
class Growth:
    """The growth of a backend's time as ``tokens ** exponent``, fitted by least squares in logarithms."""

    name: str
    exponent: float
    lengths: tuple[int, ...]


def growths(rows: Sequence[Row]) -> list[Growth]:
    """The exponent of every backend with at least two lengths of 2,048 tokens and more."""
    lines: dict[str, dict[int, float]] = defaultdict(dict)
    for name, row in zip(line_names(rows), rows, strict=True):
        if row.case.n_tokens >= LONG:
            # with several patterns dense attention is measured several times: the fastest median is used
            lines[name][row.case.n_tokens] = min(row.ms, lines[name].get(row.case.n_tokens, math.inf))
    return [
        Growth(name, fitted_exponent(list(times), list(times.values())), tuple(sorted(times)))
        for name, times in lines.items()
        if len(times) > 1
    ]


def line_names(rows: Sequence[Row]) -> list[str]:
    """The name of each row's line over the lengths: backend, pattern, pass and other fields that vary."""
    several = {
        field: len({getattr(row.case, field) for row in rows}) > 1 for field in ("pattern", "block_size", "dtype")
    }
    names = []
    for row in rows:
        parts = [row.backend]
        # dense attention depends on neither pattern nor block, but is measured with each
        if several["pattern"] and row.backend != DENSE:
            parts.append(row.case.pattern)
        if several["block_size"] and row.backend != DENSE:
            parts.append(f"block {row.case.block_size}")
        if several["dtype"]:
            parts.append(row.case.dtype)
        names.append(f"{' '.join(parts)}, {row.direction}")
    return names


def fitted_exponent(lengths: Sequence[float], times: Sequence[float]) -> float:
    """The slope of the least-squares line through the logarithms of lengths and times.

    Examples
    --------
    >>> round(fitted_exponent([1, 2, 4], [3.0, 12.0, 48.0]), 6)
    2.0
    """
    x, y = [math.log(length) for length in lengths], [math.log(time) for time in times]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum((a - mean_x) ** 2 for a in x)


def notes(rows: Sequence[Row]) -> list[str]:
    """The notes below the table: growth, and rows that were measured while the machine was busy."""
    lines = []
    found = growths(rows)
    if found:
        lines.append(
            f"Growth from {LONG:,} tokens, time ∝ tokens^x: "
            + "; ".join(f"{growth.name} {growth.exponent:.2f}" for growth in found)
        )
    disturbed = sum(row.kept == 0 for row in rows)
    if disturbed:
        lines.append(
            f"The machine was never quiet for {disturbed} of {len(rows)} rows (quiet 0): their times are unreliable."
        )
    return lines


def to_table(rows: Sequence[Row]) -> Table:
    """The rows for a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    header, cells = _columns(rows)
    below = "\n".join(notes(rows))
    table = Table(title=caption(rows), title_justify="left", caption=below, caption_justify="left", box=SIMPLE_HEAD)
    for name in header:
        table.add_column(name, justify="left" if name in TEXT_COLUMNS else "right")
    for line in cells:
        table.add_row(*line)
    return table


def to_markdown(rows: Sequence[Row]) -> str:
    """The caption, a Markdown table and the notes."""
    header, cells = _columns(rows)
    return markdown_table(caption(rows), header, cells) + "".join(f"\n{note}\n" for note in notes(rows))


def markdown_table(caption: str, header: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """A caption and a Markdown table, with `TEXT_COLUMNS` aligned to the left.

    Parameters
    ----------
    caption : str
    header : sequence of str
    cells : iterable of sequence of str
        The texts of each row.

    Returns
    -------
    str
    """
    rule = ["---" if name in TEXT_COLUMNS else "--:" for name in header]
    return "\n".join([caption, "", *(f"| {' | '.join(line)} |" for line in (header, rule, *cells))]) + "\n"
