"""The run folder: its files, who may write to it, and whether a command continues the run that is in it.

===============================  ======================================================================================
``config.json``                  the configuration, resolved; a pretraining or finetuning run's is the model's
``run.json``                     the record of the run, see `nip.runs.record`
``environment.json``             versions, processor, threads, device at the last start
``metrics.jsonl``                one line for each step and each evaluation
``checkpoint/state.safetensors`` the state from which the run resumes
``best/model.safetensors``       the weights of the best evaluation
``pattern.npz``                  the graph, where its name and parameters do not rebuild it
``result.json``                  the outcome, once the run has finished
``run.log``                      what was printed
``manifest.json``                which files nip wrote, and the checksums of the binary ones
``pretraining/``                 measurements, checkpoint, best weights and result of denoising, where there was any
===============================  ======================================================================================
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nip.atomic import locate, replacing
from nip.ownership import LOCK, OwnedFolder, removed_on_error

FORMAT = 1  # version of run.json and manifest.json
RUN_FILE = "run.json"
MANIFEST = "manifest.json"
BINARY = (".safetensors", ".npz", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.json"

    @property
    def environment(self) -> Path:
        """Versions and hardware of the last start."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """Losses and evaluations."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The state from which the run resumes."""
        return self.path / "checkpoint" / "state.safetensors"

    @property
    def best(self) -> Path:
        """The weights that are tested."""
        return self.path / "best" / "model.safetensors"

    @property
    def pattern(self) -> Path:
        """The graph, where no name rebuilds it."""
        return self.path / "pattern.npz"

    @property
    def result(self) -> Path:
        """The outcome."""
        return self.path / "result.json"

    @property
    def log(self) -> Path:
        """What was printed."""
        return self.path / "run.log"

    @property
    def lock(self) -> Path:
        """Locked by the process that trains."""
        return self.path / LOCK

    def finished(self, max_steps: int) -> dict[str, Any] | None:
        """The result, if the run took that many steps, or stopped early on the way to them, and was tested."""
        if not self.result.is_file():
            return None
        result = read_json(self.result)
        return result if result.get("planned_steps", result["steps"]) == max_steps else None


@contextmanager
def locked(file: Path, *, wait: bool = False) -> Iterator[None]:
    """Lock a file, made where it is missing with its folder, against other processes.

    Parameters
    ----------
    file : Path
        By convention ``.lock`` in the folder that is to be written to.
    wait : bool, default=False
        Wait for the process that has locked it.

    Raises
    ------
    ValueError
        If another process has locked it.
    OSError
        If it cannot be made or written to.
    """
    import filelock

    file.parent.mkdir(parents=True, exist_ok=True)
    file.open("a").close()  # raises a clear error where the folder is not writable
    lock = filelock.FileLock(file)
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except filelock.Timeout:
        raise ValueError(
            f"Another process is at work in {file.parent}; wait for it, or name another --output-dir."
        ) from None
    try:
        yield
    finally:
        lock.release()


def run_folder(path: Path, kind: str, owned: Iterable[str]) -> OwnedFolder:
    """The folder of a run of that kind, for what may be deleted and replaced in it.

    It is recognized by its manifest, and one of earlier versions by its ``run.json`` or ``config.json``.

    Parameters
    ----------
    path : Path
    kind : str
        Such as ``lra``.
    owned : iterable of str
        Names and glob patterns of the files that the run writes.
    """
    return OwnedFolder(path, "run", (*owned, LOCK, RUN_FILE, MANIFEST), lambda path: kind_of(path) == kind)


def kind_of(path: Path) -> str | None:
    """The kind of the run in a folder, from its manifest or its ``run.json``; None if there is no run.

    Raises
    ------
    ValueError
        If a file that would say so is damaged.
    """
    if (path / MANIFEST).is_file():
        kind = read_json(path / MANIFEST).get("kind")
        if isinstance(kind, str):
            return kind
    there = read_run_file(path)
    return None if there is None else there.get("kind")


@contextmanager
def claimed(
    folder: RunFolder, kind: str, owned: Collection[str], command: Sequence[str] = ()
) -> Iterator[dict[str, Any] | None]:
    """Lock the folder for a run, made where it is missing, and remove what a killed process left half-written.

    A new folder gets its manifest at once, so that it is the run's from the first file on. If the command is refused
    before it writes anything else, it leaves no trace.

    Parameters
    ----------
    folder : RunFolder
    kind : str
        Of the run, such as ``lra``.
    owned : collection of str
        Names and glob patterns of the files that the run writes.
    command : sequence of str
        For a new manifest.

    Yields
    ------
    dict or None
        What `read_run_file` reads there.

    Raises
    ------
    ValueError
        If another process is at work in the folder, or it contains something other than a run of that kind: then
        nothing in it has been touched.
    OSError
        If it cannot be made or written to.
    """
    own = run_folder(folder.path, kind, owned)
    check_kind(own, kind)
    with removed_on_error(folder.path, {LOCK, folder.log.name, MANIFEST}), locked(folder.lock):
        check_kind(own, kind)
        if not (folder.path / MANIFEST).is_file():
            write_manifest(folder.path, kind, command, owned, finished=False)
        own.delete_leftovers()
        yield read_run_file(folder.path)


def check_kind(own: OwnedFolder, kind: str) -> None:
    """Check that a run may use a folder.

    Raises
    ------
    ValueError
        If it contains a run of another kind, or other files.
    """
    there = kind_of(own.path) if own.path.is_dir() else None
    if there is not None and there != kind:
        raise ValueError(f"{own.path} holds a run of another kind ({there}); name another --output-dir.")
    own.check()


def differences(
    there: Mapping[str, Any],
    here: Mapping[str, Any],
    *,
    changeable: Collection[str] = (),
    growing: Collection[str] = (),
    data: tuple[object, object] = (None, None),
    graph: tuple[object, object] = (None, None),
) -> list[str]:
    """What makes a command another run than the one in a folder, as phrases; empty where it continues that run.

    Parameters
    ----------
    there, here : mapping
        The settings of the run in the folder, and of the command.
    changeable : collection of str
        Settings that may differ.
    growing : collection of str
        Settings that may become larger, such as the number of steps.
    data, graph : tuple of two
        Checksums there and here.

    Examples
    --------
    >>> differences({"seed": 1, "max_steps": 5}, {"seed": 2, "max_steps": 9}, growing=["max_steps"])
    ['seed is 1 there and 2 here']
    """

    def may_differ(name: str) -> bool:
        old, new = there.get(name), here.get(name)
        return name in changeable or (name in growing and old is not None and new is not None and bool(old < new))

    found = [
        f"{name} is {there.get(name)!r} there and {here.get(name)!r} here"
        for name in {**here, **there}
        if there.get(name) != here.get(name) and not may_differ(name)
    ]
    if data[0] != data[1]:
        found.append("the data is another set")
    if graph[0] != graph[1] and not found:  # else it follows from another setting
        found.append("the graph is another one")
    return found


def check_same_run(
    where: object,
    there: Mapping[str, Any],
    here: Mapping[str, Any],
    *,
    what: str = "run",
    mend: str = "Name another --output-dir, or repeat its settings.",
    **allowed: Any,
) -> None:
    """Check that a command continues what is in a folder.

    Parameters
    ----------
    where : path-like
        The folder.
    there, here : mapping
        The settings of the run in the folder, and of the command.
    what : str, default="run"
        What the folder contains.
    mend : str
        What to do where they differ.
    **allowed
        As for `differences`.

    Raises
    ------
    ValueError
        If they differ; the sentence lists in what.
    """
    found = differences(there, here, **allowed)
    if found:
        raise ValueError(f"{where} holds another {what}: {'; '.join(found)}. {mend}")


def write_json(path: Path, value: object, *, indent: int = 2) -> None:
    """Write a JSON file, atomically.

    Parameters
    ----------
    path : Path
    value : object
        JSON values.
    indent : int, default=2
    """
    with replacing(path) as file:
        # a file name that is not UTF-8 has surrogates, which JSON escapes as Python does
        file.write((json.dumps(value, indent=indent, ensure_ascii=False) + "\n").encode(errors="backslashreplace"))


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises
    ------
    ValueError
        If the file is not a JSON object.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except ValueError as error:  # also where the bytes are not UTF-8
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a JSON object. Got {type(value).__name__} instead.")
    return value


def read_run_file(path: Path) -> dict[str, Any] | None:
    """What ``run.json`` in a folder contains; None where there is no run.

    A folder of ``nip lra`` made before it had a ``run.json`` is recognized by its ``config.json``.

    Raises
    ------
    ValueError
        If the file is not a JSON object.
    """
    if (path / RUN_FILE).is_file():
        return read_json(path / RUN_FILE)
    config = RunFolder(path).config
    settings = read_json(config) if config.is_file() else {}
    return {"kind": "lra", "settings": settings} if {"task", "eval_every", "max_steps"} & set(settings) else None


def add_to_run_file(path: Path, **facts: Any) -> None:
    """Add to ``run.json`` in a folder, or replace there, what becomes known while the run trains."""
    write_json(path / RUN_FILE, {**(read_run_file(path) or {}), **facts})


def write_manifest(path: Path, kind: str, command: Sequence[str], owned: Iterable[str], *, finished: bool) -> None:
    """Write ``manifest.json``: the format version, the kind, the command, and which files of the folder are its own.

    Parameters
    ----------
    path : Path
        The run folder.
    kind : str
        Of the run.
    command : sequence of str
        The command that repeats the run; empty where it was started from Python.
    owned : iterable of str
        Names and glob patterns, relative to the folder, of the files that the command writes.
    finished : bool
        Whether the run has finished: then the manifest contains the SHA-256 of every binary file. Before that these
        files change at every checkpoint, and hashing gigabytes there would cost more than it protects.
    """
    owned = sorted({MANIFEST, LOCK, *owned})
    files = sorted({file for name in owned for file in path.glob(name) if file.is_file()}) if finished else []
    sums = {file.relative_to(path).as_posix(): file_sha256(file) for file in files if file.suffix in BINARY}
    write_json(
        path / MANIFEST, {"format": FORMAT, "kind": kind, "command": list(command), "owned": owned, "sha256": sums}
    )


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Metrics:
    """``metrics.jsonl``, cut back to its length at a checkpoint and continued from there.

    Parameters
    ----------
    path : Path
    length : int
        Bytes at the checkpoint.

    Raises
    ------
    ValueError
        If the file is shorter than that.
    """

    def __init__(self, path: Path, length: int) -> None:
        path.touch()
        if path.stat().st_size < length:
            raise ValueError(f"{path} is shorter than at the last checkpoint: it was changed.")
        os.truncate(path, length)
        self._path = path
        self._file = path.open("ab")

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one line."""
        with self._located():
            self._file.write((json.dumps(row) + "\n").encode())

    def secure(self) -> int:
        """Flush and fsync; returns the file's length in bytes."""
        with self._located():
            self._file.flush()
            os.fsync(self._file.fileno())
        return self._file.tell()

    @contextmanager
    def _located(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            locate(error, self._path)
            raise

    def close(self) -> None:
        """Flush and close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a ``metrics.jsonl``."""
    complete = path.read_bytes().rpartition(b"\n")[0]
    return [json.loads(line) for line in complete.splitlines()]


@contextmanager
def writing(folder: RunFolder, what: str) -> Iterator[None]:
    """Make an error of writing say what could not be written, and that the last checkpoint remains.

    Raises
    ------
    OSError
        In the place of the one that was raised inside.
    """
    try:
        yield
    except OSError as error:
        stays = f"; the last one, in {folder.checkpoint}, stays" if folder.checkpoint.is_file() else ""
        why = error if error.errno is None else os.strerror(error.errno)
        raise OSError(error.errno, f"{what} cannot be written ({why}){stays}", str(folder.path)) from error
