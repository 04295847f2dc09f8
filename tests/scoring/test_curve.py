import math

import pytest

from nip.graphs import pattern
from nip.scoring import compare
from nip.scoring.curve import curve_figure, curve_rows, save_curve, score_over_size

SIZES = (16, 32, 64)


@pytest.fixture(scope="module")
def rows():
    names = ("hypercube", "local", "softmax", "global")
    return compare([pattern(name, n) for n in SIZES for name in names] + [pattern("projective_plane", 14, order=2)])


def test_a_score_over_the_size_is_the_closed_form(rows):
    over = score_over_size(rows)
    for n in SIZES:
        k = n.bit_length() - 1
        nip = math.factorial(k) / k ** (k + 2)  # of the hypercube; 1 / (n − 1)² of the complete graph
        assert over["hypercube"][n] == pytest.approx(math.log10(nip * (n - 1) ** 2))
        assert over["softmax"][n] == 0
    assert list(over["hypercube"]) == sorted(SIZES) and list(over["projective_plane"]) == [14]


def test_the_best_at_the_largest_size_is_first(rows):
    assert list(score_over_size(rows))[:3] == ["global", "hypercube", "softmax"]
    assert list(score_over_size(rows, "diameter"))[:2] == ["softmax", "global"]


def test_the_table_has_a_column_for_each_size(rows):
    table = {record["pattern"]: record for record in curve_rows(rows)}
    assert list(table["hypercube"]) == ["pattern", "N=14", "N=16", "N=32", "N=64"]
    assert table["hypercube"]["N=14"] == "–" and table["softmax"]["N=64"] == "1"


def test_a_curve_that_would_flatten_the_others_is_named_and_not_drawn(rows):
    (axes,) = curve_figure(rows).axes
    drawn = {line.get_label(): list(line.get_xdata()) for line in axes.lines}
    assert drawn["hypercube"] == list(SIZES)
    assert drawn["local"] == [16] and "local at 32, 64" in axes.get_title(loc="left")


@pytest.mark.parametrize("ending", ["png", "svg", "html"])
def test_the_figure_is_written(rows, tmp_path, ending):
    first = save_curve(rows, tmp_path / f"a.{ending}").read_bytes()
    assert len(first) > 1000 and first == save_curve(rows, tmp_path / f"b.{ending}").read_bytes()


def test_unknown_score(rows):
    with pytest.raises(ValueError, match="There is no score 'beauty'"):
        score_over_size(rows, "beauty")
