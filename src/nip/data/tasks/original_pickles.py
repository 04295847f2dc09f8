"""The original's pickles, ``<task>.{train,dev,test}.pickle``: lists of dicts of token ids and a label.

They are read without unpickling (`nip.data.tasks.pickles`). The token ids stay as they are: those of ListOps follow an
order that differed between conversions, and no file states it. The length that all sequences are padded to is recorded
in the manifest as ``padded_length``: the original's runs take it as it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nip.data.tasks import pickles
from nip.data.tasks.examples import Examples, chunks
from nip.data.tasks.registry import SPLITS, Task
from nip.data.tasks.source import Plan, Request
from nip.runs.folder import file_sha256


def recognises(path: Path, task: Task) -> bool:
    """Whether the folder has one of the three pickles of the task."""
    return any(_file(path, task, split).is_file() for split in SPLITS)


def is_whole(path: Path, task: Task) -> bool:
    """Whether the folder has all three."""
    return all(_file(path, task, split).is_file() for split in SPLITS)


def plan(request: Request) -> Plan:
    """Read the three pickles of a folder as the three splits."""
    task = request.task
    files = {split: _file(request.path, task, split) for split in SPLITS}
    for path in files.values():
        if not path.is_file():
            raise FileNotFoundError(f"There is no {path}. {task.name} is in three pickles, of train, dev and test.")
    return Plan(
        {
            "source": "pickles of the original's form",
            "parameters": {path.name: file_sha256(path) for path in files.values()},
            "split_rule": "As in the files.",
            "licence": "That of the data in the files, which they do not state.",
            **_padded_length(files["dev"], task),
        },
        lambda: {split: read(path, task, split) for split, path in files.items()},
    )


def _padded_length(path: Path, task: Task) -> dict[str, int]:
    """The common length of the first sequences of a pickle, if they have one and images do not state it."""
    if task.shape:
        return {}
    first = islice(pickles.elements(path), 64)
    lengths = {np.size(each["input_ids_0"]) for each in first if isinstance(each, dict) and "input_ids_0" in each}
    return {"padded_length": lengths.pop()} if len(lengths) == 1 else {}


def read(path: Path, task: Task, split: str) -> Iterator[Examples]:
    """Read one pickle in chunks.

    Zeros at the end of a sequence are padding and are dropped; images have no padding, and their zeros are black.

    Parameters
    ----------
    path : Path
    task : Task
    split : str

    Yields
    ------
    Examples

    Raises
    ------
    ValueError
        If the file is damaged or contains anything but arrays and numbers, or an example does not fit the task; the
        message names file and example.
    """

    def examples() -> Iterator[tuple[int, list[NDArray[np.integer]]]]:
        for number, element in enumerate(pickles.elements(path)):
            try:
                yield _example(element, task)
            except ValueError as error:
                raise ValueError(f"{path}, example {number}: {error}.") from None

    return chunks(task, split, examples(), foreign=True)


def _example(element: Any, task: Task) -> tuple[int, list[NDArray[np.integer]]]:
    names = ["input_ids_0", "input_ids_1"] if task.pair else ["input_ids_0"]
    if not isinstance(element, dict) or not {*names, "label"} <= set(element):
        raise ValueError(f"there must be a dict with {', '.join(names)} and label")
    label = element["label"]
    if isinstance(label, np.ndarray) and label.size == 1 and label.dtype.kind in "iuf":
        label = label.item()
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if type(label) is not int or not 0 <= label < task.n_classes:
        raise ValueError(f"the label must be one of 0 … {task.n_classes - 1}, not {label!r}")
    return label, [_ids(element[name], name, task) for name in names]


def _ids(held: Any, name: str, task: Task) -> NDArray[np.integer]:
    ids = np.asarray(held)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ValueError(f"{name} must be one-dimensional integers")
    if ids.size and not (ids.min() >= 0 and ids.max() < task.vocab_size):
        outside = int(ids.min() if ids.min() < 0 else ids.max())
        raise ValueError(f"{name} has the id {outside}; the vocabulary of {task.name} is 0 … {task.vocab_size - 1}")
    if task.shape:
        if ids.size != task.max_length:
            raise ValueError(f"{name} has {ids.size} pixels instead of {task.max_length}")
        return ids
    real = np.flatnonzero(ids)
    return ids[: real[-1] + 1 if real.size else 0]


def _file(folder: Path, task: Task, split: str) -> Path:
    return folder / f"{task.name}.{split}.pickle"
