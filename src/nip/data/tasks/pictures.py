"""Pictures: decoded from PNG, and drawn as PNG or in the terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nip.atomic import replacing
from nip.data.tasks.examples import Examples

SCALE = 4  # pixels in a drawing per pixel of an example
GAP = 4  # pixels between examples


def pixels_of(picture: Any, where: Path | str, shape: tuple[int, int], mode: str) -> NDArray[np.uint8]:
    """The pixels of a PNG picture.

    Parameters
    ----------
    picture : bytes, mapping with the key ``bytes``, or Pillow image
        Content of a file, cell of a parquet column, or as the `datasets` library decodes it.
    where : Path or str
        Named in errors.
    shape : tuple of int
        Required height and width.
    mode : {"L", "RGB"}
        Required mode: grey or colour.

    Returns
    -------
    ndarray of shape (height, width) or (height, width, 3), uint8

    Raises
    ------
    ValueError
        If it is not a PNG, is damaged, or has another size or mode.
    """
    from PIL import Image, UnidentifiedImageError

    if isinstance(picture, dict):
        picture = picture.get("bytes")
    try:
        if isinstance(picture, bytes):
            picture = Image.open(io.BytesIO(picture), formats=["PNG"])
        if not isinstance(picture, Image.Image):
            raise ValueError(f"{where} is not a picture but {type(picture).__name__}.")
        if picture.size != (shape[1], shape[0]) or picture.mode != mode:
            raise ValueError(
                f"{where}: the picture must have {shape[1]} × {shape[0]} pixels of mode {mode}. "
                f"Got {picture.size[0]} × {picture.size[1]} of mode {picture.mode}."
            )
        return np.asarray(picture, dtype=np.uint8)
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where} is truncated or not a PNG picture: {error}") from error


def sheet(examples: Examples, indices: Sequence[int], path: Path, *, columns: int = 10) -> None:
    """Draw several examples of an image task into one PNG file, enlarged four times.

    Parameters
    ----------
    examples : Examples
    indices : sequence of int
    path : Path
        Of the PNG file.
    columns : int, default=10
        Maximum number of examples in a row.

    Raises
    ------
    ValueError
        If the task is not an image task, or an index is out of range.
    """
    from PIL import Image

    height, width = _shape(examples)
    columns = min(columns, len(indices))
    rows = -(-len(indices) // columns)
    step_y, step_x = SCALE * height + GAP, SCALE * width + GAP
    canvas = np.full((rows * step_y + GAP, columns * step_x + GAP), 128, np.uint8)
    for place, index in enumerate(indices):
        y, x = GAP + place // columns * step_y, GAP + place % columns * step_x
        enlarged = image(examples, index).repeat(SCALE, axis=0).repeat(SCALE, axis=1)
        canvas[y : y + SCALE * height, x : x + SCALE * width] = enlarged
    with replacing(path) as file:
        Image.fromarray(canvas).save(file, format="PNG")


def image(examples: Examples, index: int) -> NDArray[np.uint8]:
    """One example of an image task; ndarray of shape (height, width).

    Raises
    ------
    ValueError
        If the task is not an image task, or the index is out of range.
    """
    return np.asarray(examples.sequence(index), dtype=np.uint8).reshape(_shape(examples))


def in_blocks(pixels: NDArray[np.uint8]) -> str:
    """A picture for a terminal with 24-bit colours: two pixels per character, one above the other.

    Examples
    --------
    >>> in_blocks(np.array([[0], [255]], np.uint8))
    '\\x1b[38;2;0;0;0m\\x1b[48;2;255;255;255m▀\\x1b[0m'
    """
    if len(pixels) % 2:
        pixels = np.concatenate([pixels, np.zeros_like(pixels[:1])])
    lines = []
    for upper, lower in zip(pixels[::2].tolist(), pixels[1::2].tolist(), strict=True):
        pairs = zip(upper, lower, strict=True)
        cells = (f"\x1b[38;2;{a};{a};{a}m\x1b[48;2;{b};{b};{b}m▀" for a, b in pairs)
        lines.append("".join(cells) + "\x1b[0m")
    return "\n".join(lines)


def in_letters(pixels: NDArray[np.uint8]) -> str:
    """A picture in ten characters from dark to bright, two per pixel, for output without colours.

    Examples
    --------
    >>> in_letters(np.array([[0, 255]], np.uint8))
    '  @@'
    """
    letters = " .:-=+*#%@"
    return "\n".join("".join(2 * letters[level * 10 // 256] for level in row) for row in pixels.tolist())


def _shape(examples: Examples) -> tuple[int, int]:
    shape = examples.task.shape
    if shape is None:
        raise ValueError(f"The examples of {examples.task.name} are not images.")
    return shape
