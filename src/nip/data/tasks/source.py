"""The interface of a data source: what it is asked for (`Request`) and how it will make the data (`Plan`).

`nip.data.tasks.sources` lists the sources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nip.data.tasks.examples import Examples
from nip.data.tasks.registry import SPLITS, Task

Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """The data that a source is asked for.

    Parameters
    ----------
    task : Task
    origin : str, optional
        The file or folder to read, or the name of a data set on the Hugging Face Hub.
    seed : int, default=0
        For sources that draw.
    split_rule : str, optional
        One of the source's rules; its first by default.
    parameters : mapping, default={}
        Given parameters of a source that draws, each one of the source's.
    progress : callable, optional
        Called with the number of examples made so far, in all splits. Only for sources that make them before any chunk
        is taken; chunks are counted as they are taken.
    """

    task: Task
    origin: str | None = None
    seed: int = 0
    split_rule: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    progress: Progress | None = None

    @property
    def sizes(self) -> dict[str, Any]:
        """Number of examples per split: the given parameter, else the task's official size."""
        return {split: self.parameters.get(split, size) for split, size in zip(SPLITS, self.task.sizes, strict=True)}

    @property
    def path(self) -> Path:
        """The origin as a path."""
        assert self.origin is not None
        return Path(self.origin).expanduser()


@dataclass(frozen=True)
class Plan:
    """How the data will be made. Nothing large is read or drawn before `splits` is called.

    Parameters
    ----------
    description : mapping
        Entries of the manifest: ``source``, ``parameters`` (with checksums of the input files; these two tell whether
        the same data exists), ``split_rule``, ``licence``, and others.
    splits : callable
        Returns the train, dev and test splits, each as `Examples` or as an iterable of chunks that are made as they are
        taken, in this order.
    """

    description: Mapping[str, Any]
    splits: Callable[[], Mapping[str, Examples | Iterable[Examples]]]


@dataclass(frozen=True, kw_only=True)
class Source:
    """One way to make the data of some tasks.

    Parameters
    ----------
    name : str
        Value of ``--source``.
    tasks : tuple of str
        The tasks that it makes.
    says : str
        What it reads or does, in a few words.
    plan : callable
        From a request to a plan. Raises ValueError or OSError for bad input.
    recognises : callable, optional
        Whether a file or folder has this format for a task. A source without it reads no files: it draws.
    split_rules : tuple of str, default=()
        Ways to split, the default first.
    parameters : tuple of str, default=()
        Names of its parameters.
    seeded : bool, default=False
        Whether it draws, so that it takes a seed.
    usual : bool, default=False
        Whether its files have a usual place, so that `origin` is optional.
    makes : str, optional
        The task whose data it makes, if that is not the one asked for: a stand-in keeps its own name, and replaces
        another task only on request.
    """

    name: str
    tasks: tuple[str, ...]
    says: str
    plan: Callable[[Request], Plan]
    recognises: Callable[[Path, Task], bool] | None = None
    split_rules: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    seeded: bool = False
    usual: bool = False
    makes: str | None = None


def release_folder(place: Path, name: str, holds: Callable[[Path], bool]) -> Path | None:
    """A task's folder in Long Range Arena's release, which unpacks to ``lra_release/lra_release/<name>``.

    Parameters
    ----------
    place : Path
        The folder itself, or one that it is in, up to that of the unpacked archive.
    name : str
        Of the folder.
    holds : callable
        Whether a folder has the task's files.

    Returns
    -------
    Path or None
    """
    above = (place, place / "lra_release", place / "lra_release" / "lra_release")
    for folder in (place, *(each / name for each in above)):
        if folder.is_dir() and holds(folder):
            return folder
    return None
