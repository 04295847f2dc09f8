"""CIFAR-10 for the image task: its python and binary files, parquet files, and data sets of the Hugging Face Hub.

Of the 50,000 training pictures the first 90 % are train and the rest dev; the 10,000 test pictures are test. Colours
are converted to grey by TensorFlow's formula, as in Long Range Arena.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nip.data import hub, tables
from nip.data.tasks import pickles
from nip.data.tasks.examples import Examples
from nip.data.tasks.pictures import pixels_of
from nip.data.tasks.registry import Task
from nip.data.tasks.source import Plan, Request
from nip.runs.folder import file_sha256

# labels (n,) and colours (n, 32, 32, 3) of some pictures
Batch = tuple[NDArray[np.int64], NDArray[np.uint8]]
Batches = Callable[[str], Iterator[Batch]]

TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
_FILES = {"train": TRAIN, "test": ("test_batch",)}
_COLUMNS = (("img", "image"), ("label",))
_RECORD = 1 + 3072  # bytes of a label and its picture
_ROWS = 1000


def grey(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey levels as TensorFlow's ``rgb_to_grayscale`` gives them for bytes.

    The bytes become float32 in [0, 1], are weighted by 0.2989, 0.587 and 0.114, multiplied by 255.5, and truncated.
    Rounding in float32 makes 237 of the 16.8 million colours one level brighter than exact arithmetic.

    Parameters
    ----------
    colours : ndarray of shape (…, 3), uint8

    Returns
    -------
    ndarray of shape (…), uint8

    Examples
    --------
    >>> grey(np.array([[255, 255, 255], [255, 0, 0], [0, 0, 255], [7, 7, 7]], np.uint8)).tolist()
    [255, 76, 29, 7]
    """
    shares = colours.astype(np.float32) * np.float32(1 / 255)
    weighted = shares * np.array([0.2989, 0.587, 0.114], np.float32)
    level = (weighted[..., 0] + weighted[..., 1]) + weighted[..., 2]
    grey_levels: NDArray[np.uint8] = (level * np.float32(255.5)).astype(np.uint8)
    return grey_levels


def recognises_python(path: Path, task: Task) -> bool:
    """Whether the folder, or ``cifar-10-batches-py`` in it, has ``data_batch_1`` and the like."""
    return _root(path, "cifar-10-batches-py", "") is not None


def plan_python(request: Request) -> Plan:
    """Read the python files, which are pickles, without unpickling."""
    return _plan_files(request, "CIFAR-10 python files", "cifar-10-batches-py", "", _python_batches)


def recognises_binary(path: Path, task: Task) -> bool:
    """Whether the folder, or ``cifar-10-batches-bin`` in it, has ``data_batch_1.bin`` and the like."""
    return _root(path, "cifar-10-batches-bin", ".bin") is not None


def plan_binary(request: Request) -> Plan:
    """Read the binary files: a label byte, then 1,024 bytes each of red, green and blue."""
    return _plan_files(request, "CIFAR-10 binary files", "cifar-10-batches-bin", ".bin", _binary_batches)


def plan_parquet(request: Request) -> Plan:
    """Read parquet files with the columns img (PNG) and label, as on the Hugging Face Hub."""
    files = {part: tables.parquet_files(request.path, part) for part in ("train", "test")}
    sums = {file.name: file_sha256(file) for part in files.values() for file in part}

    def batches(part: str) -> Iterator[Batch]:
        rows = (
            (f"{file}, row {number}", *row)
            for file in files[part]
            for number, row in tables.parquet_rows(file, _COLUMNS)
        )
        return _gathered(rows)

    return _plan(request, "parquet files", sums, batches)


def plan_hub(request: Request, load: hub.Load = hub.load) -> Plan:
    """Read a data set of the Hugging Face Hub with the columns img and label, such as ``uoft-cs/cifar10``."""
    name = str(request.origin)

    def batches(part: str) -> Iterator[Batch]:
        return _gathered((f"{name}, {part} row {number}", *row) for number, row in hub.rows(load, name, part, _COLUMNS))

    return _plan(request, "Hugging Face Hub", {"name": name}, batches)


def _plan(request: Request, source: str, parameters: dict[str, Any], batches: Batches) -> Plan:
    task = request.task

    def splits() -> dict[str, Iterator[Examples]]:
        n = sum(len(labels) for labels, _ in batches("train"))
        n_train = n * 9 // 10
        ranges = {"train": ("train", 0, n_train), "dev": ("train", n_train, n), "test": ("test", 0, 1 << 62)}
        return {split: _examples(task, split, batches(part), *bounds) for split, (part, *bounds) in ranges.items()}

    return Plan(
        {
            "source": source,
            "parameters": parameters,
            "split_rule": "The first 90 % of the training pictures are train, the rest dev, in the order of the files; "
            "test is test.",
            "licence": "That of the files. CIFAR-10 (Krizhevsky 2009) states none.",
            "grey": "TensorFlow's rgb_to_grayscale",
        },
        splits,
    )


def _examples(task: Task, split: str, batches: Iterator[Batch], first: int, end: int) -> Iterator[Examples]:
    """The pictures `first` … `end` − 1 of the batches, in grey."""
    number = 0
    for labels, colours in batches:
        kept = slice(max(first - number, 0), max(min(end - number, len(labels)), 0))
        number += len(labels)
        pixels = grey(colours[kept]).reshape(-1, task.max_length)
        if len(pixels):
            offsets = np.arange(len(pixels) + 1, dtype=np.int64) * task.max_length
            yield Examples(task, split, pixels.reshape(-1), offsets, labels[kept])


def _plan_files(request: Request, source: str, name: str, suffix: str, read: Callable[[Path], Iterator[Batch]]) -> Plan:
    root = _root(request.path, name, suffix) or request.path
    files = {part: [root / f"{stem}{suffix}" for stem in stems] for part, stems in _FILES.items()}
    for path in (path for part in files.values() for path in part):
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no {path}. CIFAR-10 is in data_batch_1{suffix} … 5 and test_batch{suffix}."
            )
    sums = {path.name: file_sha256(path) for part in files.values() for path in part}
    return _plan(request, source, sums, lambda part: (batch for path in files[part] for batch in read(path)))


def _python_batches(path: Path) -> Iterator[Batch]:
    held = pickles.load(path)
    if not isinstance(held, dict):
        raise ValueError(f"{path} is not a dict with data and labels.")
    by_name = {name.decode("latin1") if isinstance(name, bytes) else name: value for name, value in held.items()}
    data, labels = by_name.get("data"), by_name.get("labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _RECORD - 1:
        raise ValueError(f"{path}: 'data' must be bytes of shape (pictures, {_RECORD - 1}).")
    if not isinstance(labels, list) or len(labels) != len(data) or any(type(label) is not int for label in labels):
        raise ValueError(f"{path}: 'labels' must be a list of {len(data)} integers.")
    yield _checked(np.array(labels, dtype=np.int64), path), _colours(data)


def _binary_batches(path: Path) -> Iterator[Batch]:
    size = path.stat().st_size
    if not size or size % _RECORD:
        raise ValueError(f"{path} is truncated: its {size:,} bytes are not a multiple of the {_RECORD} of a picture.")
    records = np.memmap(path, np.uint8, mode="r").reshape(-1, _RECORD)
    for first in range(0, len(records), _ROWS):
        rows = np.array(records[first : first + _ROWS])
        yield _checked(rows[:, 0].astype(np.int64), path), _colours(rows[:, 1:])


def _colours(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    # a row is the red picture, then the green and the blue one
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _checked(labels: NDArray[np.int64], path: Path) -> NDArray[np.int64]:
    wrong = np.flatnonzero((labels < 0) | (labels > 9))
    if wrong.size:
        raise ValueError(f"{path}: label {wrong[0]} must be one of 0 … 9. Got {labels[wrong[0]]} instead.")
    return labels


def _gathered(rows: Iterator[tuple[str, Any, Any]]) -> Iterator[Batch]:
    """Batches from rows of (place in the files, picture, label)."""
    labels: list[int] = []
    colours: list[NDArray[np.uint8]] = []
    for where, picture, label in rows:
        if type(label) is not int or not 0 <= label <= 9:
            raise ValueError(f"{where}: the label must be one of 0 … 9. Got {label!r} instead.")
        labels.append(label)
        colours.append(pixels_of(picture, where, (32, 32), "RGB"))
        if len(labels) == _ROWS:
            yield np.array(labels, np.int64), np.stack(colours)
            labels, colours = [], []
    if labels:
        yield np.array(labels, np.int64), np.stack(colours)


def _root(path: Path, name: str, suffix: str) -> Path | None:
    for root in (path, path / name):
        if any((root / f"{stem}{suffix}").is_file() for stems in _FILES.values() for stem in stems):
            return root
    return None
