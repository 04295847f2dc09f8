"""Comparison of patterns: rows, sorted best first, as console table, JSON, CSV, Markdown or HTML."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nip.graphs.pattern import Pattern, check_int
from nip.runs.workers import end_with
from nip.scoring.reach import Reach, reach
from nip.scoring.score import Score, score

if TYPE_CHECKING:
    from rich.table import Table

DEFAULT_SORT = "bottleneck_nip_relative"


@dataclass(frozen=True)
class Row:
    """A pattern's score at the requested block size, and at its own vertices.

    Parameters
    ----------
    score : Score
        At token level.
    vertex : Score
        The paper's definition: block size 1.
    at_depth : Reach or None
        Reach at token level within the requested depth.
    """

    score: Score
    vertex: Score
    at_depth: Reach | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields of `Score`, ``vertex_nip_relative``, and those of `Reach` if a depth was given; valid JSON."""
        values = {**self.score.to_dict(), "vertex_nip_relative": self.vertex.nip_relative}
        return values if self.at_depth is None else {**values, **self.at_depth.to_dict()}


def _descending(value: float | None) -> float:
    return math.inf if value is None else -value


def _ascending(value: float | None) -> float:
    return math.inf if value is None else value


# Relative scores are sorted by their logarithm, which does not underflow.
SORTS: dict[str, Callable[[Row], float]] = {
    "bottleneck_nip_relative": lambda row: _descending(row.score.log10_bottleneck_nip_relative),
    "nip_relative": lambda row: _descending(row.score.log10_nip_relative),
    "vertex_nip_relative": lambda row: _descending(row.vertex.log10_nip_relative),
    "diameter": lambda row: _ascending(row.score.diameter),
    "cost": lambda row: _ascending(row.score.cost),
    "density": lambda row: _ascending(row.score.density),
    "mean_degree": lambda row: _ascending(row.score.mean_degree),
    "reach": lambda row: _descending(row.at_depth.reach if row.at_depth else None),
    "even_reach": lambda row: _descending(row.at_depth.even_reach if row.at_depth else None),
}
AT_DEPTH = ("reach", "even_reach")


def compare(
    patterns: Iterable[Pattern],
    block_size: int = 1,
    *,
    sort: str | None = None,
    depth: int | None = None,
    jobs: int = 1,
) -> list[Row]:
    """Score many patterns and sort them, best first.

    Parameters
    ----------
    patterns : iterable of Pattern
        Usually on the same number of vertices; each is relative to the complete graph of its own size.
    block_size : int, default=1
        Tokens per vertex.
    sort : str, optional
        A key of `SORTS`: larger scores and reach first, smaller diameter, cost, density and degree first. Default:
        ``even_reach`` if a depth is given, else ``bottleneck_nip_relative``, since plain NIP favours stars.
    depth : int, optional
        Number of attention layers: rows also contain the reach within this number of steps (`nip.scoring.reach`).
    jobs : int, default=1
        Patterns scored in parallel. Values other than 1 need joblib (``pip install 'nip[cluster]'``) and respect
        ``joblib.parallel_config``, so the same call runs on a dask cluster.

    Returns
    -------
    list of Row

    Raises
    ------
    ValueError
        If `sort` is unknown or needs a depth, or the depth is not an integer of at least 1.
    """
    if depth is not None:
        depth = check_int("depth", depth, "compare", minimum=1)
    if sort is None:
        sort = default_sort(depth)
    if sort not in SORTS:
        raise ValueError(f"There is no sort {sort!r}. Sort by one of {', '.join(SORTS)}.")
    if sort in AT_DEPTH and depth is None:
        raise ValueError(f"Sorting by {sort} needs a depth: the number of attention layers.")
    patterns = list(patterns)
    if jobs == 1:
        rows = [_row(pattern, block_size, depth) for pattern in patterns]
    else:
        try:
            import joblib
        except ImportError as error:
            raise ImportError("Scoring in parallel needs joblib: pip install 'nip[cluster]', or use 1 job.") from error
        parallel = joblib.Parallel(n_jobs=jobs, initializer=end_with, initargs=(os.getpid(),))
        rows = parallel(joblib.delayed(_row)(pattern, block_size, depth) for pattern in patterns)
    return sorted(rows, key=SORTS[sort])


def default_sort(depth: int | None) -> str:
    """The default sort key of `compare`."""
    return DEFAULT_SORT if depth is None else "even_reach"


def _row(pattern: Pattern, block_size: int, depth: int | None) -> Row:
    vertex = score(pattern)
    at_depth = None if depth is None else reach(pattern, depth, block_size)
    return Row(vertex if block_size == 1 else score(pattern, block_size), vertex, at_depth)


def cells(row: Row) -> dict[str, str]:
    """The displayed text of a row by column heading; NIP, except log10 NIP, is relative to the complete graph."""
    s, at_depth = row.score, row.at_depth
    first = {
        "bottleneck NIP": relative_text(s.log10_bottleneck_nip_relative),
        "NIP": relative_text(s.log10_nip_relative),
    }
    if at_depth is None:
        first["vertex NIP"] = relative_text(row.vertex.log10_nip_relative)
        first["log10 NIP"] = "–" if s.log10_nip is None or math.isinf(s.log10_nip) else f"{s.log10_nip:.2f}"
    else:  # they replace other columns, so that the table keeps its width
        reached = "–" if at_depth.reach is None else f"{at_depth.reach:.3f}"
        first = {"even reach": f"{at_depth.even_reach:.3f}", "reach": reached, **first}
    return {
        "pattern": s.pattern,
        **first,
        "diameter": "∞" if math.isinf(s.diameter) else f"{s.diameter:.0f}",
        **({"degree": f"{s.mean_degree:.4g}"} if at_depth is None else {}),
        "density": f"{100 * s.density:.3g}%",
    }


def relative_text(log10_relative: float | None) -> str:
    """Format a relative score from its log10, with up to four digits, without underflow: ``4.845``, ``3.4e-59``."""
    if log10_relative is None:
        return "–"
    if math.isinf(log10_relative):
        return "0"
    if -3 <= log10_relative < 6:
        return f"{10**log10_relative:.4g}"
    exponent = math.floor(log10_relative)
    return f"{10 ** (log10_relative - exponent):.1f}e{exponent}"


def to_json(rows: Sequence[Row]) -> str:
    """A JSON list of the fields of the rows; infinite and undefined values are null."""
    return json.dumps([row.to_dict() for row in rows], indent=2, allow_nan=False)


def to_csv(rows: Sequence[Row]) -> str:
    """CSV with a header and a column for each field; compound values as JSON, null as an empty cell."""
    buffer = io.StringIO()
    records = [row.to_dict() for row in rows]
    writer = csv.DictWriter(buffer, fieldnames=list(records[0]) if records else ["pattern"], lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({k: json.dumps(v) if isinstance(v, dict | list | tuple) else v for k, v in record.items()})
    return buffer.getvalue()


def to_markdown(rows: Sequence[Row]) -> str:
    """A Markdown table."""
    return markdown_table([cells(row) for row in rows])


def markdown_table(table: Sequence[Mapping[str, str]]) -> str:
    """A Markdown table of rows, heading → text."""
    if not table:
        return ""
    lines = ["| " + " | ".join(table[0]) + " |", "| --- |" + " ---: |" * (len(table[0]) - 1)]
    lines += ["| " + " | ".join(record.values()) + " |" for record in table]
    return "\n".join(lines) + "\n"


def to_html(rows: Sequence[Row], title: str) -> str:
    """A self-contained HTML page with the table."""
    return html_page([cells(row) for row in rows], title)


def html_page(table: Sequence[Mapping[str, str]], title: str, picture: str = "") -> str:
    """A self-contained HTML page with a table.

    Parameters
    ----------
    table : sequence of mapping
        Rows, heading → text.
    title : str
    picture : str, optional
        An HTML element that follows the table.
    """
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in (table[0] if table else {}))
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in record.values()) + "</tr>" for record in table
    )
    style = (
        ":root{color-scheme:light dark}body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;"
        "padding:0 1rem}div{overflow-x:auto}table{border-collapse:collapse;width:100%}"
        "th,td{padding:.4rem .7rem;text-align:right;border-bottom:1px solid #8884;white-space:nowrap}"
        "th:first-child,td:first-child{text-align:left}"
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head><body><h1>{html.escape(title)}</h1>"
        f"<div><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{picture}</body></html>\n"
    )


def to_console(rows: Sequence[Row], title: str) -> Table:
    """A rich table for the terminal."""
    return console_table([cells(row) for row in rows], title)


def console_table(records: Sequence[Mapping[str, str]], title: str) -> Table:
    """A rich table for the terminal, of rows, heading → text."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, heading in enumerate(records[0] if records else ["pattern"]):
        table.add_column(
            heading.replace(" ", "\n").replace("diameter", "dia-\nmeter"),
            justify="right" if i else "left",
            no_wrap=True,
        )
    for record in records:
        table.add_row(*map(escape, record.values()))
    return table
