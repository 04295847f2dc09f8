"""Line and interval charts as SVG that follow the reader's light or dark theme, a few kilobytes each."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from nip.formatting import format_percent
from nip.report.html import tag

N_COLOURS = 7
WIDTH, HEIGHT = 460, 270
LEFT, TOP, BOTTOM = 50, 12, 40
RIGHT, RIGHT_NAMED = 12, 84  # with room for the names of dashed lines
LINE = 14
# Single batches are noisy: training curves show means over many; every evaluation gets a dot.
MAX_POINTS = {"train": 80, "dev": 300}


@dataclass(frozen=True)
class Series:
    """One line of a chart: its run (which gives the colour), its split, and its points in data units."""

    run: int
    label: str
    split: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class Reference:
    """A dashed line across a chart, with its name."""

    label: str
    y: float

    @property
    def lines(self) -> list[str]:
        """The name, one word per line, and the value."""
        return [*self.label.split(), format_percent(self.y)]


def colour_class(run: int) -> str:
    """The classes that give run number `run` its colour, and past the palette's end another dash as well."""
    return f"run-{run} colour-{run % N_COLOURS} dash-{min(run // N_COLOURS, 2)}"


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round numbers (1, 2, 2.5 or 5 times a power of ten) inside [low, high].

    Parameters
    ----------
    low, high : float
    count : int
        Ticks wanted.

    Examples
    --------
    >>> ticks(0, 930)
    [0.0, 200.0, 400.0, 600.0, 800.0]
    """
    if high <= low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def thinned(x: Sequence[float], y: Sequence[float], most: int) -> tuple[list[float], list[float]]:
    """The curve as at most `most` points: means over groups of neighbouring points.

    A point whose y is not finite becomes a gap (NaN) only where its whole bucket is; x is each bucket's last.

    Parameters
    ----------
    x, y : sequence of float, of the same length
    most : int
        Points of the result, at most.
    """
    size = -(-len(x) // most)
    if size <= 1:
        return list(x), list(y)
    kept_x, kept_y = [], []
    for start in range(0, len(x), size):
        finite = [value for value in y[start : start + size] if math.isfinite(value)]
        kept_x.append(x[min(start + size, len(x)) - 1])
        kept_y.append(sum(finite) / len(finite) if finite else math.nan)
    return kept_x, kept_y


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    percent: bool = False,
    references: Sequence[Reference] = (),
) -> Element:
    """A chart of training curves: thin lines for training batches, strong ones with points for the dev set.

    Parameters
    ----------
    series : sequence of Series
        The curves, drawn in this order; x from 0 upwards. Values that are not finite leave a gap.
    title : str
        Shown above the chart and read aloud by screen readers.
    x_label : str
        What x counts, with its unit.
    percent : bool, default=False
        Whether y is a share, to be shown in percent.
    references : sequence of Reference, default=()
        Dashed lines, such as baselines.

    Returns
    -------
    Element
        A ``figure`` with the drawing inside.
    """
    curves = [(one, *thinned(one.x, one.y, MAX_POINTS.get(one.split, 300))) for one in series]
    values = [v for _, _, y in curves for v in y if math.isfinite(v)] + [r.y for r in references]
    if not values:
        return tag("figure", tag("figcaption", title), tag("p", "No data recorded.", class_="quiet"), class_="chart")
    x_high = max((v for _, x, _ in curves for v in x if math.isfinite(v)), default=1.0) or 1.0
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    low, high = max(0.0, low - margin) if low >= 0 else low - margin, high + margin

    end = WIDTH - (RIGHT_NAMED if references else RIGHT)

    def across(x: float) -> float:
        return round(LEFT + (end - LEFT) * x / x_high, 1)

    def up(y: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / (high - low), 1)

    drawn: list[Element] = []
    y_ticks = ticks(low, high)
    for value in y_ticks:
        drawn.append(tag("line", class_="grid", x1=LEFT, x2=end, y1=up(value), y2=up(value)))
        drawn.append(tag("text", tick_text(value, y_ticks, percent), x=LEFT - 7, y=up(value) + 4, class_="tick end"))
    x_ticks = ticks(0, x_high)
    for value in x_ticks:
        anchor = "tick end" if across(value) > WIDTH - 26 else "tick middle"
        drawn.append(tag("text", tick_text(value, x_ticks), x=across(value), y=HEIGHT - BOTTOM + 17, class_=anchor))
    drawn.append(tag("line", class_="axis", x1=LEFT, x2=end, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM))
    drawn.append(
        tag("text", x_label, x=(LEFT + end) / 2, y=HEIGHT - 5, class_="label middle"),
    )
    for one, x, y in curves:
        points = [(across(a), up(b), a, b) for a, b in zip(x, y, strict=True)]
        drawn.append(_curve(one, points, percent))
    for reference, label_y in reference_labels(references, up):
        drawn.append(tag("line", class_="reference", x1=LEFT, x2=end, y1=up(reference.y), y2=up(reference.y)))
        for k, line in enumerate(reference.lines):
            drawn.append(tag("text", line, x=end + 5, y=label_y + LINE * k, class_="reference-label"))
    drawn.append(tag("line", class_="cursor", y1=TOP, y2=HEIGHT - BOTTOM, x1=0, x2=0))
    svg = tag("svg", *drawn, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=title, data_x=x_label)
    return tag("figure", tag("figcaption", title), svg, class_="chart")


def reference_labels(references: Sequence[Reference], up: Callable[[float], float]) -> list[tuple[Reference, float]]:
    """The height of each reference's label: at its line, moved up where it would overlap the label below."""
    placed: list[tuple[Reference, float]] = []
    for reference in sorted(references, key=lambda r: r.y):
        height = LINE * len(reference.lines)
        y = up(reference.y) + 4 - LINE * (len(reference.lines) - 1) / 2
        floor = placed[-1][1] - LINE - 3 if placed else HEIGHT - BOTTOM + 10
        placed.append((reference, min(y, floor - height + LINE)))
    return placed


def tick_text(value: float, among: Sequence[float], percent: bool = False) -> str:
    """A tick's number with the decimals that tell it from its neighbours, and separators of thousands.

    Parameters
    ----------
    value : float
    among : sequence of float
        All ticks of the axis.
    percent : bool, default=False
        Whether values are shares, shown in percent.

    Examples
    --------
    >>> tick_text(0.25, [0.0, 0.25, 0.5], percent=True), tick_text(12000, [0, 12000])
    ('25 %', '12,000')
    """
    scale = 100 if percent else 1
    step = (among[1] - among[0]) * scale if len(among) > 1 else 1
    decimals = next((d for d in range(6) if abs(step * 10**d - round(step * 10**d)) < 1e-6), 6)
    return f"{value * scale:,.{decimals}f}" + (" %" if percent else "")


def _curve(one: Series, points: Sequence[tuple[float, float, float, float]], percent: bool) -> Element:
    """The line, and for the dev set a dot per evaluation; the values are attached for the pointer's read-out."""
    drawing, pen = [], "M"
    dots = []
    for x, y, _, value in points:
        if not math.isfinite(value):
            pen = "M"
            continue
        drawing.append(f"{pen}{x:g} {y:g}")
        pen = "L"
        if one.split == "dev":
            dots.append(f"M{x:g} {y:g}h0")
    read_out = [
        [x, y, f"{at:,.4g}" if at != int(at) else f"{int(at):,}", format_percent(value) if percent else f"{value:.4g}"]
        for x, y, at, value in points
        if math.isfinite(value)
    ]
    return tag(
        "g",
        tag("path", d="".join(drawing), class_="curve"),
        tag("path", d="".join(dots), class_="dots") if dots else None,
        class_=f"series {one.split} {colour_class(one.run)}",
        data_label=f"{one.label}, {one.split}",
        data_points=json.dumps(read_out, separators=(",", ":"), ensure_ascii=False),
    )


@dataclass(frozen=True)
class Estimate:
    """One row of an interval chart: a name, a value in [0, 1] and its interval."""

    run: int
    label: str
    value: float
    interval: tuple[float, float] | None


def interval_chart(estimates: Sequence[Estimate], *, title: str, references: Sequence[Reference] = ()) -> Element:
    """Accuracies as dots on their intervals, one row each, with vertical dashed lines for the baselines.

    Parameters
    ----------
    estimates : sequence of Estimate
        At least one; drawn from top to bottom.
    title : str
        Shown above the chart and read aloud by screen readers.
    references : sequence of Reference, default=()
        Here `y` is a place on the horizontal axis.
    """
    ends = [end for one in estimates for end in one.interval or ()]
    bounds = [*ends, *(one.value for one in estimates), *(reference.y for reference in references)]
    span = max(bounds) - min(bounds) or 0.1
    low, high = min(bounds) - 0.08 * span, max(bounds) + 0.08 * span
    edge, row = 14, 46
    bottom = row * len(estimates) + 10

    def across(value: float) -> float:
        return round(edge + (WIDTH - 2 * edge) * (value - low) / (high - low), 1)

    drawn: list[Element] = []
    x_ticks = ticks(low, high)
    for value in x_ticks:
        drawn.append(tag("line", class_="grid", x1=across(value), x2=across(value), y1=8, y2=bottom))
        drawn.append(tag("text", tick_text(value, x_ticks, True), x=across(value), y=bottom + 16, class_="tick middle"))
    for place, reference in enumerate(sorted(references, key=lambda r: r.y)):
        x, y = across(reference.y), bottom + 34 + 16 * place
        # Only through the bars: the rows' text is left clear.
        spans = [*((8 + row * k + 22, 8 + row * k + 40) for k in range(len(estimates))), (bottom, y - 11)]
        drawn += [tag("line", class_="reference", x1=x, x2=x, y1=top, y2=low_end) for top, low_end in spans]
        anchor = "start" if x < WIDTH / 2 else "end"
        drawn.append(
            tag(
                "text",
                f"{reference.label} {format_percent(reference.y)}",
                x=x,
                y=y,
                class_=f"reference-label {anchor}",
            )
        )
    for k, one in enumerate(estimates):
        y = 8 + row * k
        drawn.append(tag("text", one.label, x=edge, y=y + 16, class_="label strong"))
        shown = format_percent(one.value)
        if one.interval:
            shown += f" ({one.interval[0] * 100:.1f}–{one.interval[1] * 100:.1f})"
        drawn.append(tag("text", shown, x=WIDTH - edge, y=y + 16, class_="label end"))
        bar = [tag("circle", cx=across(one.value), cy=y + 31, r=6, class_="dot")]
        if one.interval:
            left, right = map(across, one.interval)
            bar.insert(0, tag("line", x1=left, x2=right, y1=y + 31, y2=y + 31, class_="whisker"))
        drawn.append(tag("g", *bar, class_=f"estimate {colour_class(one.run)}"))
    height = bottom + 26 + 16 * len(references)
    svg = tag("svg", *drawn, viewBox=f"0 0 {WIDTH} {height}", role="img", aria_label=title)
    return tag("figure", tag("figcaption", title), svg, class_="chart intervals")
