"""Figures of a pattern: its mask, and the payload by distance."""

from __future__ import annotations

import base64
import html
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nip.atomic import replacing
from nip.graphs import Pattern, to_mask
from nip.scoring.profile import payload_by_distance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#1f4e79"
PAPER = "#f4f6f8"
ENDINGS = (".png", ".svg", ".html")
# A larger mask is drawn as the share of attended pairs in each cell of a grid of at most this many rows.
_LARGEST_DRAWN = 512


def mask_image(pattern: Pattern) -> NDArray[np.float64]:
    """The mask as an image: ndarray of at most 512 × 512, the share of attended pairs (0 … 1) per cell."""
    n = pattern.n
    cell = -(-n // _LARGEST_DRAWN)
    if cell == 1:
        return to_mask(pattern).astype(np.float64)
    side = -(-n // cell)
    rows = np.concatenate([pattern.edge_rows, np.arange(n)]) // cell
    columns = np.concatenate([pattern.indices, np.arange(n)]) // cell
    counts = np.bincount(rows * side + columns, minlength=side * side).reshape(side, side)
    return counts / cell**2


def mask_axes(axes: Any, pattern: Pattern) -> None:
    """Draw the mask into matplotlib axes: a row per attending vertex, a column per attended one."""
    from matplotlib.colors import LinearSegmentedColormap

    image = mask_image(pattern)
    # Cells of large sparse masks would be nearly blank: a cell with any attended pair has a minimum intensity.
    shown = np.where(image > 0, 0.35 + 0.65 * image / image.max(), 0.0)
    colours = LinearSegmentedColormap.from_list("mask", [PAPER, INK])
    extent = (-0.5, pattern.n - 0.5, pattern.n - 0.5, -0.5)
    axes.imshow(shown, cmap=colours, vmin=0, vmax=1, interpolation="nearest", extent=extent)
    axes.set_xlabel("attended vertex")
    axes.set_ylabel("attending vertex")


def payload_axes(axes: Any, pattern: Pattern, block_size: int = 1) -> None:
    """Plot the minimum, mean and maximum of log10 payload against distance.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    pattern : Pattern
    block_size : int, default=1
        Tokens per vertex.
    """
    rows = payload_by_distance(pattern, block_size)
    distances = [row.distance for row in rows]
    few = len(rows) <= 40
    axes.fill_between(
        distances,
        [row.log10_least for row in rows],
        [row.log10_greatest for row in rows],
        color=INK,
        alpha=0.18,
        linewidth=0,
        label="least to greatest",
    )
    axes.plot(distances, [row.log10_mean for row in rows], color=INK, marker="o" if few else "", label="mean")
    if rows:
        axes.plot(distances[-1], rows[-1].log10_least, color="#c0392b", marker="v", ls="", label="worst farthest pair")
        axes.legend(frameon=False)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("distance")
    axes.set_ylabel("log10 payload")
    axes.spines[["top", "right"]].set_visible(False)


def figure(pattern: Pattern, block_size: int = 1) -> Figure:
    """The mask and the payload by distance, side by side."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(10.5, 5), dpi=140, layout="constrained")
    left, right = drawn.subplots(1, 2)
    mask_axes(left, pattern)
    left.set_title(f"who attends to whom: density {pattern.density:.3g}")
    payload_axes(right, pattern, block_size)
    right.set_title("payload by distance" + (f", {block_size} tokens a block" if block_size > 1 else ""))
    direction = ", causal" if pattern.causal else "" if pattern.symmetric else ", directed"
    drawn.suptitle(f"{pattern.name} on {pattern.n} vertices{direction}", fontsize="x-large")
    return drawn


def save_figure(pattern: Pattern, path: str | os.PathLike[str], block_size: int = 1) -> Path:
    """Write the figure as ``.png``, ``.svg`` or a self-contained ``.html`` page, atomically.

    Parameters
    ----------
    pattern : Pattern
    path : path-like
        The extension determines the format.
    block_size : int, default=1
        Tokens per vertex.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If the extension is none of these.
    """
    check_ending(path)
    return write_figure(figure(pattern, block_size), path, f"{pattern.name} on {pattern.n} vertices")


def check_ending(path: str | os.PathLike[str]) -> str:
    """The extension of a figure's file name in lower case; ValueError if figures have no such format."""
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise ValueError(f"A figure's file name must end in {', '.join(ENDINGS)}. Got {str(path)!r} instead.")
    return ending


def write_figure(drawn: Figure, path: str | os.PathLike[str], title: str) -> Path:
    """Write a figure as ``.png``, ``.svg`` or a self-contained ``.html`` page, atomically.

    Parameters
    ----------
    drawn : matplotlib.figure.Figure
    path : path-like
        The extension determines the format.
    title : str
        Of the page.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If the extension is none of these.
    """
    path, ending = Path(path), check_ending(path)
    if ending == ".html":
        page = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{html.escape(title)}</title>{image(drawn, title)}</html>"
        )
        content = page.encode()
    else:
        content = _render(drawn, ending[1:])
    with replacing(path) as file:
        file.write(content)
    return path


def image(drawn: Figure, title: str) -> str:
    """The figure as an HTML element that contains its pixels."""
    data = base64.b64encode(_render(drawn, "png")).decode()
    return f'<img alt="{html.escape(title)}" style="max-width:100%" src="data:image/png;base64,{data}">'


def _render(drawn: Figure, form: str) -> bytes:
    import matplotlib

    buffer = io.BytesIO()
    # The same graph gives the same file: no date and no random ids.
    with matplotlib.rc_context({"svg.hashsalt": "nip", "svg.fonttype": "none"}):
        drawn.savefig(buffer, format=form, metadata={"Date": None} if form == "svg" else None)
    return buffer.getvalue()
