"""A score of several patterns over the number of vertices, as the paper draws it: table and figure."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nip.scoring.draw import write_figure
from nip.scoring.table import SORTS, Row, relative_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT_SCORE = "nip_relative"
_LEAST_DRAWN = -6  # log10
_LOGARITHMS = {
    "bottleneck_nip_relative": lambda row: row.score.log10_bottleneck_nip_relative,
    "nip_relative": lambda row: row.score.log10_nip_relative,
    "vertex_nip_relative": lambda row: row.vertex.log10_nip_relative,
}


def score_over_size(rows: Sequence[Row], score: str = DEFAULT_SCORE) -> dict[str, dict[int, float | None]]:
    """A score by pattern and number of vertices, best first at the largest size.

    Parameters
    ----------
    rows : sequence of Row
        Of any sizes, each pattern at most once at a size.
    score : str, default="nip_relative"
        A key of `nip.scoring.table.SORTS`. Scores relative to the complete graph are given as their log10, which does
        not underflow; −inf is the logarithm of zero.

    Returns
    -------
    dict of str to dict
        Pattern → number of vertices → value; None where it is undefined.

    Raises
    ------
    ValueError
        If there is no such score.
    """
    if score not in SORTS:
        raise ValueError(f"There is no score {score!r}. Take one of {', '.join(SORTS)}.")
    over: dict[str, dict[int, float | None]] = {}
    for row in sorted(rows, key=lambda row: (-row.score.n_vertices, SORTS[score](row))):
        value = _LOGARITHMS[score](row) if score in _LOGARITHMS else row.to_dict()[score]
        over.setdefault(row.score.pattern, {})[row.score.n_vertices] = value
    return {name: dict(sorted(values.items())) for name, values in over.items()}


def curve_rows(rows: Sequence[Row], score: str = DEFAULT_SCORE) -> list[dict[str, str]]:
    """The displayed table: a row for each pattern, a column for each number of vertices.

    Parameters
    ----------
    rows : sequence of Row
    score : str, default="nip_relative"
    """
    over = score_over_size(rows, score)
    sizes = sorted({n for values in over.values() for n in values})
    shown = relative_text if score in _LOGARITHMS else _plain
    return [
        {"pattern": name, **{f"N={n:,}": shown(values[n]) if n in values else "–" for n in sizes}}
        for name, values in over.items()
    ]


def _plain(value: float | None) -> str:
    return "∞" if value is None else f"{value:.4g}"


def curve_figure(rows: Sequence[Row], score: str = DEFAULT_SCORE, block_size: int = 1) -> Figure:
    """The score against the number of vertices, a line for each pattern.

    Relative scores below 1e-6 are left out and named in the title: a window's would flatten all other curves.

    Parameters
    ----------
    rows : sequence of Row
    score : str, default="nip_relative"
    block_size : int, default=1
        Tokens per vertex, for the title.
    """
    from matplotlib.figure import Figure

    over = score_over_size(rows, score)
    drawn = Figure(figsize=(8, 5), dpi=140, layout="constrained")
    axes = drawn.subplots()
    least = _LEAST_DRAWN if score in _LOGARITHMS else -math.inf
    missing = []
    for name, values in over.items():
        points = {n: v for n, v in values.items() if v is not None and math.isfinite(v) and v >= least}
        if points:
            axes.plot(list(points), list(points.values()), marker="o", markersize=4, label=name)
        if len(points) < len(values):
            missing.append(
                name if not points else f"{name} at {', '.join(f'{n:,}' for n in values if n not in points)}"
            )
    sizes = sorted({n for values in over.values() for n in values})
    axes.set_xscale("log", base=2)
    axes.set_xticks(sizes, [str(n) for n in sizes])
    axes.minorticks_off()
    axes.set_xlabel("vertices" + (f" of {block_size} tokens" if block_size > 1 else ""))
    axes.set_ylabel(("log10 " if score in _LOGARITHMS else "") + score.replace("_", " ").replace("nip", "NIP"))
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        axes.legend(frameon=False, bbox_to_anchor=(1.0, 1.0), loc="upper left", fontsize="small")
    if missing:
        why = f"below 1e{_LEAST_DRAWN}" if score in _LOGARITHMS else "infinite"
        axes.set_title(f"not drawn, {why}: {'; '.join(missing)}", fontsize="small", loc="left", wrap=True)
    return drawn


def save_curve(
    rows: Sequence[Row], path: str | os.PathLike[str], score: str = DEFAULT_SCORE, block_size: int = 1
) -> Path:
    """Write the curve as ``.png``, ``.svg`` or a self-contained ``.html`` page, atomically.

    Parameters
    ----------
    rows : sequence of Row
    path : path-like
        The extension determines the format.
    score : str, default="nip_relative"
    block_size : int, default=1
        Tokens per vertex.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If the extension is none of these, or there is no such score.
    """
    return write_figure(curve_figure(rows, score, block_size), path, f"{score} over the number of vertices")
