"""Atomic file writes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from nip.ownership import MARKER


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Write a file atomically: `path` is created or replaced only if the block ends without an error.

    The data is written to a temporary file in the same folder, synced to disk and renamed over `path`. Neither an
    exception nor ``kill -9`` nor a power failure leaves a partial file or loses the old one.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(Path(folder) / "a.txt") as file:
    ...         _ = file.write(b"whole")
    ...     (Path(folder) / "a.txt").read_text()
    'whole'
    """
    path = Path(path)
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=MARKER)
    except OSError as error:
        raise OSError(error.errno, f"cannot write there: {error.strerror}", str(path)) from error
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(usual_mode())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            locate(error, path)
        raise


def locate(error: OSError, path: str | os.PathLike[str]) -> None:
    """Add the path to an error raised by a write; the system omits it, for instance, when the disk is full."""
    if error.filename is None and error.errno is not None:
        error.filename, error.strerror = str(path), f"could not be written: {error.strerror}"


def usual_mode() -> int:
    """The permissions of a new file under the current umask; temporary files start with fewer."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
