import math

import numpy as np
import pytest

from nip.study import paper


def test_pearson_is_098_and_its_square_what_the_paper_prints():
    found = paper.reproduced()
    assert found["pearson_r"] == pytest.approx(np.corrcoef(paper.NIP, paper.ACCURACY)[0, 1])
    assert f"{found['pearson_r']:.3f}" == "0.980"
    assert f"{found['pearson_r_squared']:.2f}" == str(paper.PRINTED)
    assert found["n"] == 5 and found["spearman_r"] == pytest.approx(1)
    assert found["spearman_p"] == pytest.approx(2 / math.factorial(5))


def test_logarithms_and_points_left_out():
    found = paper.reproduced()
    logs = np.log10(paper.NIP)
    assert found["log10_nip"]["pearson_r"] == pytest.approx(np.corrcoef(logs, paper.ACCURACY)[0, 1])
    assert found["without"]["hypercube"] == pytest.approx(np.corrcoef(paper.NIP[:4], paper.ACCURACY[:4])[0, 1])
    assert found["log10_nip"]["without"]["third"] == pytest.approx(
        np.corrcoef(np.delete(logs, 1), np.delete(paper.ACCURACY, 1))[0, 1]
    )


def test_what_is_said_of_other_explanations_holds():
    """Neither the rank correlation nor that of logarithms nor the adjusted r squared rounds to the printed figure."""
    found = paper.reproduced()
    adjusted = 1 - (1 - found["pearson_r_squared"]) * 4 / 3
    for other in (found["pearson_r"], found["spearman_r"], found["log10_nip"]["pearson_r"], adjusted):
        assert round(other, 2) != paper.PRINTED
    assert round(found["without"]["hypercube"], 2) == paper.PRINTED
    words = paper.in_words()
    assert "0.9801" in words and "0.9605" in words
