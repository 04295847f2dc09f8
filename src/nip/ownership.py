"""Which files of a folder a command may delete or replace: only those that it wrote, in a folder that it wrote.

Every deletion and every replacement of a folder in this library goes through `OwnedFolder`, which decides by two
questions. Is the folder this command's: does a file in it that only the command writes say so? And does the name belong
to the files that the command writes? Anything else stays, whatever is asked. Temporary files and folders carry
`MARKER` at the end of their names, and are removed only inside a folder that is the command's.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MARKER = ".nip-partial"
LOCK = ".lock"


def temporary_name(path: Path) -> Path:
    """A new name next to a path for what is not complete: hidden, random, with `MARKER`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{MARKER}")


def is_temporary(path: Path) -> bool:
    """Whether the name is one of `temporary_name` or of `nip.atomic.replacing`."""
    return path.name.startswith(".") and path.name.endswith(MARKER)


@dataclass(frozen=True)
class OwnedFolder:
    """A folder that a command writes to.

    Parameters
    ----------
    path : Path
        It need not exist.
    what : str
        What the command writes there, for messages: ``run``, ``corpus``.
    names : tuple of str
        Names and glob patterns, relative to the folder, of the files that the command writes. The last ones are those
        by which `proof` recognizes the folder: they are deleted last.
    proof : callable
        Whether a folder is the command's, from the files in it.
    early : tuple of str, default=()
        Names of files that a command writes before those by which the folder is recognized.
    """

    path: Path
    what: str
    names: tuple[str, ...]
    proof: Callable[[Path], bool]
    early: tuple[str, ...] = ()

    def ours(self) -> bool:
        """Whether the folder is the command's."""
        return self.path.is_dir() and self.proof(self.path)

    def others(self) -> list[Path]:
        """The entries of a folder that is not the command's which stand in its way: all but what a start leaves."""
        if not self.path.is_dir():
            return []
        known = {LOCK, *self.early}
        return sorted(each for each in self.path.iterdir() if each.name not in known and not is_temporary(each))

    def check(self, *, mend: str = "Name another --output-dir.", beside: bool = False) -> None:
        """Check, before anything is written, that the command may write to the folder.

        Parameters
        ----------
        mend : str
            What to do.
        beside : bool, default=False
            Accept files of others next to those of the command, unless they have the same names.

        Raises
        ------
        ValueError
            If the folder is not the command's and not empty.
        """
        if self.ours():
            return
        others = self.others()
        if beside:
            others = sorted(self._owned())
        if others:
            shown = ", ".join(each.name for each in others[:3]) + (" …" if len(others) > 3 else "")
            raise ValueError(
                f"{self.path} is not empty and holds no {self.what}: {printable(shown)}. Nothing in it was changed. "
                f"{mend}"
            )

    def _owned(self) -> set[Path]:
        found = {file for name in self.names for file in self.path.glob(name) if file.is_symlink() or not file.is_dir()}
        return {file for file in found if not any(each.is_symlink() for each in self._below(file))}

    def _below(self, file: Path) -> list[Path]:
        """The folders between this one and a file; none of them may be a link to somewhere else."""
        return [each for each in file.parents if self.path in each.parents]

    def delete(self, names: Iterable[str] | None = None) -> None:
        """Delete the command's files, or those of some names; other files stay, and folders that contain any.

        Parameters
        ----------
        names : iterable of str, optional
            Names and glob patterns of files and folders, relative to the folder.

        Raises
        ------
        ValueError
            If the folder is not the command's: nothing is deleted.
        """
        if not self.path.exists():
            return
        if not self.ours():
            raise ValueError(f"{self.path} holds no {self.what} of nip: nothing there is deleted.")
        owned = self._owned()
        chosen = owned
        if names is not None:
            found = {each for name in names for each in self.path.glob(name)}
            chosen = {file for file in owned if file in found or not found.isdisjoint(file.parents)}
        last = [file for name in reversed(self.names) for file in self.path.glob(name)]
        rank = {file: place for place, file in enumerate(last)}
        for file in sorted(chosen, key=lambda file: (-rank.get(file, len(last)), file)):
            file.unlink(missing_ok=True)
        emptied = {parent for file in chosen for parent in self._below(file)}
        if names is not None:
            emptied |= {each for each in found if each.is_dir()}
        for folder in sorted(emptied, reverse=True):
            remove_if_empty(folder)

    def delete_leftovers(self) -> None:
        """Delete what a killed process left unfinished in the folder; nothing if the folder is not the command's."""
        if not self.ours():
            return
        for left in [each for each in self.path.rglob(f".*{MARKER}") if is_temporary(each)]:
            remove_temporary(left)

    def replace(self, made: Path) -> None:
        """Put a complete temporary folder in the place of this one, whose files are deleted.

        Parameters
        ----------
        made : Path
            A folder under a `temporary_name`.

        Raises
        ------
        ValueError
            If the folder exists and is not the command's, or contains files of others.
        """
        assert is_temporary(made)
        if self.path.exists():
            self.check()
            foreign = [each for each in self.path.rglob("*") if not each.is_dir() and each not in self._owned()]
            if foreign:
                raise ValueError(f"{self.path} also contains {printable(foreign[0].name)}, which nip did not write.")
            moved = temporary_name(self.path)
            self.path.rename(moved)
            made.rename(self.path)
            remove_temporary(moved)
        else:
            made.rename(self.path)


def move_into(made: Path, place: Path) -> None:
    """Give a complete temporary file, or one of a temporary folder, its name, in the place of an older file of it."""
    assert is_temporary(made) or is_temporary(made.parent), made
    made.replace(place)


def remove_temporary(path: Path) -> None:
    """Delete a temporary file or folder, if it exists; an AssertionError if its name is not one."""
    assert is_temporary(path), path
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_if_empty(folder: Path) -> None:
    """Delete a folder, if it is empty."""
    if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
        folder.rmdir()


@contextmanager
def removed_on_error(folder: Path, names: Collection[str]) -> Iterator[None]:
    """Make a folder, and take it back if the block raises while it contains nothing but files that the block made.

    A command that is refused then leaves nothing.

    Parameters
    ----------
    folder : Path
    names : collection of str
        Files that the block may make: the lock, the log.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    before = {name for name in names if (folder / name).exists()}
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        made = set(names) - before
        if folder.is_dir() and {each.name for each in folder.iterdir()} <= made:
            for name in made:
                (folder / name).unlink(missing_ok=True)
            for each in missing:
                remove_if_empty(each)
        raise


def printable(text: str | os.PathLike[str]) -> str:
    """A file name as text that can be printed; bytes that are not UTF-8 as escapes."""
    return os.fsencode(text).decode("utf-8", errors="backslashreplace")
