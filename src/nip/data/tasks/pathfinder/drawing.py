"""Pathfinder: are two round markers joined by a dashed contour? Pictures drawn by the published rule, seeded.

The task is that of Linsley et al. (arXiv 1805.08315) and Kim, Linsley et al. (arXiv 1906.01558), the setting that of
Long Range Arena (arXiv 2011.04006): 32 × 32 pixels, three levels. A picture holds two long dashed contours that grow
side by side, and shorter ones that distract. A round marker lies where one long contour begins; the other lies where
the same contour ends (label 1) or where the other one ends (label 0).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nip.data.tasks.pathfinder.dashes import SIZE, dashes
from nip.graphs.pattern import check_int
from nip.processor import usable_cores

SEED_DISTANCE = 7  # pixels between the beginnings of the two long contours
CHUNK = 500  # pictures that a thread draws at a time; any other number gives the same pictures


@dataclass(frozen=True)
class Level:
    """One of the three levels of difficulty.

    Parameters
    ----------
    name : str
        As the official folders are called.
    contour_length : int
        Dashes of each of the two long contours: 6, 9 or 14.
    number : int
        Its place in the list; part of every picture's random stream.
    """

    name: str
    contour_length: int
    number: int

    @property
    def distractor_length(self) -> int:
        """Dashes of a distractor: a third of a long contour's."""
        return self.contour_length // 3

    @property
    def n_distractors(self) -> int:
        """Distractors that are tried: as many as have 20 dashes."""
        return 20 // self.distractor_length


LEVELS = {
    level.name: level
    for level in (
        Level("curv_baseline", 6, 0),
        Level("curv_contour_length_9", 9, 1),
        Level("curv_contour_length_14", 14, 2),
    )
}


@dataclass(frozen=True, eq=False)
class Drawing:
    """One picture and how it came about.

    Parameters
    ----------
    picture : ndarray of shape (32, 32), uint8
        Brightness.
    label : int
        1 if the markers are joined.
    contours : ndarray of shape (n_dashes,), int64
        The contour of every dash; 0 and 1 are the long ones.
    dashes : ndarray of shape (n_dashes, 3), int64
        Row, column and direction of every dash, in the order of growth. The direction is an index into
        `nip.data.tasks.pathfinder.dashes.Dashes`. The pixel is the tail of a contour's first dash, and
        the head of the others.
    markers : ndarray of shape (2, 2), int64
        Row and column of the markers.
    """

    picture: NDArray[np.uint8]
    label: int
    contours: NDArray[np.int64]
    dashes: NDArray[np.int64]
    markers: NDArray[np.int64]


def find_level(name: str) -> Level:
    """The level of that name, or a ValueError that lists the names there are."""
    if name not in LEVELS:
        raise ValueError(f"Pathfinder has no level {name!r}. The levels are {', '.join(LEVELS)}.")
    return LEVELS[name]


def draw(level: str, index: int, *, seed: int = 0) -> Drawing:
    """Draw picture number `index` of a level: a function of the level, the seed and the number alone.

    Parameters
    ----------
    level : str
        One of `LEVELS`.
    index : int
        At least 0.
    seed : int, default=0
        At least 0.

    Raises
    ------
    ValueError
        If there is no such level, or a number is negative.

    Examples
    --------
    >>> one = draw("curv_contour_length_14", 3, seed=1)
    >>> one.picture.shape, int(one.picture.max()), int((one.contours < 2).sum())
    ((32, 32), 255, 28)
    """
    found = find_level(level)
    check_int("index", index, "Pathfinder", minimum=0)
    check_int("seed", seed, "Pathfinder", minimum=0)
    return _draw(found, index, seed)


def draw_many(
    level: str, n: int, *, seed: int = 0, first: int = 0, workers: int | None = None
) -> Generator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Draw the pictures `first` … `first + n − 1` of a level in order, in portions.

    Parameters
    ----------
    level : str
        One of `LEVELS`.
    n, first : int
        At least 0.
    seed : int, default=0
        At least 0.
    workers : int, optional
        Threads; by default one per core that this process may use. Their number does not change a picture.

    Yields
    ------
    pictures : ndarray of shape (n_portion, 1024), uint8
        Brightness, row by row.
    labels : ndarray of shape (n_portion,), int64

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """
    found = find_level(level)
    for name, value in {"n": n, "first": first, "seed": seed}.items():
        check_int(name, value, "Pathfinder", minimum=0)
    workers = workers or usable_cores()

    def portion(start: int, stop: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        drawings = [_draw(found, i, seed) for i in range(start, stop)]
        pictures = np.stack([each.picture for each in drawings]).reshape(stop - start, SIZE * SIZE)
        return pictures, np.array([each.label for each in drawings], dtype=np.int64)

    _machinery()  # compiled before threads ask for it
    starts = iter(range(first, first + n, CHUNK))
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[tuple[NDArray[np.uint8], NDArray[np.int64]]]] = deque()
        try:
            while True:
                while len(ahead) < 2 * workers and (start := next(starts, None)) is not None:
                    ahead.append(pool.submit(portion, start, min(start + CHUNK, first + n)))
                if not ahead:
                    return
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _draw(level: Level, index: int, seed: int) -> Drawing:
    kernel, tables, around, marker = _machinery()
    stream = np.random.SeedSequence(seed, spawn_key=(level.number, index))
    rng = np.random.Generator(np.random.PCG64(stream))
    rule = (level.contour_length, level.distractor_length, level.n_distractors)
    picture, label, contours, drawn, markers = kernel(rng, rule, tables, around, marker)
    return Drawing(picture, int(label), contours, drawn, markers)


@cache
def _machinery() -> tuple[Any, Any, NDArray[np.int64], NDArray[np.uint8]]:
    from nip.data.tasks.pathfinder import kernels

    each = dashes()
    tables = (
        *(each.lines, each.zones, each.heads, each.pivots, each.turns),
        *(each.weights, each.solid, each.n_solid, each.onward),
    )
    angles = np.arange(360) * np.pi / 180
    around = SEED_DISTANCE * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    # halves (there is 3.5 at 30 degrees) would hang on the last bit of the sine
    steps = np.rint(around - 1e-9).astype(np.int64)
    return kernels.draw, tables, steps, each.marker
