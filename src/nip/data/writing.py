"""Write a task's splits: in bounded memory, all or nothing.

The folder is written under another name and renamed at the end: it is there as a whole or not at all.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from nip.atomic import locate, replacing
from nip.data.examples import Examples
from nip.data.folders import data_folder
from nip.data.storage import FORMAT, MANIFEST, checksum, ids_outside, not_ours, parts
from nip.data.tasks import SPLITS, Task

DAY = 86400  # seconds


def write_task(
    splits: Mapping[str, Examples | Iterable[Examples]],
    folder: Path | None,
    description: Mapping[str, Any],
    *,
    task: Task | None = None,
    overwrite: bool = False,
) -> Path:
    """Write all splits of a task and their manifest, all or nothing.

    Parameters
    ----------
    splits : mapping of str to Examples, or to iterables of Examples
        The train, dev and test splits of one task, each whole or in chunks that are written as they come. They are
        taken in this order, one after the other.
    folder : Path, optional
        The data folder; the task gets a folder of its own in it.
    description : mapping
        What the manifest says beside sizes and checksums: ``source``, ``parameters``, ``split_rule``, ``licence``.
    task : Task, optional
        The task; needed where the train split comes in chunks.
    overwrite : bool, default=False
        Replace data that is there, with the official files that were written beside it.

    Raises
    ------
    ValueError
        If there is a folder of that name and `overwrite` is false, or it holds anything else; or if a split is empty
        or holds labels, token ids or images that the task cannot have.
    OSError
        If the disk is full, or the folder cannot be written. What was there stays.
    """
    if task is None:
        assert isinstance(splits["train"], Examples), "chunks do not say which task they are of"
        task = splits["train"].task
    home = data_folder(folder) / task.name
    if home.exists():
        _require_replaceable(home, task, overwrite=overwrite)
    home.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(home)
    partial = home.with_name(f".{task.name}.{secrets.token_hex(4)}.partial")
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
        with replacing(partial / MANIFEST) as file:
            file.write((json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())
        if home.exists():
            replaced = partial.with_suffix(".replaced")
            home.rename(replaced)
            partial.rename(home)
            shutil.rmtree(replaced)
        else:
            partial.rename(home)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            if str(error.filename).startswith(str(partial)):  # a name that is gone by now
                error.filename = str(home)
            locate(error, home)
        raise
    return home


def _require_replaceable(home: Path, task: Task, *, overwrite: bool) -> None:
    if not (home / MANIFEST).is_file():
        raise not_ours(home)
    if not overwrite:
        raise ValueError(f"{home} exists already; --overwrite replaces it.")
    own = {MANIFEST, *(f"{split}.{part}.npy" for split in SPLITS for part in parts(task))}
    others = sorted(path.name for path in home.iterdir() if path.name not in own and path.suffix != ".tsv")
    if others:
        raise ValueError(f"{home} also holds {', '.join(others)}, which --overwrite would lose. Move it away first.")


def _remove_abandoned(home: Path) -> None:
    """Remove what killed processes left beside the folder; a day old, so that it is nobody's work in progress.

    A set that one had moved away, without another in its place yet, gets its name back.
    """
    replaced = sorted(home.parent.glob(f".{home.name}.*.replaced"), key=lambda left: left.stat().st_mtime)
    if replaced and not home.exists():
        replaced.pop().rename(home)
    for left in [*home.parent.glob(f".{home.name}.*.partial"), *replaced]:
        if time.time() - left.stat().st_mtime > DAY:
            shutil.rmtree(left, ignore_errors=True)


def _write_split(task: Task, name: str, pieces: Iterable[Examples], folder: Path) -> tuple[dict[str, Any], bool]:
    """Append the chunks of a split to its files; what the manifest says of them, and whether their ids are foreign."""
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
            raise ValueError(f"The {name} split of {task.name} would hold no example.")
    sums = {part: checksum(folder / f"{name}.{part}.npy") for part in types}
    return {"examples": examples, "tokens": tokens, "sha256": sums}, foreign


def _check(task: Task, name: str, piece: Examples, before: int) -> None:
    """Refuse what the task cannot have, naming the example; `before` examples of the split came earlier."""
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
    """A one-dimensional ``.npy`` file that is appended to; its header is written anew at the end."""

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
        # numpy leaves room for any length of the first axis, so the header's own length does not change
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
