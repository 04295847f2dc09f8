"""The official layout of Pathfinder: one PNG a picture, and lists of them as text."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from nip.atomic import replacing
from nip.data.tasks.examples import Examples
from nip.data.tasks.pathfinder import dashes
from nip.data.tasks.pathfinder.drawing import find_level
from nip.data.tasks.pathfinder.source import PREFIX
from nip.data.tasks.registry import SPLITS

BATCH = 1000  # pictures in a folder


def write_pictures(
    splits: Mapping[str, Examples], folder: Path, *, progress: Callable[[int], None] | None = None
) -> Path:
    """Write all pictures of a Pathfinder set as the release does, in the order train, dev, test.

    ``<folder>/pathfinder32/<level>/`` gets ``imgs/<k>/sample_<n>.png``, pictures 1000 k … 1000 k + 999 of the set, and
    ``metadata/<k>.npy``: despite its name text, a line for each picture with eleven columns (folder, file, number,
    label, continuity, dashes of a contour, dashes of a distractor, length, thickness and margin of a dash, number of
    contrasts). The list is written after its pictures, so that a call that was stopped goes on where it was.

    Parameters
    ----------
    splits : mapping of str to Examples
        The train, dev and test splits of one level.
    folder : Path
        Made if need be.
    progress : callable, optional
        Called with the number of pictures written so far.

    Returns
    -------
    Path
        The folder of the level.

    Raises
    ------
    ValueError
        If the task is not a level of Pathfinder, or the lists that are there are of other pictures.
    """
    level = find_level(splits["train"].task.name.removeprefix(PREFIX))
    home = Path(folder) / "pathfinder32" / level.name
    (home / "metadata").mkdir(parents=True, exist_ok=True)
    labels = np.concatenate([splits[name].labels for name in SPLITS])
    bounds = np.cumsum([0, *(len(splits[name]) for name in SPLITS)])
    described = (
        f"{dashes.CONTINUITY} {level.contour_length} {level.distractor_length} "
        f"{dashes.LENGTH} {dashes.THICKNESS} {dashes.MARGIN} 1"
    )
    for k, start in enumerate(range(0, labels.size, BATCH)):
        numbers = range(start, min(start + BATCH, labels.size))
        lines = [f"imgs/{k} sample_{i - start}.png {i - start} {labels[i]} {described}\n" for i in numbers]
        text = "".join(lines).encode()
        listed = home / "metadata" / f"{k}.npy"
        if listed.is_file():
            if listed.read_bytes() != text:
                raise ValueError(f"{listed} lists other pictures. Choose another folder, or remove {home}.")
            continue
        pictures = home / "imgs" / str(k)
        pictures.mkdir(parents=True, exist_ok=True)
        for i in numbers:
            split = int(np.searchsorted(bounds, i, side="right")) - 1
            picture = splits[SPLITS[split]].sequence(i - int(bounds[split]))
            _write_png(np.asarray(picture, np.uint8), pictures / f"sample_{i - start}.png")
        with replacing(listed) as file:
            file.write(text)
        if progress is not None:
            progress(numbers.stop)
    return home


def _write_png(picture: np.ndarray, path: Path) -> None:
    from PIL import Image

    Image.fromarray(picture.reshape(dashes.SIZE, dashes.SIZE)).save(path, format="PNG")
