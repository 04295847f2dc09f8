"""The course of a run as a picture: loss and the metric that counts, by step."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nip.atomic import replacing


def draw_curves(rows: Sequence[Mapping[str, Any]], metric: str, path: Path) -> None:
    """Draw the rows of ``metrics.jsonl`` as an SVG file.

    Parameters
    ----------
    rows : sequence of mapping
        Of steps (``split`` "train") and evaluations ("dev").
    metric : str
        Drawn beside the loss, where evaluations have it.
    path : Path
        An older file is replaced.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6))
    left, right = figure.subplots(1, 2, gridspec_kw={"left": 0.08, "right": 0.98, "bottom": 0.14, "top": 0.96})
    for split, style in (("train", {"linewidth": 0.8, "alpha": 0.6}), ("dev", {"marker": "o", "markersize": 3})):
        _line(left, rows, split, "loss", style)
    _line(right, rows, "dev", metric, {"marker": "o", "markersize": 3})
    left.set(xlabel="step", ylabel="loss")
    right.set(xlabel="step", ylabel=metric)
    if left.lines:
        left.legend(frameon=False)
    save_svg(figure, path)


def save_svg(figure: Any, path: Path) -> None:
    """Write a figure, complete or not at all, the same bytes each time."""
    import matplotlib

    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "nip"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    with replacing(path) as file:
        file.write(buffer.getvalue())


def _line(axes: Any, rows: Sequence[Mapping[str, Any]], split: str, key: str, style: Mapping[str, Any]) -> None:
    points = [(row["step"], row[key]) for row in rows if row["split"] == split and row.get(key) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), label=split, **style)
