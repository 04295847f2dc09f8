"""Make a task's data from the command line, and describe it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def make(task: str, out: Path | None, *, origin: str | None, source: str | None, **asked: Any) -> dict[str, Any]:
    """Make a task's data unless it is there; what `--json` prints of it."""
    from nip import data

    began = time.perf_counter()
    made_task = data.find_task(data.find_source(data.find_task(task), origin, source).makes or task)
    parameters = asked["parameters"]
    expected = [parameters.get(split, size) for split, size in zip(data.SPLITS, made_task.sizes, strict=True)]
    # what is no number is refused by the source, in a sentence
    with progress_bar(made_task.name, sum(size for size in expected if isinstance(size, int))) as progress:
        made = data.build(task, out, origin=origin, source=source, progress=progress, **asked)
    splits = {name: data.open_split(made_task.name, name, out) for name in data.SPLITS}
    return {
        "folder": str(data.data_folder(out) / made_task.name),
        "made": made,
        "seconds": round(time.perf_counter() - began, 3),
        "manifest": data.read_manifest(made_task.name, out),
        "statistics": {name: data.counts(split) for name, split in splits.items()},
        "baselines": data.baselines(splits["train"], splits["test"]),
    }


def write_png(task: str, folder: Path, out: Path | None) -> Path:
    """Write the official files of a Pathfinder set; the folder of its level."""
    from nip import data
    from nip.data.pathfinder.files import write_pictures

    splits = {name: data.open_split(task, name, out) for name in data.SPLITS}
    with progress_bar("PNG", sum(map(len, splits.values()))) as progress:
        return write_pictures(splits, folder, progress=progress)


def print_made(made: dict[str, Any]) -> None:
    """What was made, in lines."""
    from nip.data import find_task

    print_folder(made)
    manifest = made["manifest"]
    print(f"source: {manifest['source']}\nsplit: {manifest['split_rule']}\nlicence: {manifest['licence']}")
    if empty := manifest.get("empty_pictures"):
        print(f"left out, for they are empty: {', '.join(empty)}")
    for name, count in made["statistics"].items():
        length = count["length"]
        labels = ", ".join(f"{number:,} of label {label}" for label, number in count["labels"].items())
        print(
            f"{name}: {count['examples']:,} examples of {length['min']:,.0f} … {length['max']:,.0f} tokens "
            f"(mean {length['mean']:,.1f}); {labels}"
        )
    if "png" in made:
        print(f"{made['png']}: written")
    official = find_task(manifest["task"]).sizes
    found = tuple(count["examples"] for count in made["statistics"].values())
    if manifest["source"] != "drawn by nip" and found != official:
        print(f"The official setting has {' + '.join(f'{size:,}' for size in official)} examples.")
    baselines = made["baselines"]
    root = f"; knowing only the first token: {baselines['root_operator']:.1%}" if "root_operator" in baselines else ""
    print(f"Always the commonest label of train: {baselines['commonest_label']:.1%} of test{root}.")


def print_folder(made: dict[str, Any]) -> None:
    """Where the data is, and whether it was made now."""
    print(f"{made['folder']}: {'made' if made['made'] else 'is there already, checked'} in {made['seconds']:.1f} s")


@contextmanager
def progress_bar(name: str, total: int) -> Iterator[Callable[[int], None] | None]:
    """A progress bar on a terminal; the function that tells it how many examples there are so far."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=total)
        yield lambda found: bar.update(task, completed=found)
