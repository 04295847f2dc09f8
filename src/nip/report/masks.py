"""Attention masks of patterns as SVG: rows are query blocks, columns key blocks."""

from __future__ import annotations

from xml.etree.ElementTree import Element

import numpy as np

from nip.graphs import Pattern
from nip.report.html import tag

MOST_CELLS = 128


def mask_picture(pattern: Pattern, label: str | None = None) -> Element:
    """The mask as a small square drawing, one path for all of its cells.

    Patterns of more than 128 vertices are drawn in cells of several vertices each, filled where any of the pairs in
    the cell is attended; the caption then says so.

    Parameters
    ----------
    pattern : Pattern
        The pattern; a vertex's attention to itself is drawn too.
    label : str, optional
        Its name on the page; by default the pattern's own.

    Returns
    -------
    Element
        A ``figure`` with the drawing and a caption.
    """
    name = label or pattern.name
    cells, width = _cells(pattern)
    path = "".join(f"M{first} {row}h{length}v1h-{length}z" for row, first, length in cells)
    size = -(-pattern.n // width)
    svg = tag(
        "svg",
        tag("rect", x=0, y=0, width=size, height=size, class_="paper"),
        tag("path", d=path, class_="attended"),
        viewBox=f"0 0 {size} {size}",
        role="img",
        aria_label=f"Mask of {name}",
        shape_rendering="crispEdges",
    )
    detail = f"{pattern.density * 100:.3g} % of all pairs"
    if width > 1:
        detail += f"; a cell is {width} × {width} blocks"
    return tag(
        "figure", svg, tag("figcaption", tag("b", name), tag("span", detail)), class_="mask", title=pattern.checksum
    )


def _cells(pattern: Pattern) -> tuple[list[tuple[int, int, int]], int]:
    """Horizontal strips (row, first column, length) of filled cells, and how many vertices a cell spans."""
    width = -(-pattern.n // MOST_CELLS)
    size = -(-pattern.n // width)
    rows = pattern.edge_rows
    filled = np.eye(size, dtype=bool)
    filled[rows // width, pattern.indices // width] = True
    edges = np.diff(np.pad(filled, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    starts, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)  # row by row, so the two lists pair up
    return [(int(r), int(a), int(b - a)) for (r, a), (_, b) in zip(starts, ends, strict=True)], width
