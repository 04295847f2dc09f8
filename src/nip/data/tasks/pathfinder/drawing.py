"""Pathfinder: are two round markers joined by a dashed contour? Pictures drawn by the published rule, with a seed.

The task is that of Linsley et al. [1]_ and Kim, Linsley et al. [2]_ in the setting of Long Range Arena [3]_: 32 × 32
pixels, three levels. A picture has two long dashed contours that grow side by side, and shorter ones that distract. One
round marker is at an end of a long contour; the other is at the other end of the same contour (label 1) or of the other
one (label 0).

References
----------
.. [1] D. Linsley et al., arXiv 1805.08315.
.. [2] J. Kim, D. Linsley et al., arXiv 1906.01558.
.. [3] Y. Tay et al., *Long Range Arena*, arXiv 2011.04006.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nip.data.tasks.examples import Examples
from nip.data.tasks.pathfinder.dashes import SIZE, dashes
from nip.data.tasks.registry import SPLITS
from nip.data.tasks.source import Plan, Request
from nip.data.tasks.threads import map_ahead
from nip.graphs.pattern import check_int
from nip.processor import usable_cores

PREFIX = "pathfinder32-"  # of the tasks' names; the level follows
SEED_DISTANCE = 7  # pixels between the beginnings of the two long contours
CHUNK = 500  # pictures that a thread draws at a time; the number does not change them


@dataclass(frozen=True)
class Level:
    """One of the three levels of difficulty.

    Parameters
    ----------
    name : str
        Name of the official folder.
    contour_length : int
        Dashes of each of the two long contours: 6, 9 or 14.
    number : int
        Index of the level; part of every picture's random stream.
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
        """Number of distractors that are tried: 20 dashes in total."""
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
    """A picture and its contours.

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
        `nip.data.tasks.pathfinder.dashes.Dashes`. The pixel is the tail of a contour's first dash, and the head of the
        others.
    markers : ndarray of shape (2, 2), int64
        Row and column of the markers.
    """

    picture: NDArray[np.uint8]
    label: int
    contours: NDArray[np.int64]
    dashes: NDArray[np.int64]
    markers: NDArray[np.int64]


def find_level(name: str) -> Level:
    """The level of that name; a ValueError lists the names."""
    if name not in LEVELS:
        raise ValueError(f"Pathfinder has no level {name!r}. The levels are {', '.join(LEVELS)}.")
    return LEVELS[name]


def draw(level: str, index: int, *, seed: int = 0) -> Drawing:
    """Draw picture number `index` of a level, a function of level, seed and number alone.

    Parameters
    ----------
    level : str
        One of `LEVELS`.
    index : int
        At least 0.
    seed : int, default=0
        At least 0.

    Returns
    -------
    Drawing

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
    index = check_int("index", index, "Pathfinder", minimum=0)
    seed = check_int("seed", seed, "Pathfinder", minimum=0)
    return _draw(found, index, seed)


def draw_many(
    level: str, n: int, *, seed: int = 0, first: int = 0, workers: int | None = None
) -> Generator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Draw the pictures `first` … `first + n − 1` of a level, in order and in chunks.

    Parameters
    ----------
    level : str
        One of `LEVELS`.
    n, first : int
        At least 0.
    seed : int, default=0
        At least 0.
    workers : int, optional
        Number of threads; by default one per available core. It does not change the pictures.

    Yields
    ------
    pictures : ndarray of shape (n_chunk, 1024), uint8
        Brightness, row by row.
    labels : ndarray of shape (n_chunk,), int64

    Raises
    ------
    ValueError
        If a parameter is out of range.
    """
    found = find_level(level)
    n = check_int("n", n, "Pathfinder", minimum=0)
    first = check_int("first", first, "Pathfinder", minimum=0)
    seed = check_int("seed", seed, "Pathfinder", minimum=0)

    def chunk(start: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        drawings = [_draw(found, i, seed) for i in range(start, min(start + CHUNK, first + n))]
        pictures = np.stack([each.picture for each in drawings]).reshape(len(drawings), SIZE * SIZE)
        return pictures, np.array([each.label for each in drawings], dtype=np.int64)

    _kernel()  # compiled before several threads need it
    yield from map_ahead(chunk, range(first, first + n, CHUNK), workers or usable_cores())


def _draw(level: Level, index: int, seed: int) -> Drawing:
    kernel, tables, around, marker = _kernel()
    stream = np.random.SeedSequence(seed, spawn_key=(level.number, index))
    rng = np.random.Generator(np.random.PCG64(stream))
    rule = (level.contour_length, level.distractor_length, level.n_distractors)
    picture, label, contours, drawn, markers = kernel(rng, rule, tables, around, marker)
    return Drawing(picture, int(label), contours, drawn, markers)


@cache
def _kernel() -> tuple[Any, Any, NDArray[np.int64], NDArray[np.uint8]]:
    """`kernels.draw` and its tables."""
    from nip.data.tasks.pathfinder import kernels

    each = dashes()
    tables = (
        *(each.lines, each.zones, each.heads, each.pivots, each.turns),
        *(each.weights, each.solid, each.n_solid, each.onward),
    )
    angles = np.arange(360) * np.pi / 180
    around = SEED_DISTANCE * np.stack([np.sin(angles), np.cos(angles)], axis=1)
    # halves (3.5 at 30 degrees) would depend on the last bit of the sine
    steps = np.rint(around - 1e-9).astype(np.int64)
    return kernels.draw, tables, steps, each.marker


def plan(request: Request) -> Plan:
    """Draw a set; its parameters are the numbers of pictures ``train``, ``dev`` and ``test``."""
    level = find_level(request.task.name.removeprefix(PREFIX))
    sizes = {name: check_int(name, value, "Pathfinder", minimum=1) for name, value in request.sizes.items()}
    seed = check_int("seed", request.seed, "Pathfinder", minimum=0)

    def chunks(split: str, first: int) -> Iterator[Examples]:
        for pictures, labels in draw_many(level.name, sizes[split], seed=seed, first=first):
            n, pixels = pictures.shape
            offsets = np.arange(n + 1, dtype=np.int64) * pixels
            yield Examples(request.task, split, pictures.reshape(-1), offsets, labels)

    firsts = {"train": 0, "dev": sizes["train"], "test": sizes["train"] + sizes["dev"]}
    return Plan(
        {
            "source": "drawn by nip",
            "parameters": {"seed": seed, **sizes},
            "split_rule": "In the order drawn: first train, then dev, then test. Every picture is drawn independently.",
            "licence": "Drawn from random numbers. The rule is that of Pathfinder (Linsley et al., arXiv 1805.08315; "
            "its generator is under the MIT licence) with the parameters of Long Range Arena (arXiv 2011.04006).",
        },
        lambda: {split: chunks(split, firsts[split]) for split in SPLITS},
    )
