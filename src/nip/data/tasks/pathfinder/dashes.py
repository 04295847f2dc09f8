"""The dashes of Pathfinder in every direction, as tables for the kernel.

A picture is composed of dashes of two pixels, drawn at twice the resolution and scaled down with a Lanczos window. A
dash has one of some 380 directions: a contour begins at an integer degree and continues towards one of the pixels on a
circle. So stamps, forbidden zones and turning weights are computed once. All entries are integers, so the pictures do
not depend on a machine's rounding.

The geometry is that of the published generator (Linsley et al., arXiv 1805.08315; Kim, Linsley et al., arXiv
1906.01558) with the parameters that Long Range Arena states for 32 × 32 pixels (arXiv 2011.04006, data/pathfinder.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = 32  # pixels on a side
LENGTH = 2  # pixels of a dash
MARGIN = 1  # pixels kept free around it
SCALE = 2  # finer pixels per pixel while drawing
MARKER_RADIUS = 1.5  # pixels
CONTINUITY = 1.0  # how strongly turns are avoided
THICKNESS = 0.5  # pixels

STEP = LENGTH + MARGIN  # from a pivot to the head of its dash
PITCH = LENGTH + 2 * MARGIN  # from a pivot to the next
REACH = LENGTH + 1 + MARGIN  # a stamp is a square of 2 · REACH + 1 pixels
DEGREES = 360
WEIGHT = 4096  # a turning weight of 1
EPSILON = 1e-9  # below the distance of any coordinate from an integer, above rounding errors

Array = NDArray[Any]


@dataclass(frozen=True)
class Dashes:
    """The tables. Directions 0 … 359 are degrees −180 … 179; the others those of `turns`, in order.

    Parameters
    ----------
    turns : ndarray of shape (n_turns, 2), int64
        Row and column of the possible heads of a dash, relative to its pivot; in ascending order.
    lines, zones : ndarray of shape (n_directions, 9, 9), uint8
        Brightness of a dash, and the zone that other dashes must avoid, around the pixel that it is drawn from: its
        tail in the first 360 directions, its head in the others.
    heads, pivots, onward : ndarray of shape (n_directions, 2), int64
        Head and virtual pivot of a first dash, relative to its tail; the next pivot, relative to the present one.
    weights : ndarray of shape (n_directions, n_turns), int64
        Weight of each turn after a dash in a direction, 0 … 4096.
    solid : ndarray of shape (360, n_solid, 2), int64
        The pixels of a first dash's zone, relative to its tail; the first `n_solid` count.
    n_solid : ndarray of shape (360,), int64
    marker : ndarray of shape (9, 9), uint8
        Brightness of a round marker.
    """

    turns: Array
    lines: Array
    zones: Array
    heads: Array
    pivots: Array
    onward: Array
    weights: Array
    solid: Array
    n_solid: Array
    marker: Array


@cache
def dashes() -> Dashes:
    """The tables for 32 × 32 pixels; computed once, in a few hundredths of a second."""
    around = np.arange(0, 360, 360 / (2 * np.pi * STEP)) * np.pi / 180
    turns = np.unique(np.floor(STEP * np.stack([np.sin(around), np.cos(around)], axis=1) + EPSILON), axis=0)
    angles = np.concatenate([np.arange(-180, 180) * np.pi / 180, np.arctan2(turns[:, 0], turns[:, 1])])
    drawn = np.where(np.arange(angles.size) < DEGREES, angles, angles + np.pi)  # later dashes from the head backwards
    fine = [_fine_line(angle) for angle in drawn]
    zones = np.stack([_shrink(_dilate(image, SCALE * MARGIN), 2 * REACH + 1) for image in fine])
    heads = ahead(angles, LENGTH)
    turning = np.abs(angles[:, None] - angles[None, DEGREES:])
    turning = np.minimum(np.minimum(turning, 2 * np.pi - turning) * CONTINUITY, np.pi / 2)
    solid, n_solid = _solid(zones[:DEGREES])
    return Dashes(
        turns=turns.astype(np.int64),
        lines=np.stack([_shrink(image, 2 * REACH + 1) for image in fine]),
        zones=zones,
        heads=heads,
        pivots=heads + ahead(angles + np.pi, STEP),
        onward=ahead(angles, PITCH),
        weights=np.rint(WEIGHT * np.cos(turning) ** 2).astype(np.int64),
        solid=solid,
        n_solid=n_solid,
        marker=_marker(),
    )


def ahead(angle: Array | float, distance: float) -> Array:
    """Rows and columns to the pixel at a distance in some directions, rounded up as the published generator does."""
    steps = distance * np.stack([np.sin(angle), np.cos(angle)], axis=-1)
    return np.ceil(steps - EPSILON).astype(np.int64)


def _fine_line(angle: float) -> Array:
    """A dash from the centre, one fine pixel wide; ndarray of shape (17, 17), 0 or 255."""
    centre = SCALE * REACH
    image = np.zeros((2 * centre + 1, 2 * centre + 1), np.uint8)
    rows, columns = ahead(angle, SCALE * LENGTH)
    along, across = max(abs(rows), abs(columns)), min(abs(rows), abs(columns))
    error, offset = 2 * across - along, 0  # Bresenham's line
    for i in range(along + 1):
        row, column = (i, offset) if abs(rows) > abs(columns) else (offset, i)
        image[centre + np.sign(rows) * row, centre + np.sign(columns) * column] = 255
        if error >= 0:
            offset, error = offset + 1, error - 2 * along
        error += 2 * across
    return image


def _dilate(image: Array, radius: int) -> Array:
    """Dilation with a disc: every pixel becomes the maximum within `radius`."""
    n = len(image)
    padded = np.pad(image, radius)
    out = np.zeros_like(image)
    for row in range(-radius, radius + 1):
        for column in range(-radius, radius + 1):
            if row**2 + column**2 <= radius**2:
                there = padded[radius + row : radius + row + n, radius + column : radius + column + n]
                out = np.maximum(out, there)
    return out


def _shrink(image: Array, size: int) -> Array:
    """A square picture scaled down with a Lanczos window of three lobes, rounded to 0 … 255 after each axis."""
    n = len(image)
    ratio = n / size
    centres = (np.arange(size) + 0.5) * ratio
    distances = (np.arange(n)[None, :] + 0.5 - centres[:, None]) / ratio
    window = np.where(np.abs(distances) < 3, np.sinc(distances) * np.sinc(distances / 3), 0)
    window /= window.sum(axis=1, keepdims=True)
    for _ in range(2):  # columns first, then rows
        image = np.clip(np.floor(window @ image.T.astype(float) + 0.5), 0, 255)
    return image.astype(np.uint8)


def _solid(zones: Array) -> tuple[Array, Array]:
    """Offsets of the fully occupied pixels of each zone in a window of 7 × 7 around the pixel before the tail."""
    n = 2 * STEP + 1
    # the published generator has the tail one pixel off the centre of this window, which only moves first dashes
    window = zones[:, REACH - STEP - 1 : REACH - STEP - 1 + n, REACH - STEP - 1 : REACH - STEP - 1 + n] == 255
    places = [np.argwhere(each) - STEP for each in window]
    solid = np.zeros((len(places), max(map(len, places)), 2), np.int64)
    for row, each in zip(solid, places, strict=True):
        row[: len(each)] = each
    return solid, np.array([len(each) for each in places])


def _marker() -> Array:
    half = 4  # pixels on each side: the disc and the ringing around it
    fine = SCALE * half
    places = np.arange(SCALE * (2 * half + 1)) - fine
    disc = places[:, None] ** 2 + places[None, :] ** 2 <= (SCALE * MARKER_RADIUS) ** 2
    return _shrink(255 * disc.astype(np.uint8), 2 * half + 1)
