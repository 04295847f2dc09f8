"""Pathfinder pictures in compiled loops; `drawing` calls them, `dashes` has their tables.

They are in one file because numba's cache on disk does not notice changes in other files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nip.data.compiled import compiled

Array = NDArray[Any]

_SIZE = 32
_HALF = 4  # a stamp is 9 × 9
_DEGREES = 360
_SEED_DISTANCE = 7  # pixels between the beginnings of the two long contours
_TRIES = 3  # of a dash
_CONTOUR_TRIES = 5  # of a distractor
_TOUCHING = 459  # 1.8 of 255: two zones with this sum overlap
_OCCUPIED = 76  # 0.3 of 255: a brighter pixel is occupied
_LEAST_FREE = 0.01  # minimum share of free pixels to begin a contour
# brightness of dashes of targets and distractors, and of markers, in halves: the contrasts 0.75 · 2, 2 and 1
_TARGET, _DISTRACTOR, _MARKER = 3, 4, 2


@compiled
def _below(rng: np.random.Generator, n: int) -> int:
    """A uniform integer in [0, n), with a bias of at most n / 2^53."""
    return int(rng.random() * n)


@compiled
def _inside(row: int, column: int) -> bool:
    return 0 <= row < _SIZE and 0 <= column < _SIZE


@compiled
def _fits(row: int, column: int, steps: Array, direction: int) -> bool:
    return _inside(row + steps[direction, 0], column + steps[direction, 1])


@compiled
def _set(rows: Array, k: int, row: int, column: int, direction: int) -> None:
    rows[k, 0], rows[k, 1], rows[k, 2] = row, column, direction


@compiled
def _move(at: Array, row: int, column: int, steps: Array, direction: int) -> None:
    """Move the pivot `at` (2,) to a step in `direction` from a pixel."""
    at[0], at[1] = row + steps[direction, 0], column + steps[direction, 1]


@compiled
def _put(canvas: Array, stamp: Array, row: int, column: int, factor: int) -> None:
    """Put a stamp on the canvas: the maximum of both."""
    for i in range(max(0, row - _HALF), min(_SIZE, row + _HALF + 1)):
        for j in range(max(0, column - _HALF), min(_SIZE, column + _HALF + 1)):
            canvas[i, j] = max(canvas[i, j], factor * np.int64(stamp[i - row + _HALF, j - column + _HALF]))


@compiled
def _wipe(canvas: Array, row: int, column: int) -> None:
    """Clear the pixels of a stamp."""
    for i in range(max(0, row - _HALF), min(_SIZE, row + _HALF + 1)):
        for j in range(max(0, column - _HALF), min(_SIZE, column + _HALF + 1)):
            canvas[i, j] = 0


@compiled
def _touches(occupied: Array, other: Array, stamp: Array, row: int, column: int) -> bool:
    for i in range(max(0, row - _HALF), min(_SIZE, row + _HALF + 1)):
        for j in range(max(0, column - _HALF), min(_SIZE, column + _HALF + 1)):
            if max(occupied[i, j], other[i, j]) + np.int64(stamp[i - row + _HALF, j - column + _HALF]) >= _TOUCHING:
                return True
    return False


@compiled
def _around(occupied: Array, other: Array, row: int, column: int) -> int:
    """The maximum occupation of a pixel and its four neighbours."""
    most: int = max(occupied[row, column], other[row, column])
    if row > 0:
        most = max(most, occupied[row - 1, column], other[row - 1, column])
    if row < _SIZE - 1:
        most = max(most, occupied[row + 1, column], other[row + 1, column])
    if column > 0:
        most = max(most, occupied[row, column - 1], other[row, column - 1])
    if column < _SIZE - 1:
        most = max(most, occupied[row, column + 1], other[row, column + 1])
    return most


@compiled
def _free(occupied: Array, solid: Array, border: int, out: Array) -> int:
    """Count the pixels where a first dash fits, at least `border` from the edge; their numbers go to `out`."""
    n = 0
    for row in range(_SIZE):
        for column in range(_SIZE):
            fits = True
            for k in range(solid.shape[0]):
                i, j = row + solid[k, 0], column + solid[k, 1]
                if _inside(i, j) and (occupied[i, j] > _OCCUPIED or min(i, j) < border or max(i, j) >= _SIZE - border):
                    fits = False
                    break
            if fits:
                out[n] = row * _SIZE + column
                n += 1
    return n


@compiled
def _begin(rng: np.random.Generator, occupied: Array, border: int, tables: Any, free: Array) -> tuple[int, int, int]:
    """A first dash where one fits: row and column of its tail and its direction, or a direction of −1."""
    heads, pivots, solid, n_solid = tables[2], tables[3], tables[6], tables[7]
    for _ in range(_TRIES):
        direction = _below(rng, _DEGREES)
        n = _free(occupied, solid[direction, : n_solid[direction]], border, free)
        if n == 0:
            return 0, 0, -1
        tail = free[_below(rng, n)]
        row, column = tail // _SIZE, tail % _SIZE
        if _fits(row, column, heads, direction) and _fits(row, column, pivots, direction):
            return row, column, direction
    return 0, 0, -1


@compiled
def _begin_second(rng: np.random.Generator, row: int, column: int, tables: Any, around: Array) -> tuple[int, int, int]:
    """A first dash at the seed distance from another tail, inside the picture."""
    heads, pivots = tables[2], tables[3]
    for _ in range(_TRIES):
        direction = _below(rng, _DEGREES)
        angle = _below(rng, _DEGREES)
        i, j = row + around[angle, 0], column + around[angle, 1]
        if _fits(i, j, heads, direction) and _fits(i, j, pivots, direction):
            return i, j, direction
    return 0, 0, -1


@compiled
def _extend(
    rng: np.random.Generator, occupied: Array, other: Array, pivot: Array, direction: int, tables: Any, sums: Array
) -> tuple[int, int, int]:
    """The next dash after one in `direction`, from `pivot`: row and column of its head and its direction, or −1.

    `occupied` and `other` are the zones that it must avoid.
    """
    zones, turns, weights = tables[1], tables[4], tables[5]
    total = 0
    for k in range(turns.shape[0]):
        row, column = pivot[0] + turns[k, 0], pivot[1] + turns[k, 1]
        if _inside(row, column):
            total += (255 - _around(occupied, other, row, column)) * weights[direction, k]
        sums[k] = total
    if total == 0:
        return 0, 0, -1
    for _ in range(_TRIES):
        drawn = _below(rng, total)
        k = 0
        while sums[k] <= drawn:
            k += 1
        row, column = pivot[0] + turns[k, 0], pivot[1] + turns[k, 1]
        if not _touches(occupied, other, zones[_DEGREES + k], row, column):
            return row, column, _DEGREES + k
    return 0, 0, -1


@compiled
def _targets(
    rng: np.random.Generator, length: int, tables: Any, around: Array, occupied: Array, drawn: Array, work: Any
) -> bool:
    """Try to grow two contours of `length` dashes side by side; True if both are complete.

    `drawn[s, k]` becomes (row, column, direction) of dash k of contour s, `occupied` their zones.
    """
    zones, pivots, onward = tables[1], tables[3], tables[8]
    free, sums, last, at = work
    for i in range(_SIZE):
        for j in range(_SIZE):
            occupied[i, j] = 255 if min(i, j) == 0 or max(i, j) == _SIZE - 1 else 0
            last[0, i, j] = last[1, i, j] = 0
    row, column, direction = _begin(rng, occupied, 2 * _SEED_DISTANCE, tables, free)
    if direction < 0:
        return False
    _set(drawn[0], 0, row, column, direction)
    _move(at[0], row, column, pivots, direction)
    _put(last[0], zones[direction], row, column, 1)
    row, column, direction = _begin_second(rng, row, column, tables, around)
    # the published generator lets the two first dashes, and a dash and the last one of the other contour, overlap
    if direction < 0 or _touches(last[0], last[1], zones[direction], row, column):
        return False
    _set(drawn[1], 0, row, column, direction)
    _move(at[1], row, column, pivots, direction)
    _put(last[1], zones[direction], row, column, 1)
    for k in range(1, length):
        for s in range(2):
            i, j, heading = drawn[s, k - 1]
            _move(at[s], at[s, 0], at[s, 1], onward, heading)
            row, column, direction = _extend(rng, occupied, last[1 - s], at[s], heading, tables, sums)
            if direction < 0:
                return False
            _set(drawn[s], k, row, column, direction)
            _put(occupied, zones[heading], i, j, 1)
            _wipe(last[s], i, j)
            _put(last[s], zones[direction], row, column, 1)
    for s in range(2):
        row, column, direction = drawn[s, length - 1]
        _put(occupied, zones[direction], row, column, 1)
    return True


@compiled
def _distractor(rng: np.random.Generator, length: int, tables: Any, occupied: Array, drawn: Array, work: Any) -> bool:
    """Try to grow a contour of `length` dashes where it fits; True if it is complete."""
    zones, pivots, onward = tables[1], tables[3], tables[8]
    free, sums, last, at = work
    own = last[0]  # the zones of all its dashes but the last, which the next one may touch
    n_free = 0
    for i in range(_SIZE):
        for j in range(_SIZE):
            n_free += occupied[i, j] <= _OCCUPIED
    if n_free < _LEAST_FREE * _SIZE * _SIZE:
        return False
    row, column, direction = _begin(rng, occupied, 1, tables, free)
    if direction < 0:
        return False
    _set(drawn, 0, row, column, direction)
    _move(at[0], row, column, pivots, direction)
    for i in range(_SIZE):
        for j in range(_SIZE):
            own[i, j] = 0
    for k in range(1, length):
        i, j, heading = drawn[k - 1]
        _move(at[0], at[0, 0], at[0, 1], onward, heading)
        row, column, direction = _extend(rng, occupied, own, at[0], heading, tables, sums)
        if direction < 0:
            return False
        _set(drawn, k, row, column, direction)
        _put(own, zones[heading], i, j, 1)
    for k in range(length):
        row, column, direction = drawn[k]
        _put(occupied, zones[direction], row, column, 1)
    return True


@compiled
def draw(
    rng: np.random.Generator, rule: tuple[int, int, int], tables: Any, around: Array, marker: Array
) -> tuple[Array, int, Array, Array, Array]:
    """Draw one picture.

    Parameters
    ----------
    rng : Generator
    rule : tuple of int
        Dashes of a target, dashes of a distractor, distractors to try.
    tables : tuple of ndarray
        Those of `Dashes`: lines, zones, heads, pivots, turns, weights, solid, n_solid, onward.
    around : ndarray of shape (360, 2), int64
        Steps from the beginning of the first contour to that of the second.
    marker : ndarray of shape (9, 9), uint8

    Returns
    -------
    picture : ndarray of shape (32, 32), uint8
    label : int
    contours : ndarray of shape (n_dashes,), int64
        The contour of every dash; 0 and 1 are the targets.
    dashes : ndarray of shape (n_dashes, 3), int64
        Row, column and direction.
    markers : ndarray of shape (2, 2), int64
        Row and column.
    """
    length, short, n_distractors = rule
    label = _below(rng, 2)
    lines, turns = tables[0], tables[4]
    occupied = np.empty((_SIZE, _SIZE), np.int64)
    work = (
        np.empty(_SIZE * _SIZE, np.int64),
        np.empty(turns.shape[0], np.int64),
        np.empty((2, _SIZE, _SIZE), np.int64),
        np.zeros((2, 2), np.int64),
    )
    targets = np.empty((2, length, 3), np.int64)
    while not _targets(rng, length, tables, around, occupied, targets, work):
        pass
    dashes = np.empty((2 * length + short * n_distractors, 3), np.int64)
    contours = np.empty(dashes.shape[0], np.int64)
    n = 0
    for s in range(2):
        for k in range(length):
            row, column, direction = targets[s, k]
            _set(dashes, n, row, column, direction)
            contours[n] = s
            n += 1
    for s in range(n_distractors):
        for _ in range(_CONTOUR_TRIES):
            if _distractor(rng, short, tables, occupied, dashes[n:], work):
                for k in range(n, n + short):
                    contours[k] = 2 + s
                n += short
                break
    canvas = np.zeros((_SIZE, _SIZE), np.int64)
    for k in range(n):
        row, column, direction = dashes[k]
        _put(canvas, lines[direction], row, column, _TARGET if k < 2 * length else _DISTRACTOR)
    begins = _below(rng, 2)
    ends = begins if label == 1 else 1 - begins
    markers = np.empty((2, 2), np.int64)
    markers[0, 0], markers[0, 1] = targets[begins, 0, 0], targets[begins, 0, 1]
    markers[1, 0], markers[1, 1] = targets[ends, length - 1, 0], targets[ends, length - 1, 1]
    brightest = 0
    for k in range(2):
        _put(canvas, marker, markers[k, 0], markers[k, 1], _MARKER)
    for i in range(_SIZE):
        for j in range(_SIZE):
            brightest = max(brightest, canvas[i, j])
    picture = np.empty((_SIZE, _SIZE), np.uint8)
    for i in range(_SIZE):
        for j in range(_SIZE):
            picture[i, j] = (510 * canvas[i, j] + brightest) // (2 * brightest)  # the brightest pixel becomes 255
    return picture, label, contours[:n], dashes[:n], markers
