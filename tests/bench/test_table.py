import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from nip.bench import Case, Machine, Row, to_markdown, to_table
from nip.bench.plot import save_plot
from nip.bench.rows import DENSE
from nip.bench.table import fitted_exponent, growths

MACHINE = Machine("abacus", 2, "2.99", "2026-01-01")


def row(backend, n_tokens, ms, direction="forward", pattern="hypercube", **changes):
    case = Case(pattern, n_tokens, **{key: changes.pop(key) for key in ("block_size", "dtype") if key in changes})
    made = Row(backend, case, direction, ms, 0.25, 7, 12.0, MACHINE, 0.125, 200.0, 200.0, 7)
    return dataclasses.replace(made, **changes)


@given(st.floats(0.2, 3), st.floats(0.01, 100), st.lists(st.integers(7, 20), min_size=2, max_size=6, unique=True))
def test_the_exponent_of_a_power_is_found(exponent, factor, powers):
    lengths = [2**p for p in powers]
    assert fitted_exponent(lengths, [factor * n**exponent for n in lengths]) == pytest.approx(exponent)


def test_the_exponent_is_the_least_squares_line():
    times = [1.0, 2.5, 3.0, 9.0]
    x, y = [math.log(n) for n in (1, 2, 4, 8)], [math.log(t) for t in times]
    cov = sum(a * b for a, b in zip(x, y, strict=True)) - sum(x) * sum(y) / 4
    assert fitted_exponent([1, 2, 4, 8], times) == pytest.approx(cov / (sum(a * a for a in x) - sum(x) ** 2 / 4))


def test_growth_is_fitted_per_line_from_2048_tokens():
    rows = [row("native", n, ms) for n, ms in ((512, 99.0), (2048, 1.0), (4096, 2.0), (8192, 4.0))]
    rows += [row("native", 2048, 5.0, "backward"), row(DENSE, 2048, 1.0), row(DENSE, 4096, 4.0)]
    found = {growth.name: (growth.exponent, growth.lengths) for growth in growths(rows)}
    assert found == {
        "native, forward": (pytest.approx(1), (2048, 4096, 8192)),
        f"{DENSE}, forward": (pytest.approx(2), (2048, 4096)),
    }
    assert "native, forward 1.00; torch-sdpa, forward 2.00" in to_markdown(rows)


def test_patterns_blocks_and_dtypes_are_lines_of_their_own():
    rows = [
        row("gather", n, float(n**power), pattern=pattern, block_size=block, dtype=dtype)
        for pattern, block, dtype, power in (
            ("local", 16, "float32", 1),
            ("local", 32, "float32", 1.25),
            ("global", 16, "float32", 1.5),
            ("global", 16, "bfloat16", 1.75),
        )
        for n in (2048, 8192)
    ]
    assert {growth.name: round(growth.exponent, 6) for growth in growths(rows)} == {
        "gather local block 16 float32, forward": 1,
        "gather local block 32 float32, forward": 1.25,
        "gather global block 16 float32, forward": 1.5,
        "gather global block 16 bfloat16, forward": 1.75,
    }


def test_markdown_is_a_table_with_its_circumstances():
    rows = [row(DENSE, 64, 8.0, density=1.0, ratio_to_dense=1.0), row("native", 64, 2.0)]
    caption, _, header, rule, *lines = to_markdown(rows).splitlines()
    assert str(MACHINE) in caption
    assert "batch 4, 4 heads of 32, block 16, float32; medians of 7; sgemm 200 GFLOP/s" in caption
    assert header.count("|") == rule.count("|") == lines[0].count("|") == lines[1].count("|")
    assert "block" not in header and "dtype" not in header  # constant: in the caption
    gflops = 4 * 32 * 64**2 * 16 * 0.125 / 2e-3 / 1e9
    assert lines[1] == f"| hypercube | 64 | forward | native | 2 | 4 | 8 | {gflops:.3g} | {gflops / 200:.0%} | 7 | 12 |"
    assert len(lines) == 2


def test_what_varies_gets_a_column_and_what_is_missing_goes():
    rows = [row("gather", 64, 2.0, peak_mib=None), row("gather", 64, 2.0, block_size=32, peak_mib=None)]
    header = to_markdown(rows).splitlines()[2]
    assert "| block |" in header and "peak" not in header


def test_disturbed_rows_are_noted():
    rows = [row("gather", 64, 2.0, kept=0), row("native", 64, 2.0)]
    assert "never quiet for 1 of 2 rows" in to_markdown(rows)
    console = Console(width=160)
    with console.capture() as captured:
        console.print(to_table(rows))
    assert "never quiet for 1 of 2 rows" in captured.get() and "abacus" in captured.get()


def test_the_plot_has_a_panel_for_each_pass_and_the_growth(tmp_path):
    rows = [
        row(name, n, n**power / 1e3, direction)
        for direction in ("forward", "backward")
        for name, power in ((DENSE, 2), ("native", 1))
        for n in (1024, 2048, 4096)
    ]
    save_plot(rows, tmp_path / "plot.svg")
    drawn = (tmp_path / "plot.svg").read_text()
    assert drawn.count("native (1.00)") == drawn.count("torch-sdpa (2.00)") == 2
    for text in (">forward<", ">backward<", ">4,096<", ">tokens<"):
        assert text in drawn
    save_plot(rows[:1], tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
