import csv
import io
import json
import math

import pytest

from nip.graphs import PATTERNS, pattern
from nip.scoring import compare, score, table

ALL = [pattern(name, 128) for name in PATTERNS]


@pytest.fixture(scope="module")
def rows():
    return compare(ALL, 16)


def test_best_first_by_the_discounted_score(rows):
    assert {row.score.pattern for row in rows} == set(PATTERNS)
    values = [row.score.bottleneck_nip_relative for row in rows]
    assert values == sorted(values, reverse=True)
    assert [row.score.pattern for row in rows][:3] == ["projective_plane", "generalized_quadrangle", "softmax"]
    assert rows[2].score == score(pattern("softmax", 128), 16)
    assert [row.score.pattern for row in rows][-2:] == ["local", "random"]


@pytest.mark.parametrize("sort", table.SORTS)
def test_every_sort_orders(sort):
    ordered = [row.to_dict()[sort] for row in compare(ALL, 4, sort=sort, depth=3)]
    known = [value for value in ordered if value is not None]
    assert known == sorted(known, reverse="nip" in sort or "reach" in sort)
    assert None not in ordered[: len(known)]


def test_a_depth_adds_what_arrives_and_sorts_by_it():
    rows = compare(ALL, 16, depth=4)
    values = [row.to_dict() for row in rows]
    assert [row["even_reach"] for row in values] == sorted((row["even_reach"] for row in values), reverse=True)
    cube = next(row for row in values if row["pattern"] == "hypercube")
    within = sum(math.comb(7, k) for k in range(5)) * 16 - 1  # tokens of the blocks, without the token itself
    assert cube["reach"] == pytest.approx(within / 2047) and cube["steps"] == 4
    assert cube["log10_least_payload"] is None
    shown = table.cells(next(row for row in rows if row.score.pattern == "hypercube"))
    assert shown["reach"] == f"{within / 2047:.3f}" and "vertex NIP" not in shown
    assert json.loads(table.to_json(rows)) == json.loads(json.dumps(values))


def test_what_a_depth_needs():
    with pytest.raises(ValueError, match="Sorting by even_reach needs a depth"):
        compare(ALL, sort="even_reach")
    with pytest.raises(ValueError, match=r"'depth' parameter of compare must be an integer of at least 1. Got 0"):
        compare(ALL, depth=0)


def test_scores_that_round_to_zero_are_still_ordered():
    three = [pattern("random", 2000), pattern("local", 2000), pattern("local", 2000, num_sliding_window_blocks=5)]
    rows = compare(three, 16)
    assert [row.score.nip for row in rows] == [0, 0, 0]
    assert [row.score.mean_degree < 70 for row in rows][1] and not rows[2].score.connected
    assert table.cells(rows[1])["NIP"].startswith(("1", "2", "3", "4", "5", "6", "7", "8", "9"))


def test_rows_carry_the_vertex_level(rows):
    cube = next(row.to_dict() for row in rows if row.score.pattern == "hypercube")
    assert cube["vertex_nip_relative"] == pytest.approx(2.014, abs=5e-4)
    assert cube["nip_relative"] == pytest.approx(0.748, abs=5e-4)


def test_json_csv_and_markdown_say_the_same(rows):
    listed = json.loads(table.to_json(rows))
    records = list(csv.DictReader(io.StringIO(table.to_csv(rows))))
    assert [r["pattern"] for r in records] == [r["pattern"] for r in listed] == [row.score.pattern for row in rows]
    for record, entry in zip(records, listed, strict=True):
        assert record.keys() == entry.keys()
        assert float(record["nip_relative"]) == entry["nip_relative"]
        assert record["diameter"] == ("" if entry["diameter"] is None else str(entry["diameter"]))
        assert json.loads(record["parameters"]) == entry["parameters"]
    lines = table.to_markdown(rows).splitlines()
    assert len(lines) == 2 + len(rows)
    assert all(line.count("|") == lines[0].count("|") for line in lines)


def test_html_is_self_contained_and_escaped():
    from nip.graphs import rename

    rows = compare([rename(pattern("local", 8), "<script>alert(1)</script>")])
    page = table.to_html(rows, "a & b")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "a &amp; b" in page
    assert "http" not in page


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "1"), (0.685286, "4.845"), (-58.470, "3.4e-59"), (-float("inf"), "0"), (None, "–"), (7, "1.0e7")],
)
def test_relative_text(value, text):
    assert table.relative_text(value) == text


def test_in_parallel_as_in_turn(rows):
    pytest.importorskip("joblib")
    assert compare(ALL, 16, jobs=2) == rows


def test_unknown_sort():
    with pytest.raises(ValueError, match="Sort by one of bottleneck_nip_relative, nip_relative"):
        compare([], sort="size")
