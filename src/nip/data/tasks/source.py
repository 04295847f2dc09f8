"""What a way to make a task's data is told and what it answers. `nip.data.tasks.sources` lists the ways.

Where the parts of Long Range Arena's official release lie, however deep in it somebody points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nip.data.tasks.examples import Examples
from nip.data.tasks.registry import Task

Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for.

    Parameters
    ----------
    task : Task
    origin : str, optional
        The file or folder to read, or the name of a set on the Hugging Face Hub.
    seed : int, default=0
        For what is drawn.
    split_rule : str, optional
        One of the source's rules; its first by default.
    parameters : mapping, default={}
        Of what is drawn: those that were given, each one of the source's.
    progress : callable, optional
        Called with the number of examples made so far, in all splits; for sources that make them before any chunk is
        taken. Chunks are counted as they are taken.
    """

    task: Task
    origin: str | None = None
    seed: int = 0
    split_rule: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    progress: Progress | None = None

    @property
    def path(self) -> Path:
        """The origin as a path."""
        assert self.origin is not None
        return Path(self.origin).expanduser()


@dataclass(frozen=True)
class Plan:
    """How the data will be made: nothing large is read or drawn before `splits` is called.

    Parameters
    ----------
    description : mapping
        ``source``, ``parameters`` (with the checksums of what is read: whether the same data is there already is told
        from these two), ``split_rule``, ``licence``, and what else the manifest should say.
    splits : callable
        The train, dev and test splits, each whole or as an iterable of chunks that are made as they are taken, in this
        order.
    """

    description: Mapping[str, Any]
    splits: Callable[[], Mapping[str, Examples | Iterable[Examples]]]


@dataclass(frozen=True, kw_only=True)
class Source:
    """One way to make the data of some tasks.

    Parameters
    ----------
    name : str
        As given by ``--source``.
    tasks : tuple of str
        The tasks that it makes.
    says : str
        What it takes or does, in a few words.
    plan : callable
        From what is asked for to how it will be made. Raises ValueError or OSError for bad input.
    recognises : callable, optional
        Whether the file or folder has this form for that task. Without it the source reads no files: it draws, or knows
        where to look.
    split_rules : tuple of str, default=()
        Ways to split that can be chosen, the default first.
    parameters : tuple of str, default=()
        Names of parameters that can be given.
    seeded : bool, default=False
        Whether it draws, so that a seed can be given.
    usual : bool, default=False
        Whether it knows where its files usually lie, so that no place need be named.
    makes : str, optional
        The task whose data it makes, where that is another than the one asked for: a stand-in keeps its own name, and
        is taken for another task only where it is asked for by name.
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


def find(place: Path, name: str, holds: Callable[[Path], bool]) -> Path | None:
    """The folder that holds a task's files: `place`, its `name`, or that in the unpacked archive; None without one.

    The archive unpacks to ``lra_release/lra_release/<name>``.
    """
    above = (place, place / "lra_release", place / "lra_release" / "lra_release")
    for folder in (place, *(each / name for each in above)):
        if folder.is_dir() and holds(folder):
            return folder
    return None
