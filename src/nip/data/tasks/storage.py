"""A task's data on disk: flat arrays per split, memory-mapped for reading, and a manifest.

``<data>/<task>/`` has, per split, ``<split>.tokens.npy`` (all token ids, one sequence after the other),
``<split>.offsets.npy`` (where each sequence begins, and the end), ``<split>.labels.npy`` and, if tokens have labels,
``<split>.targets.npy``; and ``manifest.json``. Nothing in it is executed. It is written in bounded memory, under
another name that is changed at the end, so the folder is either complete or missing.
"""

from __future__ import annotations

import glob
import json
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nip.atomic import locate, replacing
from nip.data.tasks.examples import CHUNK, Examples
from nip.data.tasks.registry import SPLITS, TASKS, Task, find_task
from nip.locations import data_folder
from nip.ownership import MARKER, OwnedFolder, is_temporary, move_into, remove_temporary, temporary_name
from nip.runs.folder import check_same_run, file_sha256, write_json

FORMAT = 1
MANIFEST = "manifest.json"
DAY = 86400  # seconds
OFFICIAL = ("basic_train.tsv", "basic_val.tsv", "basic_test.tsv")  # of ListOps, with --tsv


def parts(task: Task) -> dict[str, np.dtype[Any]]:
    """The arrays of a split and their dtypes, the smallest for the task's values.

    Examples
    --------
    >>> {part: str(kind) for part, kind in parts(find_task("listops")).items()}
    {'tokens': 'uint8', 'offsets': 'int64', 'labels': 'uint8'}
    """
    values = {"tokens": task.vocab_size - 1, "offsets": None, "labels": task.n_classes - 1}
    if task.targets:
        values["targets"] = task.n_classes
    return {
        part: np.dtype("<i8") if largest is None else np.min_scalar_type(largest).newbyteorder("<")
        for part, largest in values.items()
    }


def open_split(task_name: str, split: str, folder: Path | None = None) -> Examples:
    """Open one split of a task, memory-mapped: examples are read on access.

    Sizes, dtypes and offsets are checked; `verify` checks every byte.

    Parameters
    ----------
    task_name : str
        One of `nip.data.TASKS`.
    split : str
        ``train``, ``dev`` or ``test``.
    folder : Path, optional
        The data folder, with one folder per task; by default `nip.data.data_folder`.

    Returns
    -------
    Examples

    Raises
    ------
    ValueError
        If there is no such task or split, or the data is damaged or has another format version.
    FileNotFoundError
        If there is no data; the message has the command that makes it.
    """
    task = find_task(task_name)
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r}. The splits are {', '.join(SPLITS)}.")
    home = data_folder(folder) / task.name
    manifest = read_manifest(task.name, folder)
    expected = manifest["splits"][split]
    arrays = {part: _load(home / f"{split}.{part}.npy", part, expected, task) for part in parts(task)}
    labels, offsets = arrays["labels"].astype(np.int64), np.asarray(arrays["offsets"])
    lengths = np.diff(offsets)
    if offsets[0] != 0 or offsets[-1] != expected["tokens"] or (lengths < 1).any():
        raise _damaged(home / f"{split}.offsets.npy", "its offsets do not ascend from 0 to the number of tokens")
    if task.shape and (lengths != task.max_length).any():
        raise _damaged(home / f"{split}.offsets.npy", f"it has images of other than {task.max_length} pixels")
    if labels.min() < 0 or labels.max() >= task.n_classes:
        raise _damaged(home / f"{split}.labels.npy", f"it has labels outside 0 … {task.n_classes - 1}")
    foreign = manifest["tokens"] is None
    return Examples(task, split, arrays["tokens"], offsets, labels, arrays.get("targets"), foreign)


def read_manifest(task_name: str, folder: Path | None = None) -> dict[str, Any]:
    """The manifest of a task's data: source, parameters, token names, and per split counts and checksums.

    Raises
    ------
    FileNotFoundError
        If there is no data; the message has the command that makes it.
    ValueError
        If the manifest is damaged, or has another format version or task.
    """
    task = find_task(task_name)
    path = data_folder(folder) / task.name / MANIFEST
    if not path.is_file():
        where = "" if folder is None else f" --output-dir {shlex.quote(str(folder))}"
        origin = " --from FOLDER" if task.read else ""
        raise FileNotFoundError(
            f"There is no {task.name} data in {path.parent}. Make it with: nip data {task.name}{origin}{where}"
        )
    try:
        manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
        tokens = None if manifest["tokens"] is None else tuple(manifest["tokens"])
        described = (manifest["format"], manifest["task"], tokens)
        for split in SPLITS:
            sizes = manifest["splits"][split]
            if not all(type(sizes[key]) is int and sizes[key] > 0 for key in ("examples", "tokens")):
                raise ValueError(f"the sizes of its {split} split are not positive integers")
            if not all(isinstance(sizes["sha256"][part], str) for part in parts(task)):
                raise ValueError(f"the checksums of its {split} split are not text")
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"it is not a manifest ({type(error).__name__}: {error})") from error
    if described[0] != FORMAT:
        raise _damaged(path, f"its format is {described[0]!r} and this version of nip reads {FORMAT}")
    if described[1] != task.name or described[2] not in (None, task.tokens):
        raise _damaged(path, f"it describes {described[1]!r} or other token ids, not {task.name!r}")
    return manifest


def pickles_length(task_name: str, folder: Path | None = None) -> int | None:
    """The length that the original's pickles of a task's data are padded to; None for other data, or where none is."""
    try:
        length = read_manifest(task_name, folder).get("padded_length")
    except FileNotFoundError:
        return None
    return length if type(length) is int and length > 0 else None


def stored(task_name: str, folder: Path | None, description: Mapping[str, Any]) -> bool:
    """Whether the data to be made exists.

    Parameters
    ----------
    task_name : str
    folder : Path or None
        The data folder.
    description : mapping
        ``source`` and ``parameters`` of the data to be made.

    Raises
    ------
    ValueError
        If other data of the task exists; the message lists the differences.
    """
    home = data_folder(folder) / task_name
    if not home.exists():
        return False
    try:
        manifest = read_manifest(task_name, folder)
    except FileNotFoundError:
        raise not_ours(home) from None
    there, wanted = ({"source": each.get("source"), **each.get("parameters", {})} for each in (manifest, description))
    mend = "--overwrite replaces it, --output-dir names another folder."
    check_same_run(home, there, wanted, what=f"{task_name} set", mend=mend)
    return True


def task_in(folder: Path) -> str | None:
    """The task whose data is in the folder itself; None if it has no manifest of a task."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    name = manifest.get("task") if isinstance(manifest, dict) else None
    return name if isinstance(name, str) and name in TASKS else None


def verify(task_name: str, folder: Path | None = None) -> dict[str, int]:
    """Check all files of a task's data: checksums, token ids, and for ListOps the value of every expression.

    Returns
    -------
    dict of str to int
        Examples per split.

    Raises
    ------
    ValueError
        At the first error; the message names the file.
    """
    task = find_task(task_name)
    home = data_folder(folder) / task.name
    manifest = read_manifest(task.name, folder)
    counts = {}
    for split in SPLITS:
        for part in parts(task):
            path = home / f"{split}.{part}.npy"
            if path.is_file() and file_sha256(path) != manifest["splits"][split]["sha256"][part]:
                raise _damaged(path, "its SHA-256 is not the manifest's")
        examples = open_split(task.name, split, folder)
        fault = ids_outside(examples)
        if fault:
            raise _damaged(home / f"{split}.tokens.npy", f"it has {fault}")
        if task.kind == "expression" and not examples.foreign:
            from nip.data.tasks.listops import kernels

            wrong = np.flatnonzero(kernels.values(examples.tokens, examples.offsets) != examples.labels)
            if wrong.size:
                raise _damaged(home / f"{split}.labels.npy", f"the label of example {wrong[0]} is not its value")
        counts[split] = len(examples)
    return counts


def ids_outside(examples: Examples) -> str | None:
    """What is wrong with the token ids and targets of a split, as a phrase; None if nothing is."""
    task, tokens, targets = examples.task, examples.tokens, examples.targets
    legal = range(task.vocab_size) if examples.foreign else task.ids
    low, high = int(tokens.min()), int(tokens.max())
    if high >= legal.stop or (low < legal.start and not (low == 0 and _only_empty_texts(examples))):
        return f"token ids outside {legal.start} … {legal.stop - 1}"
    if targets is not None and (targets.min() < 0 or targets.max() > task.n_classes):
        return f"labels of tokens outside 0 … {task.n_classes}"
    return None


def _only_empty_texts(examples: Examples) -> bool:
    """Whether every 0 is the single token of an empty text."""
    if examples.task.kind != "bytes":
        return False
    tokens, starts = examples.tokens, examples.offsets[:-1]
    empty = tokens[starts[np.diff(examples.offsets) == 1]]
    zeros = sum(np.count_nonzero(tokens[i : i + CHUNK] == 0) for i in range(0, tokens.size, CHUNK))
    return zeros == np.count_nonzero(empty == 0)


def _load(path: Path, part: str, expected: Mapping[str, Any], task: Task) -> NDArray[Any]:
    kind = parts(task)[part]
    sequences = expected["examples"] * (2 if task.pair else 1)
    size = {"offsets": sequences + 1, "labels": expected["examples"]}.get(part, expected["tokens"])
    if not path.is_file():
        raise _damaged(path, "it is missing")
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise _damaged(path, f"it cannot be read ({error})") from error
    if array.dtype != kind or array.shape != (size,):
        raise _damaged(
            path, f"the manifest says {size} values of type {kind}, the file {array.shape} of type {array.dtype}"
        )
    return array


def _damaged(path: Path, why: str) -> ValueError:
    name, where = path.parent.name, shlex.quote(str(path.parent.parent))
    origin = " --from FOLDER" if name in TASKS and TASKS[name].read else ""
    return ValueError(
        f"{path} is damaged: {why}. Make the data again with: nip data {name}{origin} --overwrite --output-dir {where}"
    )


def not_ours(home: Path) -> ValueError:
    """The error for a folder that is not a task's data."""
    return ValueError(f"{home} exists and is not data of nip. Choose another folder with --output-dir, or remove it.")


def write_task(
    splits: Mapping[str, Examples | Iterable[Examples]],
    folder: Path | None,
    description: Mapping[str, Any],
    *,
    task: Task | None = None,
    overwrite: bool = False,
) -> Path:
    """Write all splits of a task and their manifest, atomically.

    Parameters
    ----------
    splits : mapping of str to Examples, or to iterables of Examples
        The train, dev and test splits of one task, each as `Examples` or in chunks, which are written as they are made.
        They are taken in this order.
    folder : Path, optional
        The data folder; the task gets a folder of its own in it.
    description : mapping
        Further entries of the manifest: ``source``, ``parameters``, ``split_rule``, ``licence``.
    task : Task, optional
        Required if the train split comes in chunks.
    overwrite : bool, default=False
        Replace existing data, and the official files in its folder.

    Returns
    -------
    Path
        The folder of the task.

    Raises
    ------
    ValueError
        If the folder exists and `overwrite` is false, or it contains anything else; or if a split is empty or has
        labels, token ids or images that the task cannot have.
    OSError
        If the disk is full, or the folder cannot be written. Existing data stays.
    """
    if task is None:
        assert isinstance(splits["train"], Examples), "chunks do not say which task they are of"
        task = splits["train"].task
    home = data_folder(folder) / task.name
    if home.exists():
        _require_replaceable(home, task, overwrite=overwrite)
    home.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(home, task)
    partial = temporary_name(home)
    partial.mkdir()
    try:
        described = {}
        foreign = False
        for name in SPLITS:
            split = splits[name]
            pieces = [split] if isinstance(split, Examples) else split
            described[name], strange = _write_split(task, name, pieces, partial)
            foreign = foreign or strange
        manifest = {
            "format": FORMAT,
            "task": task.name,
            "tokens": None if foreign else task.tokens,
            "vocabulary": "ids as in the source, which does not say what they mean" if foreign else task.vocabulary,
            **description,
            "splits": described,
        }
        write_json(partial / MANIFEST, manifest)
        task_folder(home, task).replace(partial)
    except BaseException as error:
        remove_temporary(partial)
        if isinstance(error, OSError):
            if str(error.filename).startswith(str(partial)):  # a name that no longer exists
                error.filename = str(home)
            locate(error, home)
        raise
    return home


def _require_replaceable(home: Path, task: Task, *, overwrite: bool) -> None:
    if not (home / MANIFEST).is_file():
        raise not_ours(home)
    if not overwrite:
        raise ValueError(f"{home} exists; --overwrite replaces it.")
    own = task_folder(home, task)
    if not own.ours():
        raise not_ours(home)
    others = sorted(path.name for path in home.iterdir() if not any(path.match(name) for name in own.names))
    if others:
        raise ValueError(f"{home} also contains {', '.join(others)}, which --overwrite would delete. Move it first.")


def task_folder(home: Path, task: Task) -> OwnedFolder:
    """The folder of a task's data, for what may be deleted and replaced in it."""
    official = OFFICIAL if task.kind == "expression" else ()
    names = (*(f"{split}.{part}.npy" for split in SPLITS for part in parts(task)), *official, MANIFEST)
    return OwnedFolder(home, f"{task.name} data", names, lambda path: task_in(path) == task.name)


def _remove_abandoned(home: Path, task: Task) -> None:
    """Remove what killed processes left next to the folder, if it is a day old, so not in use.

    A data set that was moved away before its replacement was in place gets its name back. Folders that contain anything
    but the files of a task stay.
    """
    names = task_folder(home, task).names
    left = [
        each
        for each in home.parent.glob(f".{glob.escape(home.name)}.*{MARKER}")
        if each.is_dir() and is_temporary(each)
    ]
    left = [each for each in left if all(file.name in names or is_temporary(file) for file in each.iterdir())]
    complete = sorted((each for each in left if task_in(each) == task.name), key=lambda each: each.stat().st_mtime)
    if complete and not home.exists():
        move_into(complete[0], home)
        left.remove(complete[0])
    for each in left:
        if time.time() - each.stat().st_mtime > DAY:
            remove_temporary(each)


def _write_split(task: Task, name: str, pieces: Iterable[Examples], folder: Path) -> tuple[dict[str, Any], bool]:
    """Append the chunks of a split to its files; returns its entry of the manifest, and whether its ids are foreign."""
    types = parts(task)
    examples = tokens = 0
    foreign = False
    with ExitStack() as stack:
        files = {part: stack.enter_context(_array_file(folder / f"{name}.{part}.npy", types[part])) for part in types}
        files["offsets"].append(np.zeros(1, np.int64))
        for piece in pieces:
            _check(task, name, piece, examples)
            foreign = foreign or piece.foreign
            files["tokens"].append(piece.tokens)
            files["offsets"].append(piece.offsets[1:] + tokens)
            files["labels"].append(piece.labels)
            if piece.targets is not None:
                files["targets"].append(piece.targets)
            examples += len(piece)
            tokens += int(piece.tokens.size)
        if not examples:
            raise ValueError(f"The {name} split of {task.name} has no example.")
    sums = {part: file_sha256(folder / f"{name}.{part}.npy") for part in types}
    return {"examples": examples, "tokens": tokens, "sha256": sums}, foreign


def _check(task: Task, name: str, piece: Examples, before: int) -> None:
    """Raise ValueError for values that the task cannot have; `before` is the number of earlier examples."""
    assert piece.task == task and (piece.targets is not None) == task.targets
    assert piece.offsets[0] == 0 and piece.offsets[-1] == piece.tokens.size
    where = f"The {name} split of {task.name}"
    wrong = np.flatnonzero((piece.labels < 0) | (piece.labels >= task.n_classes))
    if wrong.size:
        first = int(wrong[0])
        raise ValueError(
            f"{where}, example {before + first}: the label must be one of 0 … {task.n_classes - 1}. "
            f"Got {piece.labels[first]} instead."
        )
    lengths = np.diff(piece.offsets)
    wrong = np.flatnonzero((lengths != task.max_length) if task.shape else (lengths < 1))
    if wrong.size:
        first = int(wrong[0])
        need = f"an image has {task.max_length} pixels" if task.shape else "there must be a token"
        raise ValueError(f"{where}, example {before + first // piece.width}: {need}. Got {lengths[first]} instead.")
    fault = ids_outside(piece)
    if fault:
        raise ValueError(f"{where}, examples {before} … {before + len(piece) - 1}: {fault}.")


class _ArrayFile:
    """A one-dimensional ``.npy`` file that grows; its header is rewritten at the end."""

    def __init__(self, file: IO[bytes], kind: np.dtype[Any]) -> None:
        self.file = file
        self.kind = kind
        self.size = 0
        self.begin = self._write_header()

    def append(self, values: NDArray[Any]) -> None:
        self.file.write(np.ascontiguousarray(values, dtype=self.kind).data)
        self.size += values.size

    def finish(self) -> None:
        self.file.seek(0)
        # numpy pads the header for any length of the first axis, so its size does not change
        assert self._write_header() == self.begin
        self.file.seek(0, 2)

    def _write_header(self) -> int:
        header = {"descr": np.lib.format.dtype_to_descr(self.kind), "fortran_order": False, "shape": (self.size,)}
        np.lib.format.write_array_header_1_0(self.file, header)
        return self.file.tell()


@contextmanager
def _array_file(path: Path, kind: np.dtype[Any]) -> Iterator[_ArrayFile]:
    with replacing(path) as file:
        growing = _ArrayFile(file, kind)
        yield growing
        growing.finish()
