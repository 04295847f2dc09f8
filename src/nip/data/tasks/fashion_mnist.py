"""Fashion-MNIST as an image task: 70,000 real pictures in a Debian package, so no network is needed.

A stand-in for CIFAR-10 of Long Range Arena's image task: the same number of tokens and classes, other pictures. The
task has a name of its own, so that its results are not mistaken for those of Long Range Arena.
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nip.data.tasks.examples import Examples
from nip.data.tasks.registry import Task
from nip.data.tasks.source import Plan, Request
from nip.runs.folder import file_sha256

FILES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
USUAL = Path("/usr/share/datasets/fashion-mnist")  # of Debian's package
SIDE = 28  # pixels
BORDER = 2  # black pixels added on each side, to 32 × 32
LARGEST = 1 << 30  # bytes of an unpacked file


def read_idx(path: Path, n_axes: int) -> NDArray[np.uint8]:
    """Read an array of bytes from a gzipped IDX file.

    Parameters
    ----------
    path : Path
    n_axes : int
        Required number of axes.

    Returns
    -------
    ndarray of uint8

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it has another format, or another size than its header states.
    """
    try:
        with gzip.open(path) as file:
            header = file.read(4 + 4 * n_axes)
            if len(header) < 4 + 4 * n_axes or header[:4] != bytes([0, 0, 8, n_axes]):
                raise ValueError(
                    f"{path} is not an IDX file of bytes with {n_axes} axes: it begins with {header[:4]!r}."
                )
            shape = tuple(int(size) for size in np.frombuffer(header, ">u4", offset=4))
            size = int(np.prod(shape, dtype=object))
            if size > LARGEST:
                raise ValueError(f"{path} states a size of {size} bytes; the limit is {LARGEST}.")
            content = file.read(size + 1)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is damaged or truncated: {error}.") from error
    if len(content) != size:
        what = "more than" if len(content) > size else f"{len(content)} of"
        raise ValueError(f"{path} is damaged: it has {what} the {size} bytes that its header states.")
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_pictures(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The pictures of the official train or test files, framed in black, and their labels.

    Parameters
    ----------
    folder : Path
        With the four official files.
    part : {"train", "test"}

    Returns
    -------
    pictures : ndarray of shape (n, 1024), uint8
        Grey levels of 32 × 32 pixels, row by row.
    labels : ndarray of shape (n,), int64

    Raises
    ------
    FileNotFoundError, ValueError
        If a file is missing or damaged, or the numbers of pictures and labels differ.
    """
    of_pictures, of_labels = (Path(folder) / name for name in FILES[part])
    pictures, labels = read_idx(of_pictures, 3), read_idx(of_labels, 1)
    if pictures.shape[1:] != (SIDE, SIDE):
        raise ValueError(
            f"{of_pictures} must have pictures of {SIDE} × {SIDE} pixels. Got {pictures.shape[1:]} instead."
        )
    if len(pictures) != len(labels):
        raise ValueError(f"{of_pictures} has {len(pictures)} pictures and {of_labels} {len(labels)} labels.")
    framed = np.pad(pictures, ((0, 0), (BORDER, BORDER), (BORDER, BORDER)))
    return framed.reshape(len(framed), -1), labels.astype(np.int64)


def recognises(path: Path, task: Task) -> bool:
    """Whether the folder has one of the four files."""
    return any((path / name).is_file() for names in FILES.values() for name in names)


def plan(request: Request) -> Plan:
    """Read the four files of a folder, or those of Debian's package; the last tenth of train becomes dev."""
    folder = USUAL if request.origin is None else request.path
    paths = [folder / name for names in FILES.values() for name in names]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(
                f"There is no {path}. Install Debian's package (apt install dataset-fashion-mnist), or download the "
                f"four .gz files of github.com/zalandoresearch/fashion-mnist and name their folder with --from."
            )

    def splits() -> dict[str, Examples]:
        pictures, labels = read_pictures(folder, "train")
        n_train = len(labels) - len(labels) // 10
        parts = {
            "train": (pictures[:n_train], labels[:n_train]),
            "dev": (pictures[n_train:], labels[n_train:]),
            "test": read_pictures(folder, "test"),
        }
        return {
            name: Examples(request.task, name, pixels.reshape(-1), np.arange(len(of) + 1) * pixels.shape[1], of)
            for name, (pixels, of) in parts.items()
        }

    return Plan(
        {
            "source": "Fashion-MNIST",
            "parameters": {path.name: file_sha256(path) for path in paths},
            "split_rule": "The last tenth of the official train files is dev, the rest train; test as in the files.",
            "licence": "MIT, Copyright 2017 Zalando SE (Xiao, Rasul and Vollgraf, arXiv 1708.07747).",
            "stand_in": "Not a task of Long Range Arena: as many tokens and classes as its image task, other pictures.",
        },
        splits,
    )
