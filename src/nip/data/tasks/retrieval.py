"""The official files of the retrieval task, ``new_aan_pairs.{train,eval,test}.tsv``.

A line is a label (``0.0`` or ``1.0``), two document numbers and two texts, separated by tabs, without header or
quoting.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nip.data.tasks.examples import Examples, byte_ids, chunks
from nip.data.tasks.registry import Task
from nip.data.tasks.source import Plan, Request, release_folder
from nip.runs.folder import file_sha256

NAMES = {"train": "new_aan_pairs.train.tsv", "dev": "new_aan_pairs.eval.tsv", "test": "new_aan_pairs.test.tsv"}
LONGEST = 1 << 26  # bytes of a line: bounds memory for a file without line ends
_LABELS = {b"0.0": 0, b"1.0": 1, b"0": 0, b"1": 1}


def recognises(path: Path, task: Task) -> bool:
    """Whether the folder, or ``tsv_data`` in it, has one of the three files."""
    return _folder(path) is not None


def plan(request: Request) -> Plan:
    """Read the three files of a folder as the three splits."""
    folder = _folder(request.path) or request.path
    paths = {split: folder / name for split, name in NAMES.items()}
    for path in paths.values():
        if not path.is_file():
            raise FileNotFoundError(f"There is no {path}. The official files are named {', '.join(NAMES.values())}.")
    return Plan(
        {
            "source": "official files",
            "parameters": {path.name: file_sha256(path) for path in paths.values()},
            "split_rule": "As in the files.",
            "licence": "That of the files. Their texts are from the ACL Anthology Network corpus, whose terms forbid "
            "passing them on.",
        },
        lambda: {split: read(path, request.task, split) for split, path in paths.items()},
    )


def read(path: Path, task: Task, split: str) -> Iterator[Examples]:
    """Read one file in chunks.

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
        If a line does not have five columns or its label is not 0.0 or 1.0; the message names file and line.
    """
    return chunks(task, split, _rows(path, task))


def _rows(path: Path, task: Task) -> Iterator[tuple[int, list[NDArray[np.integer]]]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LONGEST):
            number += 1
            columns = line.rstrip(b"\r\n").split(b"\t")
            if len(columns) != 5:
                raise ValueError(
                    f"{path}, line {number}: there must be 5 columns with tabs between. Got {len(columns)}."
                )
            label = _LABELS.get(columns[0])
            if label is None:
                shown = columns[0][:40].decode("utf-8", "replace")
                raise ValueError(f"{path}, line {number}: the label must be 0.0 or 1.0. Got {shown!r} instead.")
            yield label, [byte_ids(text, task) for text in columns[3:]]
    if not number:
        raise ValueError(f"{path} is empty.")


def _folder(path: Path) -> Path | None:
    return release_folder(path, "tsv_data", lambda folder: any((folder / name).is_file() for name in NAMES.values()))
