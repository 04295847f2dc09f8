"""Rotary position embeddings (RoPE) for sequences and for images.

Dimensions j and j + head_dim / 2 of a head form a pair, which is rotated by an angle proportional to the position: the
first pair by one radian per position, the others at geometrically decreasing frequencies. The dot product of a rotated
query and a rotated key then depends only on the difference of their positions. On an image, half of the pairs are
rotated by the row and half by the column (axial RoPE), and the score depends on both differences.

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
IMAGE_BASE = 100.0  # rows and columns are few, so the lowest frequency must be higher than for sequences

Rotations = tuple[Tensor, Tensor]


def rotations(
    length: int, head_dim: int, *, columns: int | None = None, device: torch.device | None = None
) -> Rotations:
    """Return the cosines and sines of the rotation angles of every position and pair.

    Parameters
    ----------
    length : int
        Number of tokens; token t is at position t.
    head_dim : int
        Dimension of a head: even, and with `columns` a multiple of 4.
    columns : int, optional
        Width in pixels of the image that the tokens flatten: token t is in row ``t // columns`` and column
        ``t % columns``. By default the tokens are a sequence.
    device : torch.device, optional
        Device of the result.

    Returns
    -------
    cosines, sines : Tensor of shape (length, head_dim / 2), fp32

    Raises
    ------
    ValueError
        If `head_dim` is not such a multiple.

    Examples
    --------
    >>> cosines, sines = rotations(3, 4)
    >>> torch.atan2(sines, cosines)
    tensor([[0.0000, 0.0000],
            [1.0000, 0.0100],
            [2.0000, 0.0200]])
    """
    length = check_int("length", length, "rotations", minimum=1)
    unit = 2 if columns is None else 4
    if head_dim < unit or head_dim % unit:
        axes = "a sequence" if columns is None else "an image"
        raise ValueError(
            f"The 'head_dim' parameter of rotations must be a multiple of {unit} for {axes}. Got {head_dim!r} instead."
        )
    position = torch.arange(length, device=device)
    if columns is None:
        angles = _angles(position, head_dim // 2, BASE)
    else:
        columns = check_int("columns", columns, "rotations", minimum=1)
        by_axis = (_angles(axis, head_dim // 4, IMAGE_BASE) for axis in (position // columns, position % columns))
        angles = torch.cat(list(by_axis), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, rotary: Rotations) -> Tensor:
    """Rotate queries or keys (…, length, head_dim) by the angles from `rotations`, in fp32; keeps the dtype of `x`."""
    cosines, sines = rotary
    first, second = x.chunk(2, dim=-1)  # type promotion: the products with the fp32 cosines are at least fp32
    return torch.cat([first * cosines - second * sines, second * cosines + first * sines], dim=-1).to(x.dtype)


def _angles(position: Tensor, pairs: int, base: float) -> Tensor:
    frequency = base ** (-torch.arange(pairs, device=position.device) / pairs)
    return position[:, None] * frequency
