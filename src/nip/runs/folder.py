"""The run folder: what is in it, who may write to it, and whether a command belongs to it.

===============================  ======================================================================================
``config.json``                  the configuration, resolved
``environment.json``             versions, processor, threads, device at the last start
``metrics.jsonl``                one line a step and an evaluation
``checkpoint/state.safetensors`` from which the run goes on
``best/model.safetensors``       the weights of the best evaluation
``pattern.npz``                  the graph, where its name and parameters do not rebuild it
``result.json``                  there once the run is finished
``run.log``                      what was said
``pretraining/``                 measurements, checkpoint, best weights and result of denoising, where there was any
===============================  ======================================================================================
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nip.atomic import locate, replacing

RUN_FILE = "run.json"  # in a folder whose config.json is a model's: what the run is


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
        """What it ran on."""
        return self.path / "environment.json"

    @property
    def metrics(self) -> Path:
        """What was measured."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        """From where it goes on."""
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
        """What was said."""
        return self.path / "run.log"

    @property
    def lock(self) -> Path:
        """Held by the process that trains."""
        return self.path / ".lock"

    def finished(self, max_steps: int) -> dict[str, Any] | None:
        """The result, if the run has done that many steps, or stopped early on the way to them, and was tested."""
        if not self.result.is_file():
            return None
        result: dict[str, Any] = json.loads(self.result.read_text("utf-8"))
        return result if result.get("planned_steps", result["steps"]) == max_steps else None


@contextmanager
def claimed(folder: RunFolder) -> Iterator[None]:
    """Make the folder and keep every other process out of it; what a killed one left half-written is removed.

    Raises
    ------
    ValueError
        If another process is at work in the folder, or it holds something else than a run.
    OSError
        If it cannot be made or written to.
    """
    with locked(folder):
        before_config = {folder.lock, folder.log, folder.pattern}  # what a run writes before its configuration
        if not folder.config.is_file() and set(folder.path.iterdir()) - before_config:
            raise ValueError(f"{folder.path} is not empty and holds no run; name another --out.")
        yield


@contextmanager
def locked(folder: RunFolder) -> Iterator[None]:
    """As `claimed`, whatever the folder holds."""
    import filelock

    folder.path.mkdir(parents=True, exist_ok=True)
    # opened here first, for a clear error where the folder cannot be written to
    folder.lock.open("a").close()
    lock = filelock.FileLock(folder.lock)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ValueError(f"Another process is training in {folder.path}; wait for it, or name another --out.") from None
    try:
        for leftover in folder.path.rglob(".*.partial"):
            leftover.unlink()
        yield
    finally:
        lock.release()


def wait_for_other(folder: RunFolder) -> None:
    """Wait until no other process trains in the folder; there may be one whose starter is gone."""
    import filelock

    folder.path.mkdir(parents=True, exist_ok=True)
    folder.lock.open("a").close()
    with filelock.FileLock(folder.lock):
        pass


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, complete or not at all."""
    with replacing(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def read_run_file(path: Path) -> dict[str, Any] | None:
    """What ``run.json`` in the folder says; None where there is none.

    Raises
    ------
    ValueError
        If it is not a JSON object.
    """
    file = path / RUN_FILE
    if not file.is_file():
        return None
    try:
        value = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not valid JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file} must hold a JSON object. Got {type(value).__name__} instead.")
    return value


def write_run_file(folder: RunFolder, facts: Mapping[str, Any]) -> None:
    """Write ``run.json``, complete or not at all."""
    write_json(folder.path / RUN_FILE, facts)


class Metrics:
    """The file of measurements, cut back to what a checkpoint knows and continued from there."""

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
        """Force everything to the disk; the file's length in bytes."""
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
        """Write what is left and close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a file of measurements."""
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
