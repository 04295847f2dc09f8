"""The report: one HTML file with the runs, their results and scores, and how to reproduce them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from nip.atomic import replacing
from nip.report import sections
from nip.report.html import render, tag
from nip.report.scores import graph_settings
from nip.report.study_section import study_section
from nip.report.style import SCRIPT, STYLE
from nip.runs.record import RunRecord, find_records
from nip.study import outcome
from nip.study.finding import Finding, find
from nip.study.panel import read_plan

# Enforced by the browser: the page loads nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


def write_report(
    paths: Iterable[str | os.PathLike[str]], out: str | os.PathLike[str] = "report.html"
) -> tuple[list[RunRecord], list[Finding]]:
    """Write the report on some runs as one self-contained HTML file, atomically.

    Parameters
    ----------
    paths : iterable of path-like
        Run folders, or folders whose children are run folders; a study's folder gets a section on the study.
    out : path-like, default="report.html"
        The file to write; an older one is replaced.

    Returns
    -------
    runs : list of RunRecord
        The runs, finished or not.
    findings : list of Finding
        One for each task.

    Raises
    ------
    ValueError
        If a path is no run and holds none, or a run's file is malformed.
    OSError
        If a path does not exist or `out` cannot be written.
    """
    folders = [Path(path) for path in paths]
    runs = find_records(folders)
    findings = find(runs)
    plans = {path: read_plan(path) for path in dict.fromkeys(folders)}
    panels = [each for path, planned in plans.items() if planned for each in outcome.panels(path, planned)]
    page = "<!doctype html>\n" + render(report_page(runs, findings, panels)) + "\n"
    # A lone surrogate, which JSON can spell, has no UTF-8 form.
    with replacing(out) as file:
        file.write(page.encode("utf-8", errors="replace"))
    return runs, findings


def report_page(
    runs: Sequence[RunRecord], findings: Sequence[Finding], panels: Sequence[outcome.Panel] = ()
) -> Element:
    """The whole page, as a tree that `nip.report.html.render` writes.

    Parameters
    ----------
    runs : sequence of RunRecord
    findings : sequence of Finding
        One for each task.
    panels : sequence of Panel, default=()
        Of the studies among the folders.
    """
    numbers = {run.folder: number for number, run in enumerate(runs)}
    title = sections.title(findings)
    settings = graph_settings(runs)
    body = tag(
        "main",
        tag("header", tag("p", "nip report", class_="kind"), tag("h1", title)),
        *(sections.headline(finding, numbers) for finding in findings),
        *map(study_section, panels),
        sections.runs_table(runs, findings),
        sections.graph_tables(settings, runs),
        sections.masks(settings),
        *(sections.curves(finding, numbers, alone=len(findings) == 1) for finding in findings),
        sections.reproduction(runs),
        sections.footer(),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("title", title),
        tag("style", STYLE),
    )
    return tag("html", head, tag("body", body, tag("script", SCRIPT)), lang="en")
