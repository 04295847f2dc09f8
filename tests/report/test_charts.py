import itertools
import json
import math
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nip.report.charts import (
    HEIGHT,
    WIDTH,
    Estimate,
    Reference,
    Series,
    interval_chart,
    line_chart,
    reference_labels,
    thinned,
    ticks,
)

numbers = st.floats(-1e6, 1e6, allow_nan=False)


@given(numbers, st.floats(1e-6, 1e6))
def test_ticks_are_round_even_and_inside(low, span):
    high = low + span
    assume(span > 1e-6 * abs(low))
    marks = ticks(low, high)
    assert 2 <= len(marks) <= 7
    step = marks[1] - marks[0]
    assert all(b - a == pytest.approx(step, rel=1e-3) for a, b in itertools.pairwise(marks))
    assert low - 1e-3 * step <= marks[0] < low + 1.001 * step
    assert high - 1.001 * step < marks[-1] <= high + 1e-3 * step
    digits = f"{step:.6e}".split("e")[0]
    assert float(digits) in (1, 2, 2.5, 5)


def test_ticks_of_nothing():
    assert ticks(3, 3) == [3]


@given(st.integers(1, 2000), st.integers(2, 50))
def test_thinning_keeps_few_points_and_the_mean(n, most):
    y = [float((7 * k) % 11) for k in range(n)]
    x, kept = thinned(range(n), y, most)
    assert len(x) == len(kept) <= most
    assert x[-1] == n - 1
    size = -(-n // most)
    assert kept[0] == pytest.approx(sum(y[:size]) / size)


def test_thinning_leaves_gaps_out_of_the_mean():
    assert thinned([1, 2, 3, 4], [math.nan, 2.0, math.nan, math.inf], 2)[1] == [
        2.0,
        pytest.approx(math.nan, nan_ok=True),
    ]


def series(figure):
    return {group.get("data-label"): group for group in figure.iter("g")}


def points(group):
    return [tuple(map(float, pair)) for pair in re.findall(r"[ML]([\d.]+) ([\d.]+)", group.find("path").get("d"))]


def test_a_curve_lies_where_its_axes_say():
    figure = line_chart([Series(0, "a", "dev", [0, 50, 100], [0.1, 0.2, 0.4])], title="t", x_label="step", percent=True)
    marks = {text.text: text for text in figure.iter("text")}
    (x0, y0), (x1, y1), (x2, y2) = points(series(figure)["a, dev"])
    assert float(marks["0"].get("x")) == x0
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.1)
    # the tick of 20 % is as high as the point of 20 %; a tick's text stands 4 below its line
    assert float(marks["20 %"].get("y")) - 4 == pytest.approx(y1, abs=0.1)
    assert float(marks["40 %"].get("y")) - 4 == pytest.approx(y2, abs=0.1)
    assert y0 - y1 == pytest.approx((y1 - y2) / 2, abs=0.2)
    assert y0 > y1 > y2  # more is higher up


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(-1e3, 1e3) | st.just(math.nan)), min_size=1, max_size=40))
def test_everything_stays_inside_and_gaps_are_left(given_points):
    given_points.sort(key=lambda point: point[0])
    x, y = zip(*given_points, strict=True)
    figure = line_chart([Series(3, "a", "dev", x, y)], title="t", x_label="step", references=[Reference("r", 0.5)])
    group = series(figure)["a, dev"]
    finite = [value for value in y if math.isfinite(value)]
    assert len(points(group)) == len(finite) == len(json.loads(group.get("data-points")))
    assert all(0 <= a <= WIDTH and 0 <= b <= HEIGHT for a, b in points(group))
    runs = sum(math.isfinite(b) and not math.isfinite(a) for a, b in zip((math.nan, *y), y, strict=False))
    assert group.find("path").get("d").count("M") == runs


def test_the_read_out_holds_the_exact_values():
    figure = line_chart([Series(0, "a", "train", [1000, 1500], [0.25, 0.5])], title="t", x_label="step", percent=True)
    assert [row[2:] for row in json.loads(series(figure)["a, train"].get("data-points"))] == [
        ["1,000", "25.0 %"],
        ["1,500", "50.0 %"],
    ]


def test_a_chart_without_values_says_so():
    figure = line_chart([Series(0, "a", "dev", [1], [math.nan])], title="t", x_label="step")
    assert figure.find("svg") is None
    assert "No data recorded." in "".join(figure.itertext())


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_names_of_dashed_lines_never_lie_on_each_other(values):
    placed = reference_labels([Reference("commonest label", v) for v in values], lambda y: 230 - 218 * y)
    tops = [y for _, y in placed]
    assert all(above <= below - 3 * 14 for below, above in itertools.pairwise(tops))
    assert tops[0] + 2 * 14 <= HEIGHT


def test_intervals_are_drawn_to_scale():
    figure = interval_chart(
        [Estimate(0, "a", 0.4, (0.3, 0.5)), Estimate(8, "b", 0.2, None)], title="t", references=[Reference("r", 0.3)]
    )
    first, second = figure.iter("g")
    bar, dot = first.find("line"), first.find("circle")
    left, right, centre = float(bar.get("x1")), float(bar.get("x2")), float(dot.get("cx"))
    assert centre - left == pytest.approx(right - centre, abs=0.2)
    assert second.find("line") is None
    assert centre - float(second.find("circle").get("cx")) == pytest.approx(right - left, abs=0.2)
    dashed = [line for line in figure.iter("line") if line.get("class") == "reference"]
    assert {float(line.get("x1")) for line in dashed} == {left}
    assert "colour-1 dash-1" in second.get("class")
