"""The ways to make each task's data: drawn, or read from files of some form. Adding one is adding an entry."""

from __future__ import annotations

from pathlib import Path

from nip.data import drawn, pathfinder, tsv
from nip.data.plans import Source
from nip.data.tasks import SPLITS, Task

# In the order in which forms are tried, and a task's first source without files is its default.
SOURCES: tuple[Source, ...] = (
    Source(
        name="drawn",
        tasks=("listops",),
        says="drawn by the official rule, by --seed",
        plan=drawn.plan_listops,
        parameters=("train", "dev", "test", "max_depth", "max_args", "min_length", "max_length"),
        seeded=True,
    ),
    Source(
        name="drawn",
        tasks=tuple(pathfinder.PREFIX + level for level in pathfinder.LEVELS),
        says="drawn by the published rule, by --seed",
        plan=pathfinder.plan,
        parameters=SPLITS,
        seeded=True,
    ),
    Source(
        name="official",
        tasks=("listops",),
        says="a folder with basic_train.tsv, basic_val.tsv and basic_test.tsv",
        plan=tsv.plan,
        recognises=tsv.recognises,
    ),
)


def sources_of(task: Task) -> list[Source]:
    """The ways to make a task's data, in the order in which they are tried."""
    return [source for source in SOURCES if task.name in source.tasks]


def find_source(task: Task, origin: str | None, name: str | None = None) -> Source:
    """The way that is meant by a place to read from, a name, both or neither.

    Raises
    ------
    ValueError
        If there is none; the message lists those there are.
    FileNotFoundError
        If `origin` is not there.
    """
    ways = sources_of(task)
    listed = "; ".join(f"{way.name} ({way.says})" for way in ways)
    if name is not None:
        named = [way for way in ways if way.name == name]
        if not named:
            raise ValueError(f"There is no source {name!r} of {task.name}. Its sources are: {listed}.")
        if origin is None and named[0].recognises is not None:
            raise ValueError(f"The source {name} of {task.name} reads files: say where they are with --from.")
        return named[0]
    if origin is None:
        for way in ways:
            if way.recognises is None:
                return way
        raise ValueError(f"{task.name} is not drawn but read: say with --from from where. Its sources are: {listed}.")
    path = Path(origin).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}. The sources of {task.name} are: {listed}.")
    for way in ways:
        if way.recognises is not None and way.recognises(path, task):
            return way
    raise ValueError(f"{path} has none of the forms that are read for {task.name}. Its sources are: {listed}.")
