import re

import numpy as np
import pytest
from hypothesis import given, settings

from nip.graphs import pattern, to_mask
from nip.report.masks import mask_picture
from strategies import any_patterns


def drawn(figure):
    """The picture as an array, from the strips of its path."""
    svg = figure.find("svg")
    width, height = map(int, svg.get("viewBox").split()[2:])
    image = np.zeros((height, width), dtype=int)
    for column, row, length, back in re.findall(r"M(\d+) (\d+)h(\d+)v1h-(\d+)z", svg.find("path").get("d")):
        assert length == back
        image[int(row), int(column) : int(column) + int(length)] += 1
    return image


@settings(deadline=None)
@given(any_patterns(12))
def test_the_picture_is_the_mask(graph):
    assert np.array_equal(drawn(mask_picture(graph)), to_mask(graph).astype(int))


@pytest.mark.parametrize("n", [129, 256, 300])
def test_large_masks_are_drawn_in_cells(n):
    graph = pattern("bigbird", n, seed=3)
    mask, width = to_mask(graph), -(-n // 128)
    size = -(-n // width)
    expected = np.array(
        [
            [mask[i * width : (i + 1) * width, j * width : (j + 1) * width].any() for j in range(size)]
            for i in range(size)
        ]
    )
    figure = mask_picture(graph)
    assert np.array_equal(drawn(figure), expected.astype(int))
    assert f"a cell is {width} × {width} blocks" in "".join(figure.itertext())


def test_the_caption_names_it_and_says_how_much_is_attended():
    figure = mask_picture(pattern("hypercube", 128))
    assert "".join(figure.itertext()) == "hypercube6.25 % of all pairs"
