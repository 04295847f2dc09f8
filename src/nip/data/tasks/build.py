"""Write a task's data to disk, drawn or read from files, unless it exists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nip.data.tasks.examples import Examples
from nip.data.tasks.listops.language import Rule
from nip.data.tasks.registry import SPLITS, TASKS, find_task
from nip.data.tasks.source import Progress, Request
from nip.data.tasks.sources import find_source
from nip.data.tasks.storage import stored, write_task
from nip.graphs.pattern import python_number
from nip.locations import data_folder


def build(
    task_name: str,
    folder: Path | None = None,
    *,
    origin: str | None = None,
    source: str | None = None,
    seed: int | None = None,
    split_rule: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> bool:
    """Make a task's data in the data folder.

    Parameters
    ----------
    task_name : str
        One of `nip.data.TASKS`.
    folder : Path, optional
        The data folder; by default `nip.data.data_folder`.
    origin : str, optional
        A file or folder to read, in any format that `nip.data.SOURCES` lists for the task, or the name of a data set on
        the Hugging Face Hub.
    source : str, optional
        Name of the source; by default the one that recognises `origin`. Without both, the data is drawn or read from
        its usual place. A source may make the data of another task, whose name it states.
    seed : int, optional
        For sources that draw; 0 by default.
    split_rule : str, optional
        How to split the examples, for sources that offer several rules.
    parameters : dict, optional
        Parameters of a source that draws.
    overwrite : bool, default=False
        Replace existing data.
    progress : callable, optional
        Called with the number of examples made so far.

    Returns
    -------
    bool
        False if the same data existed.

    Raises
    ------
    ValueError
        If there is no such task, source or rule, no source recognises the origin, a file is malformed, or other data
        exists and `overwrite` is false; the message names the difference.
    OSError
        If a file cannot be read or written. Existing data stays.
    """
    task = find_task(task_name)
    found = find_source(task, origin, source)
    given = {name: python_number(value) for name, value in (parameters or {}).items()}
    unknown = [name for name in given if name not in found.parameters]
    if unknown:
        takes = f"takes {', '.join(found.parameters)}" if found.parameters else "takes none"
        raise ValueError(f"There is no parameter {unknown[0]!r} of the source {found.name}, which {takes}.")
    if split_rule is not None and split_rule not in found.split_rules:
        takes = f"takes {', '.join(found.split_rules)}" if found.split_rules else "leaves no choice"
        raise ValueError(f"There is no split rule {split_rule!r} of the source {found.name}, which {takes}.")
    if seed is not None and not found.seeded:
        raise ValueError(f"The source {found.name} of {task.name} is not random; it takes no seed.")
    made = find_task(found.makes or task.name)
    home = data_folder(folder) / made.name
    if overwrite and origin is not None and Path(origin).expanduser().resolve() == home.resolve():
        raise ValueError(f"--overwrite would delete {origin}, which is the input. Move it elsewhere first.")
    plan = found.plan(
        Request(
            task=made,
            origin=origin,
            seed=python_number(seed or 0),
            split_rule=split_rule,
            parameters=given,
            progress=progress,
        )
    )
    if not overwrite and stored(made.name, folder, plan.description):
        return False
    splits = _counted(plan.splits(), progress)
    write_task(splits, folder, plan.description, task=made, overwrite=overwrite)
    return True


def build_listops(
    folder: Path | None = None,
    rule: Rule | None = None,
    sizes: tuple[int, int, int] = TASKS["listops"].sizes,
    *,
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> bool:
    """Draw a ListOps set into the data folder.

    Parameters
    ----------
    folder : Path, optional
        The data folder; by default `nip.data.data_folder`.
    rule, sizes, seed
        See `generate`.
    overwrite, progress
        See `build`.

    Returns
    -------
    bool
        False if the same data existed.

    Raises
    ------
    ValueError, OSError
        See `build`.
    """
    parameters = {**vars(rule or Rule()), **dict(zip(SPLITS, sizes, strict=True))}
    return build("listops", folder, seed=seed, parameters=parameters, overwrite=overwrite, progress=progress)


def _counted(
    splits: Mapping[str, Examples | Iterable[Examples]], progress: Progress | None
) -> Mapping[str, Examples | Iterable[Examples]]:
    """The same splits; those in chunks report their progress."""
    if progress is None:
        return splits
    done = 0

    def reported(pieces: Iterable[Examples]) -> Iterator[Examples]:
        nonlocal done
        for piece in pieces:
            yield piece
            done += len(piece)
            progress(done)

    return {name: split if isinstance(split, Examples) else reported(split) for name, split in splits.items()}
