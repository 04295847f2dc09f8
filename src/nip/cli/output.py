"""What the commands print: text to standard output or to a file, JSON, warnings as sentences, progress bars."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nip.graphs import GraphFileWarning


def emit(text: str, output: Path | None = None) -> None:
    """Print the text, or write it to a file atomically."""
    from nip.atomic import replacing

    text = text if text.endswith("\n") else f"{text}\n"
    if output is None:
        sys.stdout.write(text)
        return
    with replacing(output) as file:
        file.write(text.encode())
    print(f"wrote {output}", file=sys.stderr)


def print_json(value: Any, **how: Any) -> None:
    """Print one JSON value; `how` are arguments of ``json.dumps``."""
    emit(json.dumps(value, **{"allow_nan": False, "indent": 2, **how}))


@contextmanager
def warnings_to_stderr() -> Iterator[None]:
    """Print warnings as plain sentences on standard error, at once: a run may take hours."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", GraphFileWarning)
        warnings.showwarning = lambda message, *_: print(f"nip: {message}", file=sys.stderr)
        yield


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None] | None]:
    """On a terminal, a function of a step's name, what is done and the total, which draws one bar per step."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def update(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(step, total=total)
            bar.update(tasks[step], completed=done)

        yield update


@contextmanager
def progress_bar(step: str, total: int) -> Iterator[Callable[[int], None] | None]:
    """As `progress_bars`, for one step: a function of what is done."""
    with progress_bars() as update:
        yield None if update is None else lambda done: update(step, done, total)
