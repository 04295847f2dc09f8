"""Scatter plots of a study as SVG: accuracy against each score, with the paper's points next to ours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from nip.report.charts import tick_text, ticks
from nip.report.html import tag
from nip.study import paper
from nip.study.outcome import PREDICTORS, Panel

WIDTH, HEIGHT = 430, 330
LEFT, RIGHT, TOP, BOTTOM = 56, 16, 34, 52
SHIFTS = sorted(range(-132, 133, 11), key=abs)  # of a label that would overlap something
ZERO = 26  # next to the axis: the place of points at log 0

STYLE = """
svg { color-scheme: light dark; --ink: #1d2230; --soft: #5b6272; --faint: #e4e2dc; --dot: #0072b2; --page: #ffffff; }
@media (prefers-color-scheme: dark) {
  svg { --ink: #e9eaee; --soft: #a2a8b6; --faint: #2e3441; --dot: #4aa8e8; --page: #1a1e27; } }
text { font: 12px system-ui, sans-serif; fill: var(--soft); }
.strong { font-weight: 600; fill: var(--ink); font-size: 13px; } .name { font-size: 11px; fill: var(--ink); }
.end { text-anchor: end; } .middle { text-anchor: middle; }
.grid { stroke: var(--faint); } .axis { stroke: var(--soft); }
.dot { fill: var(--dot); } .hollow { fill: none; stroke: var(--dot); stroke-width: 2; } .whisker { stroke: var(--dot); }
.page { fill: var(--page); }
"""


@dataclass(frozen=True)
class Point:
    """A pattern in a plot; x may be −inf, `low` and `high` bound its interval, patterns cut to size are hollow."""

    name: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    hollow: bool = False


@dataclass(frozen=True)
class Plot:
    """One of the plots of a figure."""

    title: str
    x_label: str
    points: tuple[Point, ...]


def draw_panel(panel: Panel) -> dict[str, str]:
    """The figures of a study, one for each predictor with a plot for each depth: file name → SVG."""
    pictures = {}
    for predictor, says in PREDICTORS.items():
        plots = []
        for depth in panel.depths():
            points = []
            for cell in panel.cells:
                x = cell.graph.predictors()[predictor]
                if cell.depth != depth or cell.accuracy is None or math.isnan(x):
                    continue
                low, high = cell.accuracy.interval or (None, None)
                points.append(
                    Point(cell.label, x, 100 * cell.accuracy.mean, _percent(low), _percent(high), cell.graph.cut)
                )
            if points:
                plots.append(Plot(f"{panel.task}, depth {depth}", says, tuple(points)))
        if plots and predictor == "log10_nip_vertices":
            plots.append(paper_plot())
        if plots:
            pictures[predictor.replace("_", "-")] = picture(plots)
    return pictures


def _percent(share: float | None) -> float | None:
    return None if share is None else min(100.0, max(0.0, 100 * share))


def paper_plot() -> Plot:
    """The paper's five points."""
    points = zip(paper.NAMES, paper.NIP, paper.ACCURACY, strict=True)
    title = "the paper: Long Range Arena, mean of five tasks"
    return Plot(title, PREDICTORS["log10_nip_vertices"], tuple(Point(n, math.log10(x), y) for n, x, y in points))


def picture(plots: Sequence[Plot]) -> str:
    """Plots side by side, as one SVG file that follows the reader's light or dark theme."""
    drawn = [tag("g", *_plot(plot), transform=f"translate({WIDTH * number} 0)") for number, plot in enumerate(plots)]
    width = WIDTH * len(plots)
    svg = tag(
        "svg",
        tag("style", STYLE),
        tag("rect", width=width, height=HEIGHT, class_="page"),
        *drawn,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {HEIGHT}",
        width=width,
        role="img",
        aria_label="; ".join(f"accuracy against {plot.x_label}: {plot.title}" for plot in plots),
    )
    return ElementTree.tostring(svg, encoding="unicode") + "\n"


def _plot(plot: Plot) -> list[Element]:
    finite = [point.x for point in plot.points if math.isfinite(point.x)]
    zero = len(finite) < len(plot.points)
    start = LEFT + (ZERO if zero else 0)
    x_low, x_high = _span(finite or [0.0])
    y_low, y_high = _span([y for p in plot.points for y in (p.y, p.low, p.high) if y is not None])
    bottom, end = HEIGHT - BOTTOM, WIDTH - RIGHT

    def across(x: float) -> float:
        return round(start + (end - start) * (x - x_low) / (x_high - x_low), 1) if math.isfinite(x) else LEFT + ZERO / 2

    def up(y: float) -> float:
        return round(TOP + (bottom - TOP) * (y_high - y) / (y_high - y_low), 1)

    drawn = [tag("text", plot.title, x=LEFT, y=18, class_="strong")]
    for value in (y_ticks := ticks(y_low, y_high)):
        drawn.append(tag("line", class_="grid", x1=LEFT, x2=end, y1=up(value), y2=up(value)))
        drawn.append(tag("text", f"{tick_text(value, y_ticks)} %", x=LEFT - 6, y=up(value) + 4, class_="end"))
    for value in (x_ticks := ticks(x_low, x_high)):
        drawn.append(tag("text", tick_text(value, x_ticks), x=across(value), y=bottom + 17, class_="middle"))
    if zero:
        drawn.append(tag("text", "NIP 0", x=LEFT + ZERO / 2, y=bottom + 17, class_="middle"))
    drawn.append(tag("line", class_="axis", x1=LEFT, x2=end, y1=bottom, y2=bottom))
    drawn.append(tag("text", plot.x_label, x=(LEFT + end) / 2, y=HEIGHT - 12, class_="middle"))
    names = []
    taken = [(across(point.x) - 6, across(point.x) + 6, up(point.y) + 4) for point in plot.points]
    for point in sorted(plot.points, key=lambda p: -p.y):
        x, y = across(point.x), up(point.y)
        if point.low is not None and point.high is not None:
            drawn.append(tag("line", class_="whisker", x1=x, x2=x, y1=up(point.low), y2=up(point.high)))
        drawn.append(tag("circle", tag("title", f"{point.name}: {point.y:.1f} %"), cx=x, cy=y, r=5))
        drawn[-1].set("class", "hollow" if point.hollow else "dot")
        names.append(_name(point.name, x, y, taken))
    return drawn + names


def _name(name: str, x: float, y: float, taken: list[tuple[float, float, float]]) -> Element:
    """The point's label, right or left of it, moved up or down until it overlaps no other label and no point."""
    width = 6.2 * len(name)
    sides = [begin for begin in (x + 9, x - 9 - width) if begin > LEFT and begin + width < WIDTH - 2] or [x - 9 - width]
    places = [(begin, y + 4 + shift) for shift in SHIFTS for begin in sides]
    begin, line = next((place for place in places if not _meets(*place, width, taken)), places[0])
    taken.append((begin, begin + width, line))
    right = begin > x
    at = x + 9 if right else x - 9
    return tag("text", name, x=round(at, 1), y=round(line, 1), class_="name" if right else "name end")


def _meets(begin: float, line: float, width: float, taken: Sequence[tuple[float, float, float]]) -> bool:
    return any(abs(line - other) < 11 and begin < stop and start < begin + width for start, stop, other in taken)


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 0.05
    return low - margin, high + margin
