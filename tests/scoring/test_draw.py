import matplotlib.image
import numpy as np
import pytest

from nip.graphs import Pattern, pattern, to_mask
from nip.scoring import save_figure
from nip.scoring.draw import mask_image


def test_a_small_mask_is_drawn_pair_by_pair():
    p = pattern("bigbird", 60)
    assert np.array_equal(mask_image(p), to_mask(p))


def test_a_large_mask_is_drawn_by_the_share_of_attended_pairs():
    p = pattern("longformer", 1024)
    cells = to_mask(p).reshape(512, 2, 512, 2).mean(axis=(1, 3))
    assert np.array_equal(mask_image(p), cells)
    assert mask_image(pattern("local", 1100)).shape == (367, 367)


def test_png(tmp_path):
    image = matplotlib.image.imread(save_figure(pattern("hypercube", 32), tmp_path / "cube.png"))
    assert image.shape[0] > 400
    assert image.std() > 0.05


def test_svg_is_reproducible_and_has_a_title(tmp_path):
    first = save_figure(pattern("local", 20), tmp_path / "a.svg", 4).read_text()
    assert first == save_figure(pattern("local", 20), tmp_path / "b.svg", 4).read_text()
    assert first.startswith("<?xml")
    assert "local on 20 vertices" in first
    assert "4 tokens a block" in first


def test_html_contains_the_figure_and_escapes_the_name(tmp_path):
    page = save_figure(Pattern.from_edges(3, [0], [1], name="<b>"), tmp_path / "a.html").read_text()
    assert "data:image/png;base64," in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page


@pytest.mark.parametrize("n", [1, 2])
def test_the_smallest_graphs_can_be_drawn(tmp_path, n):
    assert save_figure(pattern("softmax", n), tmp_path / "a.png").stat().st_size > 1000


def test_unknown_ending(tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.png, \.svg, \.html"):
        save_figure(pattern("local", 8), tmp_path / "a.bmp")
