"""What every `nip bench` command does with its rows: a Markdown file, JSON, or a table on the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from nip.atomic import replacing
from nip.cli.options import emit

# columns of words stand on the left
WORDS = {"pattern", "dtype", "pass", "backend", "way", "attention", "output", "step"}


class Row(Protocol):
    """A measurement."""

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""


R = TypeVar("R", bound=Row)


def collect(measured: Iterable[R], markdown: Callable[[Sequence[R]], str], out: Path | None) -> list[R]:
    """All rows. Measuring takes long: while they come the file holds those that there are, whatever happens then."""
    from rich.console import Console

    rows: list[R] = []
    with Console(stderr=True).status("measuring"):
        for row in measured:
            rows.append(row)
            if out is not None:
                with replacing(out) as file:
                    file.write(markdown(rows).encode())
    return rows


def show_rows(
    rows: Sequence[R],
    header: Sequence[str],
    cells: Callable[[R], list[str]],
    heading: str,
    markdown: Callable[[], str],
    *,
    out: Path | None,
    as_json: bool,
    width: int | None = None,
) -> None:
    """Write the rows to a file, and print them as JSON, or as a table where there is no file.

    Parameters
    ----------
    rows : sequence of Row
    header : sequence of str
    cells : callable
        A row's texts, one for each heading.
    heading : str
        Over the table.
    markdown : callable
        The page for `out`.
    out : Path, optional
    as_json : bool
    width : int, optional
        Of the terminal, where it is not to be found out.
    """
    if out is not None:
        emit(markdown(), out)
    if as_json:
        emit(json.dumps([row.to_dict() for row in rows], allow_nan=False, indent=2), None)
    elif out is None:
        from rich.console import Console
        from rich.table import Table

        table = Table(title=heading, title_justify="left")
        for name in header:
            table.add_column(name, justify="left" if name in WORDS else "right")
        for row in rows:
            table.add_row(*cells(row))
        Console(width=width).print(table)


def wide() -> int | None:
    """The width for many columns: a terminal's own, and enough where the output goes elsewhere."""
    return None if sys.stdout.isatty() else 160
