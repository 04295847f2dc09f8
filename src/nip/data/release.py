"""Where the parts of Long Range Arena's official release lie, however deep in it somebody points."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def find(place: Path, name: str, holds: Callable[[Path], bool]) -> Path | None:
    """The folder that holds a task's files: `place`, its `name`, or that in the unpacked archive; None without one.

    The archive unpacks to ``lra_release/lra_release/<name>``.
    """
    above = (place, place / "lra_release", place / "lra_release" / "lra_release")
    for folder in (place, *(each / name for each in above)):
        if folder.is_dir() and holds(folder):
            return folder
    return None
