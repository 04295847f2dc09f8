"""`nip report`: one HTML file about some runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add `nip report`."""
    app.command()(report)


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS…", help="Run folders, or folders that hold run folders.")],
    output: Annotated[
        Path, typer.Option("--output", "--out", help="The file to write; an older one is replaced.")
    ] = Path("report.html"),
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as one JSON object.")] = False,
) -> None:
    """Write a report on some runs: one HTML file that needs no network.

    Example: nip report runs/demo --output report.html
    """
    from nip.report.page import write_report

    found, findings = write_report(runs, output)
    if as_json:
        print(
            json.dumps(
                {
                    "out": str(output),
                    "runs": [{"folder": str(run.folder), "finished": run.result is not None} for run in found],
                    "findings": [
                        {"task": one.task, "sentence": one.sentence, "notes": list(one.notes)} for one in findings
                    ],
                },
                indent=2,
            )
        )
        return
    for one in findings:
        print(one.sentence)
    print(f"Wrote {output} ({len(found)} run{'s' if len(found) != 1 else ''}).")
