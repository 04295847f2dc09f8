"""Splits on disk: flat arrays that are mapped into memory, and a manifest that says what they are.

``<data>/<task>/`` holds, per split, ``<split>.tokens.npy`` (all token ids, one example after the other),
``<split>.offsets.npy`` (n + 1 offsets into them) and ``<split>.labels.npy``; and ``manifest.json``. The folder is
written under another name and renamed at the end: it is there as a whole or not at all. Nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shlex
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nip.atomic import replacing
from nip.data.examples import Examples
from nip.data.folders import data_folder
from nip.data.tasks import SPLITS, Task, find_task

FORMAT = 1
MANIFEST = "manifest.json"
DAY = 86400  # seconds
PARTS = ("tokens", "offsets", "labels")


def open_split(task_name: str, split: str, folder: Path | None = None) -> Examples:
    """Open one split of a task, mapped into memory: examples are read when they are asked for.

    Sizes, types and offsets are checked against the manifest; `verify` reads every byte.

    Parameters
    ----------
    task_name : str
        One of `nip.data.TASKS`.
    split : str
        ``train``, ``dev`` or ``test``.
    folder : Path, optional
        The data folder, which holds one folder per task; by default `nip.data.data_folder`.

    Raises
    ------
    ValueError
        If there is no such task or split, or the folder is damaged or of another format.
    FileNotFoundError
        If the data is not there; the message says which command makes it.
    """
    task = find_task(task_name)
    if split not in SPLITS:
        raise ValueError(f"There is no split {split!r}. The splits are {', '.join(SPLITS)}.")
    home = data_folder(folder) / task.name
    expected = read_manifest(task.name, folder)["splits"][split]
    arrays = {part: _load(home / f"{split}.{part}.npy", part, expected, task) for part in PARTS}
    labels, offsets = arrays["labels"].astype(np.int64), np.asarray(arrays["offsets"])
    if offsets[0] != 0 or offsets[-1] != expected["tokens"] or (np.diff(offsets) < 1).any():
        raise _damaged(home / f"{split}.offsets.npy", "its offsets do not ascend from 0 to the number of tokens")
    if labels.min() < 0 or labels.max() >= task.n_classes:
        raise _damaged(home / f"{split}.labels.npy", f"it holds labels outside 0 … {task.n_classes - 1}")
    return Examples(task, split, arrays["tokens"], offsets, labels)


def read_manifest(task_name: str, folder: Path | None = None) -> dict[str, Any]:
    """What the data folder says of a task's data: source, parameters, token names, and per split counts and checksums.

    Raises
    ------
    FileNotFoundError
        If the data is not there; the message says which command makes it.
    ValueError
        If the manifest is damaged, of another format or of another task.
    """
    task = find_task(task_name)
    path = data_folder(folder) / task.name / MANIFEST
    if not path.is_file():
        where = "" if folder is None else f" --out {shlex.quote(str(folder))}"
        raise FileNotFoundError(
            f"There is no {task.name} data in {path.parent}. Make it with: nip data {task.name}{where}"
        )
    try:
        manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
        described = (manifest["format"], manifest["task"], tuple(manifest["tokens"]))
        for split in SPLITS:
            sizes = manifest["splits"][split]
            if not all(type(sizes[key]) is int and sizes[key] > 0 for key in ("examples", "tokens")):
                raise ValueError(f"the sizes of its {split} split are no positive integers")
            if not all(isinstance(sizes["sha256"][part], str) for part in PARTS):
                raise ValueError(f"the checksums of its {split} split are no text")
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"it is no manifest ({type(error).__name__}: {error})") from error
    if described[0] != FORMAT:
        raise _damaged(path, f"its format is {described[0]!r} and this version of nip reads {FORMAT}")
    if described[1:] != (task.name, task.tokens):
        raise _damaged(path, f"it describes {described[1]!r} or other token ids, not {task.name!r}")
    return manifest


def write_task(
    splits: Mapping[str, Examples], folder: Path | None, description: Mapping[str, Any], *, overwrite: bool = False
) -> Path:
    """Write all splits of a task and their manifest, all or nothing.

    Parameters
    ----------
    splits : mapping of str to Examples
        The train, dev and test splits of one task.
    folder : Path, optional
        The data folder; the task gets a folder of its own in it.
    description : mapping
        What the manifest says beside sizes and checksums: ``source``, ``parameters``, ``split_rule``, ``licence``.
    overwrite : bool, default=False
        Replace data that is there, with the official files that were written beside it.

    Raises
    ------
    ValueError
        If there is a folder of that name and `overwrite` is false, or it holds anything else.
    """
    task = splits["train"].task
    home = data_folder(folder) / task.name
    if home.exists():
        if not (home / MANIFEST).is_file():
            raise _foreign(home)
        if not overwrite:
            raise ValueError(f"{home} exists already; --overwrite replaces it.")
        own = {MANIFEST, *(f"{split}.{part}.npy" for split in SPLITS for part in PARTS)}
        others = sorted(path.name for path in home.iterdir() if path.name not in own and path.suffix != ".tsv")
        if others:
            raise ValueError(
                f"{home} also holds {', '.join(others)}, which --overwrite would lose. Move it away first."
            )
    home.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(home)
    partial = home.with_name(f".{task.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir()
    try:
        described = {name: _write_split(splits[name], partial) for name in SPLITS}
        manifest = {"format": FORMAT, "task": task.name, "tokens": task.tokens, **description, "splits": described}
        with replacing(partial / MANIFEST) as file:
            file.write((json.dumps(manifest, indent=2, ensure_ascii=False) + "\n").encode())
        if home.exists():
            replaced = partial.with_suffix(".replaced")
            home.rename(replaced)
            partial.rename(home)
            shutil.rmtree(replaced)
        else:
            partial.rename(home)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return home


def stored(task_name: str, folder: Path | None, description: Mapping[str, Any]) -> bool:
    """Whether the data that is to be made is there already.

    Raises
    ------
    ValueError
        If there is data of that task, but made otherwise: the message says what differs.
    """
    home = data_folder(folder) / task_name
    if not home.exists():
        return False
    try:
        manifest = read_manifest(task_name, folder)
    except FileNotFoundError:
        raise _foreign(home) from None
    there, wanted = ({"source": each.get("source"), **each.get("parameters", {})} for each in (manifest, description))
    differing = [
        f"{key} is {there.get(key)!r} there and {wanted.get(key)!r} here"
        for key in dict.fromkeys([*wanted, *there])
        if there.get(key) != wanted.get(key)
    ]
    if differing:
        raise ValueError(
            f"{home} holds other {task_name} data: {'; '.join(differing)}. "
            f"--overwrite replaces it, --out names another folder."
        )
    return True


def verify(task_name: str, folder: Path | None = None) -> dict[str, int]:
    """Read every byte of a task's data: checksums, token ids, and for ListOps the value of every expression.

    Returns
    -------
    dict of str to int
        Examples per split, all sound.

    Raises
    ------
    ValueError
        At the first thing that is wrong, naming the file.
    """
    task = find_task(task_name)
    home = data_folder(folder) / task.name
    manifest = read_manifest(task.name, folder)
    counts = {}
    for split in SPLITS:
        for part in PARTS:
            path = home / f"{split}.{part}.npy"
            if path.is_file() and checksum(path) != manifest["splits"][split]["sha256"][part]:
                raise _damaged(path, "its SHA-256 is not the manifest's")
        examples = open_split(task.name, split, folder)
        if examples.tokens.min() < 1 or examples.tokens.max() >= len(task.tokens):
            raise _damaged(home / f"{split}.tokens.npy", f"it holds token ids outside 1 … {len(task.tokens) - 1}")
        if task.name == "listops":
            from nip.data import kernels

            wrong = np.flatnonzero(kernels.values(examples.tokens, examples.offsets) != examples.labels)
            if wrong.size:
                raise _damaged(home / f"{split}.labels.npy", f"the label of example {wrong[0]} is not its value")
        counts[split] = len(examples)
    return counts


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove_abandoned(home: Path) -> None:
    """Remove what killed processes left beside the folder; a day old, so that it is nobody's work in progress."""
    for left in [*home.parent.glob(f".{home.name}.*.partial"), *home.parent.glob(f".{home.name}.*.replaced")]:
        if time.time() - left.stat().st_mtime > DAY:
            shutil.rmtree(left, ignore_errors=True)


def _write_split(examples: Examples, folder: Path) -> dict[str, Any]:
    # the smallest types that hold what a task can have: one byte each for ListOps
    arrays = {
        "tokens": examples.tokens.astype(_token_type(examples.task), copy=False),
        "offsets": examples.offsets.astype("<i8", copy=False),
        "labels": examples.labels.astype(_label_type(examples.task)),
    }
    sums = {}
    for part, array in arrays.items():
        path = folder / f"{examples.split}.{part}.npy"
        with replacing(path) as file:
            np.save(file, array, allow_pickle=False)
        sums[part] = checksum(path)
    return {"examples": len(examples), "tokens": int(examples.tokens.size), "sha256": sums}


def _token_type(task: Task) -> np.dtype[Any]:
    return np.min_scalar_type(task.vocab_size - 1).newbyteorder("<")


def _label_type(task: Task) -> np.dtype[Any]:
    return np.min_scalar_type(task.n_classes - 1).newbyteorder("<")


def _load(path: Path, part: str, expected: Mapping[str, Any], task: Task) -> NDArray[Any]:
    kind, size = {
        "tokens": (_token_type(task), expected["tokens"]),
        "offsets": (np.dtype("<i8"), expected["examples"] + 1),
        "labels": (_label_type(task), expected["examples"]),
    }[part]
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
    where = shlex.quote(str(path.parent.parent))
    return ValueError(
        f"{path} is damaged: {why}. Make the data again with: nip data {path.parent.name} --overwrite --out {where}"
    )


def _foreign(home: Path) -> ValueError:
    return ValueError(f"{home} exists and holds no data of nip. Choose another folder with --out, or remove it.")
