"""`nip report`: one HTML page about some runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nip.cli.options import Json, option
from nip.cli.output import print_json


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("report", rich_help_panel="Tools")(report_command)


def report_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS…", help="Run folders, or folders with run folders.")],
    output: Annotated[Path, option("HTML file to write; an existing file is replaced.", "--output", "--out")] = Path(
        "report.html"
    ),
    as_json: Json = False,
) -> None:
    """Write a self-contained HTML report on some runs.

    Example: nip report runs/demo --output report.html
    """
    from nip.report.page import write_report

    found, findings = write_report(runs, output)
    if as_json:
        rows = [{"folder": str(run.folder), "finished": run.result is not None} for run in found]
        said = [{"task": one.task, "sentence": one.sentence, "notes": list(one.notes)} for one in findings]
        print_json({"out": str(output), "runs": rows, "findings": said})
        return
    for one in findings:
        print(one.sentence)
    print(f"Wrote {output} ({len(found)} run{'s' if len(found) != 1 else ''}).")
