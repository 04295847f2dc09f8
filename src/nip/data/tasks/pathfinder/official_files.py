"""Pathfinder's official files, read and written: PNG pictures in ``imgs/<k>``, their labels in ``metadata/<k>.npy``.

The metadata of the release are text in spite of their names, a line per picture; newer generators write true ``.npy``
files of text. Columns 0, 1 and 3 are folder, file name and label. The release has one empty picture, which is skipped.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from nip.atomic import replacing
from nip.data.tasks.examples import Examples, chunks
from nip.data.tasks.pathfinder.dashes import CONTINUITY, LENGTH, MARGIN, SIZE, THICKNESS
from nip.data.tasks.pathfinder.drawing import PREFIX, find_level
from nip.data.tasks.pictures import pixels_of
from nip.data.tasks.registry import SPLITS, Task
from nip.data.tasks.source import Plan, Request, release_folder

BATCH = 1000  # pictures in a folder
SPLIT_RULES = ("contiguous", "shuffled", "s4")
_NAME, _LABEL = 1, 3  # columns

Row = tuple[str, int]  # the path of a picture in the level's folder, and its label


def recognises(path: Path, task: Task) -> bool:
    """Whether the path is the level's folder with ``metadata``, or one of the release that it is in."""
    return _root(path, task) is not None


def plan(request: Request) -> Plan:
    """Read the pictures of a level. `SPLIT_RULES` are the three ways to split that are in use."""
    task, rule = request.task, request.split_rule or SPLIT_RULES[0]
    if rule != "shuffled" and request.seed:
        raise ValueError(f"The split rule {rule} is not random; only 'shuffled' takes a seed.")
    root = _root(request.path, task)
    if root is None:
        raise FileNotFoundError(f"There is no metadata/*.npy in {request.path}.")
    described, found = _metadata(root)
    empty = [name for name, _ in found if _size(root / name) == 0]
    rows = [row for row in found if row[0] not in set(empty)]
    parameters = {"metadata": described, "pictures": len(rows), "split_rule": rule}
    says = {
        "contiguous": "In the order of the metadata files, by number: the first 80 % are train, the next 10 % dev, the "
        "last 10 % test.",
        "shuffled": f"Shuffled by Python's random.Random({request.seed}), then 80, 10 and 10 % (the code of the "
        f"Nyströmformer, which the paper's is made from, shuffles without a stated seed).",
        "s4": "As in the code of S4: drawn by torch's random_split with the generator seed 42, 80, 10 and 10 %.",
    }
    if rule == "shuffled":
        parameters["seed"] = request.seed

    def splits() -> dict[str, Iterator[Examples]]:
        return {
            split: chunks(task, split, _pictures(root, [rows[i] for i in chosen], task))
            for split, chosen in split_indices(len(rows), rule, request.seed).items()
        }

    return Plan(
        {
            "source": "official files",
            "parameters": parameters,
            "split_rule": says[rule],
            "empty_pictures": empty,
            "licence": "That of the files. Long Range Arena, which publishes them, is under Apache-2.0.",
        },
        splits,
    )


def split_indices(n: int, rule: str, seed: int = 0) -> dict[str, Sequence[int]]:
    """Which of n pictures are in train, dev and test.

    Parameters
    ----------
    n : int
    rule : str
        One of `SPLIT_RULES`.
    seed : int, default=0
        For "shuffled".

    Returns
    -------
    dict of str to sequence of int

    Examples
    --------
    >>> {split: list(chosen) for split, chosen in split_indices(12, "contiguous").items()}
    {'train': [0, 1, 2, 3, 4, 5, 6, 7, 8], 'dev': [9], 'test': [10, 11]}
    """
    order: Sequence[int] = range(n)
    first, second = n * 8 // 10, n * 9 // 10
    if rule == "shuffled":
        order = list(order)
        random.Random(seed).shuffle(order)
    elif rule == "s4":
        import torch

        order = torch.randperm(n, generator=torch.Generator().manual_seed(42), device="cpu").tolist()
        tenth = int(0.1 * n)
        first, second = n - 2 * tenth, n - tenth
    return {"train": order[:first], "dev": order[first:second], "test": order[second:]}


def _metadata(root: Path) -> tuple[str, list[Row]]:
    """The checksum of all metadata files, in the order of their numbers, and their rows."""
    files = sorted((root / "metadata").glob("*.npy"), key=lambda path: (_number(path), path.name))
    digest = hashlib.sha256()
    rows: list[Row] = []
    for path in files:
        digest.update(path.read_bytes())
        for number, fields in enumerate(_fields(path), 1):
            if fields:
                rows.append(_row(fields, f"{path}, line {number}"))
    if not rows:
        raise ValueError(f"The files in {root / 'metadata'} list no picture.")
    return digest.hexdigest(), rows


def _fields(path: Path) -> Iterator[list[str]]:
    with path.open("rb") as file:
        true_array = file.read(6) == b"\x93NUMPY"
    if not true_array:
        try:
            yield from (line.split() for line in path.read_text("utf-8").splitlines())
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is neither text nor an array: {error}.") from error
        return
    try:
        table = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if table.ndim != 2 or table.dtype.kind not in "US":
        raise ValueError(f"{path} must be a table of text. Got shape {table.shape} of type {table.dtype}.")
    yield from table.astype(str).tolist()


def _row(fields: list[str], where: str) -> Row:
    if len(fields) <= _LABEL:
        raise ValueError(f"{where}: there must be at least {_LABEL + 1} columns. Got {len(fields)}.")
    name = PurePosixPath(fields[0], fields[_NAME])
    if name.is_absolute() or ".." in name.parts:
        raise ValueError(f"{where}: {str(name)!r} is outside the folder.")
    label = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}.get(fields[_LABEL])
    if label is None:
        raise ValueError(f"{where}: the label must be 0 or 1. Got {fields[_LABEL][:40]!r} instead.")
    return str(name), label


def _pictures(root: Path, rows: list[Row], task: Task) -> Iterator[tuple[int, list[NDArray[np.uint8]]]]:
    assert task.shape is not None
    for name, label in rows:
        path = root / name
        yield label, [pixels_of(path.read_bytes(), path, task.shape, "L").reshape(-1)]


def _size(path: Path) -> int:
    if not path.is_file():
        raise FileNotFoundError(f"There is no {path}, which the metadata list.")
    return path.stat().st_size


def _number(path: Path) -> int:
    if not (path.stem.isascii() and path.stem.isdigit()):
        raise ValueError(f"{path}: the name of a metadata file must be a number.")
    return int(path.stem)


def _root(path: Path, task: Task) -> Path | None:
    level = task.name.removeprefix(PREFIX)
    for name in (level, f"pathfinder32/{level}"):
        found = release_folder(path, name, lambda folder: any((folder / "metadata").glob("*.npy")))
        if found is not None:
            return found
    return None


def write_pictures(
    splits: Mapping[str, Examples], folder: Path, *, progress: Callable[[int], None] | None = None
) -> Path:
    """Write a Pathfinder set in the layout of the release, in the order train, dev, test.

    ``<folder>/pathfinder32/<level>/`` gets ``imgs/<k>/sample_<n>.png``, pictures 1000 k … 1000 k + 999 of the set, and
    ``metadata/<k>.npy``, which is text in spite of its name: a line per picture with eleven columns (folder, file,
    number, label, continuity, dashes of a contour, dashes of a distractor, length, thickness and margin of a dash,
    number of contrasts). The list is written after its pictures, so the same call resumes an interrupted one.

    Parameters
    ----------
    splits : mapping of str to Examples
        The train, dev and test splits of one level.
    folder : Path
        Created if it does not exist.
    progress : callable, optional
        Called with the number of pictures written so far.

    Returns
    -------
    Path
        The folder of the level.

    Raises
    ------
    ValueError
        If the task is not a level of Pathfinder, or existing lists are of other pictures.
    """
    level = find_level(splits["train"].task.name.removeprefix(PREFIX))
    home = Path(folder) / "pathfinder32" / level.name
    (home / "metadata").mkdir(parents=True, exist_ok=True)
    labels = np.concatenate([splits[name].labels for name in SPLITS])
    bounds = np.cumsum([0, *(len(splits[name]) for name in SPLITS)])
    described = f"{CONTINUITY} {level.contour_length} {level.distractor_length} {LENGTH} {THICKNESS} {MARGIN} 1"
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

    Image.fromarray(picture.reshape(SIZE, SIZE)).save(path, format="PNG")
