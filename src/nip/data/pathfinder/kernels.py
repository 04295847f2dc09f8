"""Pathfinder pictures in compiled loops. `nip.data.pathfinder.drawing` says what they are, `…dashes` what they look up.

All of it is in one file because a compiled function kept on disk does not notice changes in other files.
"""

from __future__ import annotations

from typing import Any

import numpy as np

try:
    import numba
except ImportError as error:
    raise ImportError("Drawing Pathfinder pictures needs numba: pip install 'nip[fast]'") from error

from numpy.typing import NDArray

Array = NDArray[Any]

compiled = numba.njit(nogil=True, cache=True)

_SIZE = 32
_HALF = 4  # a stamp is 9 × 9
_DEGREES = 360
_SEED_DISTANCE = 7  # pixels from the first marker to where the other contour begins
_TRIES = 3  # of a dash
_CONTOUR_TRIES = 5  # of a distractor
_TOUCHING = 459  # 1.8 of 255: two zones that add up to it overlap
_OCCUPIED = 76  # 0.3 of 255: a pixel above it is taken
_LEAST_FREE = 0.01  # share of free pixels below which no contour is begun
# brightness of a dash of a target and of a distractor, and of a marker, in halves: the contrasts 0.75 · 2, 2 and 1
_TARGET, _DISTRACTOR, _MARKER = 3, 4, 2


@compiled
def _below(rng: np.random.Generator, n: int) -> int:
    """A uniform integer in [0, n); the bias of at most n / 2^53 is left."""
    return int(rng.random() * n)


@compiled
def _inside(row: int, column: int) -> bool:
    return 0 <= row < _SIZE and 0 <= column < _SIZE


@compiled
def _put(canvas: Array, stamp: Array, row: int, column: int, factor: int) -> None:
    """Lay a stamp on the canvas: where it is brighter, it shows."""
    for i in range(max(0, row - _HALF), min(_SIZE, row + _HALF + 1)):
        for j in range(max(0, column - _HALF), min(_SIZE, column + _HALF + 1)):
            canvas[i, j] = max(canvas[i, j], factor * np.int64(stamp[i - row + _HALF, j - column + _HALF]))


@compiled
def _wipe(canvas: Array, row: int, column: int) -> None:
    """Blacken where a stamp was."""
    canvas[max(0, row - _HALF) : row + _HALF + 1, max(0, column - _HALF) : column + _HALF + 1] = 0


@compiled
def _touches(occupied: Array, other: Array, stamp: Array, row: int, column: int) -> bool:
    for i in range(max(0, row - _HALF), min(_SIZE, row + _HALF + 1)):
        for j in range(max(0, column - _HALF), min(_SIZE, column + _HALF + 1)):
            if max(occupied[i, j], other[i, j]) + np.int64(stamp[i - row + _HALF, j - column + _HALF]) >= _TOUCHING:
                return True
    return False


@compiled
def _around(occupied: Array, other: Array, row: int, column: int) -> int:
    """The most that a pixel or one of its four neighbours is occupied."""
    most = max(occupied[row, column], other[row, column])
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
    """Count the pixels from which a first dash has room, at least `border` from the edge; their numbers go to `out`."""
    n = 0
    for row in range(_SIZE):
        for column in range(_SIZE):
            room = True
            for k in range(solid.shape[0]):
                i, j = row + solid[k, 0], column + solid[k, 1]
                if _inside(i, j) and (occupied[i, j] > _OCCUPIED or min(i, j) < border or max(i, j) >= _SIZE - border):
                    room = False
                    break
            if room:
                out[n] = row * _SIZE + column
                n += 1
    return n


@compiled
def _begin(rng: np.random.Generator, occupied: Array, border: int, tables: Any, room: Array) -> tuple[int, int, int]:
    """A first dash where there is room: row and column of its tail and its direction, or a direction of −1."""
    heads, pivots, solid, n_solid = tables[2], tables[3], tables[6], tables[7]
    for _ in range(_TRIES):
        direction = _below(rng, _DEGREES)
        n = _free(occupied, solid[direction, : n_solid[direction]], border, room)
        if n == 0:
            return 0, 0, -1
        tail = room[_below(rng, n)]
        row, column = tail // _SIZE, tail % _SIZE
        head, pivot = heads[direction], pivots[direction]
        if _inside(row + head[0], column + head[1]) and _inside(row + pivot[0], column + pivot[1]):
            return row, column, direction
    return 0, 0, -1


@compiled
def _begin_second(rng: np.random.Generator, row: int, column: int, tables: Any, around: Array) -> tuple[int, int, int]:
    """A first dash at the seed distance from another's tail, wherever it fits into the picture."""
    heads, pivots = tables[2], tables[3]
    for _ in range(_TRIES):
        direction = _below(rng, _DEGREES)
        step = around[_below(rng, _DEGREES)]
        i, j = row + step[0], column + step[1]
        head, pivot = heads[direction], pivots[direction]
        if _inside(i + head[0], j + head[1]) and _inside(i + pivot[0], j + pivot[1]):
            return i, j, direction
    return 0, 0, -1


@compiled
def _extend(
    rng: np.random.Generator, occupied: Array, other: Array, pivot: Array, direction: int, tables: Any, sums: Array
) -> tuple[int, int, int]:
    """The next dash after one in `direction`, from `pivot`: row and column of its head and its direction, or −1.

    `occupied` and `other` are the zones that it has to keep out of.
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
    """Try to grow two contours of `length` dashes side by side; True if both came to their end.

    `drawn[s, k]` becomes (row, column, direction) of dash k of contour s, `occupied` their zones.
    """
    zones, pivots, onward = tables[1], tables[3], tables[8]
    room, sums, last, own, at = work
    occupied[:] = 0
    occupied[0, :] = occupied[-1, :] = 255
    occupied[:, 0] = occupied[:, -1] = 255
    last[:] = 0
    row, column, direction = _begin(rng, occupied, 2 * _SEED_DISTANCE, tables, room)
    if direction < 0:
        return False
    drawn[0, 0, 0], drawn[0, 0, 1], drawn[0, 0, 2] = row, column, direction
    at[0] = pivots[direction] + drawn[0, 0, :2]
    _put(last[0], zones[direction], row, column, 1)
    row, column, direction = _begin_second(rng, row, column, tables, around)
    # the published generator lets the two first dashes, and a dash and the last one of the other contour, overlap
    if direction < 0 or _touches(last[0], last[1], zones[direction], row, column):
        return False
    drawn[1, 0, 0], drawn[1, 0, 1], drawn[1, 0, 2] = row, column, direction
    at[1] = pivots[direction] + drawn[1, 0, :2]
    _put(last[1], zones[direction], row, column, 1)
    for k in range(1, length):
        for s in range(2):
            direction = drawn[s, k - 1, 2]
            at[s] += onward[direction]
            before, beside = drawn[s, k - 1, 0], drawn[s, k - 1, 1]
            row, column, direction = _extend(rng, occupied, last[1 - s], at[s], direction, tables, sums)
            if direction < 0:
                return False
            drawn[s, k, 0], drawn[s, k, 1], drawn[s, k, 2] = row, column, direction
            _put(occupied, zones[drawn[s, k - 1, 2]], before, beside, 1)
            _wipe(last[s], before, beside)
            _put(last[s], zones[direction], row, column, 1)
    occupied[:] = np.maximum(occupied, np.maximum(last[0], last[1]))
    return True


@compiled
def _distractor(rng: np.random.Generator, length: int, tables: Any, occupied: Array, drawn: Array, work: Any) -> bool:
    """Try to grow one contour of `length` dashes where there is room; True if it came to its end."""
    zones, pivots, onward = tables[1], tables[3], tables[8]
    room, sums, last, own, at = work
    n_free = 0
    for i in range(_SIZE):
        for j in range(_SIZE):
            n_free += occupied[i, j] <= _OCCUPIED
    if n_free < _LEAST_FREE * _SIZE * _SIZE:
        return False
    row, column, direction = _begin(rng, occupied, 1, tables, room)
    if direction < 0:
        return False
    drawn[0, 0], drawn[0, 1], drawn[0, 2] = row, column, direction
    at[0] = pivots[direction] + drawn[0, :2]
    own[:] = 0  # the zones of all its dashes but the last, which the next one may touch
    for k in range(1, length):
        direction = drawn[k - 1, 2]
        at[0] += onward[direction]
        row, column, direction = _extend(rng, occupied, own, at[0], direction, tables, sums)
        if direction < 0:
            return False
        _put(own, zones[drawn[k - 1, 2]], drawn[k - 1, 0], drawn[k - 1, 1], 1)
        drawn[k, 0], drawn[k, 1], drawn[k, 2] = row, column, direction
    for k in range(length):
        _put(occupied, zones[drawn[k, 2]], drawn[k, 0], drawn[k, 1], 1)
    return True


@compiled
def draw(
    rng: np.random.Generator, rule: tuple[int, int, int], tables: Any, around: Array, marker: Array
) -> tuple[Array, int, Array, Array]:
    """Draw one picture.

    `rule` is (dashes of a target, dashes of a distractor, distractors to try); `tables` are those of `Dashes` in the
    order lines, zones, heads, pivots, turns, weights, solid, n_solid, onward; `around` (360, 2) the steps from the
    first contour's beginning to the second's. Returns the picture (32, 32) uint8; the label; the dashes
    (n_dashes, 4) as contour, row, column, direction, where contours 0 and 1 are the targets; and the two markers
    (2, 2), row and column.
    """
    length, short, n_distractors = rule
    label = _below(rng, 2)
    lines, turns = tables[0], tables[4]
    occupied = np.empty((_SIZE, _SIZE), np.int64)
    work = (
        np.empty(_SIZE * _SIZE, np.int64),
        np.empty(turns.shape[0], np.int64),
        np.zeros((2, _SIZE, _SIZE), np.int64),
        np.empty((_SIZE, _SIZE), np.int64),
        np.zeros((2, 2), np.int64),
    )
    targets = np.empty((2, length, 3), np.int64)
    while not _targets(rng, length, tables, around, occupied, targets, work):
        pass
    dashes = np.empty((2 * length + short * n_distractors, 4), np.int64)
    for s in range(2):
        dashes[s * length : (s + 1) * length, 0] = s
        dashes[s * length : (s + 1) * length, 1:] = targets[s]
    n = 2 * length
    for s in range(n_distractors):
        for _ in range(_CONTOUR_TRIES):
            if _distractor(rng, short, tables, occupied, dashes[n : n + short, 1:], work):
                dashes[n : n + short, 0] = 2 + s
                n += short
                break
    canvas = np.zeros((_SIZE, _SIZE), np.int64)
    for k in range(n):
        factor = _TARGET if k < 2 * length else _DISTRACTOR
        _put(canvas, lines[dashes[k, 3]], dashes[k, 1], dashes[k, 2], factor)
    first = _below(rng, 2)
    markers = np.empty((2, 2), np.int64)
    markers[0] = targets[first, 0, :2]  # where one contour begins
    markers[1] = targets[first if label == 1 else 1 - first, -1, :2]  # where it, or the other one, ends
    for k in range(2):
        _put(canvas, marker, markers[k, 0], markers[k, 1], _MARKER)
    brightest = canvas.max()
    picture = np.empty((_SIZE, _SIZE), np.uint8)
    for i in range(_SIZE):
        for j in range(_SIZE):
            picture[i, j] = (510 * canvas[i, j] + brightest) // (2 * brightest)  # the brightest pixel becomes 255
    return picture, label, dashes[:n].copy(), markers
