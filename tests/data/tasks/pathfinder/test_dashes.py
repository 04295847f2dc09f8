"""The tables against Pillow, which the published generator draws and scales with, and scipy's dilation."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from nip.data.tasks.pathfinder import dashes as tables

DISC = np.hypot(*np.mgrid[-2:3, -2:3]) <= 2


@pytest.fixture(scope="module")
def dashes():
    return tables.dashes()


def angle(dashes, direction):
    """Of the line as drawn: from the tail in the first 360 directions, from the head back in the others."""
    if direction < 360:
        return np.radians(direction - 180)
    row, column = dashes.turns[direction - 360]
    return np.arctan2(-row, -column)


def drawn(dashes, direction):
    """A dash at twice the resolution, by Pillow; its end is rounded up from 2 · 2 finer pixels."""
    theta = angle(dashes, direction)
    end = [8 + int(np.ceil(np.round(4 * step, 9))) for step in (np.cos(theta), np.sin(theta))]
    image = Image.new("L", (17, 17))
    ImageDraw.Draw(image).line([(8, 8), tuple(end)], fill=255, width=1)
    return np.asarray(image)


def shrunk(image, size):
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS)).astype(int)


@pytest.mark.parametrize("part", ["lines", "zones"])
def test_every_stamp_is_what_pillow_draws_and_scales(part, dashes):
    stamps = getattr(dashes, part)
    assert len(stamps) == 360 + len(dashes.turns)
    for direction, stamp in enumerate(stamps):
        image = drawn(dashes, direction)
        if part == "zones":
            image = ndimage.grey_dilation(image, footprint=DISC, mode="constant")
        assert np.abs(stamp - shrunk(image, 9)).max() <= 1, direction  # Pillow weighs with whole numbers


def test_the_marker_is_a_disc_of_radius_one_and_a_half(dashes):
    rows, columns = np.mgrid[:18, :18] - 8
    disc = np.where(rows**2 + columns**2 <= 9, 255, 0).astype(np.uint8)
    assert np.abs(dashes.marker - shrunk(disc, 9)).max() <= 1


def test_turns_are_the_pixels_of_a_circle_of_radius_three(dashes):
    theta = np.radians(np.arange(0, 360, 360 / (6 * np.pi)))
    assert {tuple(turn) for turn in dashes.turns.tolist()} == {
        (int(np.floor(3 * np.sin(t))), int(np.floor(3 * np.cos(t)))) for t in theta
    }
    assert dashes.turns.tolist() == sorted(dashes.turns.tolist())


def test_turning_is_weighted_by_the_squared_cosine(dashes):
    headings = np.concatenate([np.radians(np.arange(-180, 180)), np.arctan2(*dashes.turns.T)])
    unit = np.stack([np.cos(headings), np.sin(headings)], axis=1)
    cosine = np.maximum(unit @ unit[360:].T, 0)
    np.testing.assert_allclose(dashes.weights / 4096, cosine**2, atol=0.5 / 4096)


def test_steps(dashes):
    for direction in (*range(0, 360, 7), *range(360, len(dashes.lines))):
        theta = angle(dashes, direction) + (np.pi if direction >= 360 else 0)
        step = np.array([np.sin(theta), np.cos(theta)])

        def to(distance, step=step):
            return np.ceil(np.round(distance * step, 9)).astype(int)

        assert dashes.onward[direction].tolist() == to(4).tolist()
        if direction < 360:
            assert dashes.heads[direction].tolist() == to(2).tolist()
            assert dashes.pivots[direction].tolist() == (to(2) + to(-3)).tolist()


def test_solid_pixels_are_those_wholly_in_the_zone(dashes):
    for direction in range(360):
        window = np.zeros((7, 7), int)
        window[:, :] = dashes.zones[direction][:7, :7]  # the tail is at (4, 4), one off the middle
        expected = {(i - 3, j - 3) for i, j in zip(*np.nonzero(window == 255), strict=True)}
        n = dashes.n_solid[direction]
        assert {tuple(each) for each in dashes.solid[direction, :n].tolist()} == expected
        assert n >= 1
