"""Rotary positions: queries and keys are turned by angles that grow with the position, so scores depend on differences.

A head's dimensions are taken in pairs, j with j + head_dim / 2, and each pair is turned like a hand of a clock: the
first pair by one radian a position, the others ever slower. The product of a query turned by its position and a key
turned by its own then depends on the difference of the two positions alone. On an image, half of the pairs are turned
by the row and half by the column, and the score depends on both differences.

References
----------
.. [1] J. Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", arXiv 2104.09864, section 3.2.
.. [2] B. Heo et al., "Rotary Position Embedding for Vision Transformer", arXiv 2403.13298, section 3 (axial, base 100).
"""

from __future__ import annotations

import torch
from torch import Tensor

from nip.graphs.pattern import check_int

BASE = 10_000.0
IMAGE_BASE = 100.0  # an image has few rows, and its slowest pair must still turn visibly

Rotations = tuple[Tensor, Tensor]


def rotations(
    length: int, head_dim: int, *, columns: int | None = None, device: torch.device | None = None
) -> Rotations:
    """Cosines and sines of the angles by which the pairs of a head are turned.

    Parameters
    ----------
    length : int
        Tokens; token t is at position t.
    head_dim : int
        Dimensions of a head: even, and with `columns` a multiple of 4.
    columns : int, optional
        The tokens are the pixels of an image so many pixels wide: token t is in row ``t // columns`` and column
        ``t % columns``.

    Returns
    -------
    cosines, sines : Tensor of shape (length, head_dim / 2), fp32

    Raises
    ------
    ValueError
        If the head's dimensions cannot be paired.

    Examples
    --------
    >>> cosines, sines = rotations(3, 4)
    >>> torch.atan2(sines, cosines)
    tensor([[0.0000, 0.0000],
            [1.0000, 0.0100],
            [2.0000, 0.0200]])
    """
    check_int("length", length, "rotations", minimum=1)
    unit = 2 if columns is None else 4
    if head_dim < unit or head_dim % unit:
        axes = "a sequence" if columns is None else "an image"
        raise ValueError(
            f"The 'head_dim' parameter of rotations must be a multiple of {unit} for {axes}. Got {head_dim!r} instead."
        )
    place = torch.arange(length, device=device)
    if columns is None:
        angles = _angles(place, head_dim // 2, BASE)
    else:
        check_int("columns", columns, "rotations", minimum=1)
        by_axis = (_angles(axis, head_dim // 4, IMAGE_BASE) for axis in (place // columns, place % columns))
        angles = torch.cat(list(by_axis), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, turned: Rotations) -> Tensor:
    """Turn queries or keys (…, length, head_dim) by what `rotations` gave; computed in fp32, of the dtype of `x`."""
    cosines, sines = turned
    first, second = x.chunk(2, dim=-1)  # of lower precision they become fp32 in the products
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1).to(x.dtype)


def _angles(place: Tensor, pairs: int, base: float) -> Tensor:
    speed = base ** (-torch.arange(pairs, device=place.device) / pairs)
    return place[:, None] * speed
