"""A study's results on the console, and as ``results.json``, ``results.md`` and charts in its folder."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nip.atomic import replacing
from nip.formatting import DASH
from nip.report.scatter import draw_panel
from nip.runs.folder import read_json, write_json
from nip.scoring.table import relative_text
from nip.study.outcome import PREDICTORS, Cell, Found, Panel


def write_results(study: Path, panels: Sequence[Panel], outcome: Mapping[str, Any]) -> None:
    """Write the results into the study's folder: JSON, Markdown, and a chart for each predictor.

    Parameters
    ----------
    study : Path
        The study's folder.
    panels : sequence of Panel
        As `nip.study.outcome.panels` returns them; with several the names of the charts begin with the task.
    outcome : mapping
        The contents of ``results.json``.
    """
    write_json(study / "results.json", outcome)
    pages = []
    for number, panel in enumerate(panels):
        last = number == len(panels) - 1
        prefix = "" if len(panels) == 1 else "average-" if last else f"{panel.task}-"
        pictures = {prefix + name: svg for name, svg in draw_panel(panel).items()}
        for name, svg in pictures.items():
            with replacing(study / f"{name}.svg") as file:
                file.write(svg.encode())
        failed = outcome.get("failed", []) if last else []
        pages.append(to_markdown(panel, {"failed": failed}, list(pictures)))
    with replacing(study / "results.md") as file:
        file.write("\n".join(pages).encode())


def accuracy_rows(panel: Panel) -> list[dict[str, str]]:
    """A row for each pattern: heading → text."""
    return [_row(cell) for cell in panel.cells]


def _row(cell: Cell) -> dict[str, str]:
    found, graph = cell.accuracy, cell.graph
    interval = found.interval if found else None
    diameter = graph.vertices.diameter
    return {
        "pattern": cell.label + (" (cut)" if graph.cut else ""),
        "layers": str(cell.layers),
        "depth": str(cell.depth),
        "seeds": str(found.n if found else 0),
        "accuracy": f"{100 * found.mean:.1f}" if found else DASH,
        "sd": f"{100 * found.sd:.1f}" if found and found.sd is not None else DASH,
        "95 % interval": f"{100 * interval[0]:.1f} – {100 * interval[1]:.1f}" if interval else DASH,
        "vertices": str(graph.vertices.n_vertices),
        "degree": f"{graph.vertices.mean_degree:.3g}",
        "diameter": "∞" if math.isinf(diameter) else f"{diameter:.0f}",
        "NIP": relative_text(graph.vertices.log10_nip_relative),
        "token NIP": relative_text(graph.tokens.log10_nip_relative),
        "reach": f"{graph.at_depth.reach:.3f}" if graph.at_depth.reach is not None else DASH,
        "even reach": f"{graph.at_depth.even_reach:.3f}",
    }


def correlation_rows(found: Sequence[Found]) -> list[dict[str, str]]:
    """The correlations: heading → text, Pearson's and Spearman's side by side."""
    rows: dict[tuple[int, str], dict[str, str]] = {}
    for one in found:
        row = rows.setdefault(
            (one.depth, one.predictor), {"depth": str(one.depth), "accuracy against": PREDICTORS[one.predictor]}
        )
        c, name = one.correlation, one.correlation.kind.capitalize()
        mark = "" if c.kind == "pearson" else "\N{ZERO WIDTH SPACE}"  # tells apart two columns of one heading
        row[name] = DASH if c.r is None else f"{c.r:+.2f}"
        row["interval" + mark] = f"{c.interval[0]:+.2f} … {c.interval[1]:+.2f}" if c.interval else DASH
        row["p" + mark] = DASH if c.p is None else f"{c.p:.3f}"
        row["n" + mark] = f"{c.n}" + (f" ({c.left_out} at 0 left out)" if c.left_out else "")
        row["density out" + mark] = DASH if c.without_density is None else f"{c.without_density:+.2f}"
    return list(rows.values())


def to_markdown(panel: Panel, outcome: Mapping[str, Any], pictures: Sequence[str]) -> str:
    """The results as a Markdown page.

    Parameters
    ----------
    panel : Panel
    outcome : mapping
        The contents of ``results.json``; its failed runs are listed.
    pictures : sequence of str
        Names of the figures, without ``.svg``.
    """
    lines = [f"# Study of {panel.task}", "", *_table(accuracy_rows(panel)), ""]
    bars = sorted({round(cell.baseline, 4) for cell in panel.cells if cell.baseline is not None})
    if bars:
        shown = " or ".join(f"{100 * bar:.1f} %" for bar in bars)
        lines += [f"The best trivial baseline gives {shown}.", ""]
    lines += [
        "Accuracies in percent: mean, standard deviation and Student's interval over the seeds. NIP is relative to"
    ]
    lines += ["the complete graph of the same size. Depth is the number of attention layers applied.", ""]
    lines += [f"- {note}" for note in panel.notes]
    for one in outcome.get("failed", []):
        lines.append(f"- {one['run']} failed: {one['error']}")
    lines += ["", "## Correlations with accuracy", "", *_table(correlation_rows(panel.found)), ""]
    lines += [
        "Each point is a pattern with its mean accuracy over the seeds. Intervals are from 10,000 bootstrap samples of"
    ]
    lines += ["the patterns; p is from a two-sided permutation test, not corrected for multiple tests.", ""]
    for name in pictures:
        lines += [f"![{name}]({name}.svg)", ""]
    return "\n".join(lines)


def _table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    if not rows:
        return ["Nothing yet."]
    head = list(rows[0])
    body = ["| " + " | ".join(row[name].replace("|", "\\|") for name in head) + " |" for row in rows]
    return ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *body]


def to_console(panel: Panel) -> None:
    """Print the results on standard output."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 180)
    for title, rows in (
        (f"Study of {panel.task}: test accuracy in percent", accuracy_rows(panel)),
        ("Correlations with accuracy, one point per pattern", correlation_rows(panel.found)),
    ):
        table = Table(title=title, title_justify="left", header_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for heading in rows[0] if rows else ["nothing yet"]:
            table.add_column(heading, justify="left" if heading in ("pattern", "accuracy against") else "right")
        for row in rows:
            table.add_row(*map(escape, row.values()))
        console.print(table)
    for note in panel.notes:
        console.print(escape(note), highlight=False)


def failures(study: Path) -> list[dict[str, str]]:
    """The failed runs in a study's ``results.json``."""
    before = read_outcome(study) or {}
    return list(before.get("failed", ()))


def read_outcome(study: Path) -> dict[str, Any] | None:
    """The contents of a study's ``results.json``; None if there is none."""
    path = study / "results.json"
    if not path.is_file():
        return None
    return read_json(path)
