"""The report's sections, in the order of the page."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

import nip
from nip.formatting import DASH, format_duration, format_percent
from nip.report.charts import Estimate, Reference, Series, colour_class, interval_chart, line_chart
from nip.report.command import reproduction_command
from nip.report.html import tag
from nip.report.masks import mask_picture
from nip.report.scores import Setting, run_graph
from nip.runs.folder import read_run_file
from nip.runs.record import RunRecord
from nip.scoring.table import cells
from nip.study.finding import Finding, Group, listed

NIP_EXPLAINED = (
    "NIP (Normalized Information Payload) is the share of a token's information that reaches the farthest token along "
    "shortest paths, divided by the graph's cost (mean degree × diameter), relative to the complete graph of the same "
    "size. Bottleneck NIP lets all farthest pairs communicate at once and divides by the excess load of each relay, so "
    "that a graph whose traffic all passes through one hub does not score high for it."
)
MOST_ESTIMATES = 20  # runs in the first chart; with more, it shows means over the seeds

Numbers = Mapping[Path, int]


def title(findings: Sequence[Finding]) -> str:
    """The page's title: the patterns and the tasks."""
    parts = []
    for finding in findings:
        models = list(dict.fromkeys(run.pattern for group in finding.groups for run in group.runs))
        shown = listed(models) if len(models) <= 4 else f"{len(models)} patterns"
        parts.append(f"{shown} on {finding.task}")
    return "; ".join(parts)


def headline(finding: Finding, numbers: Numbers) -> Element:
    """The finding in one sentence, its qualifications, and a chart of the accuracies."""
    runs = [run for group in finding.groups for run in group.runs if run.result]
    words = tag(
        "div",
        tag("p", _unbroken(finding.sentence), class_="lead"),
        tag("ul", *(tag("li", _unbroken(note)) for note in finding.notes)) if finding.notes else None,
    )
    if not runs:
        return tag("section", words, class_="finding")
    labels = run_labels(finding)
    several = [group for group in finding.groups if group.results]
    if len(runs) > MOST_ESTIMATES and len(several) < len(runs):
        estimates = [_mean_estimate(group, numbers) for group in several]
        title = "Test accuracy: mean and range of the seeds"
    else:
        title = "Test accuracy with its 95 % interval"
        estimates = [
            Estimate(numbers[run.folder], labels[run.folder], run.result.test_accuracy, run.result.interval)
            for run in runs
            if run.result
        ]
    estimates.sort(key=lambda one: -one.value)
    return tag("section", words, interval_chart(estimates, title=title, references=baselines(runs)), class_="finding")


def _mean_estimate(group: Group, numbers: Numbers) -> Estimate:
    values = [result.test_accuracy for result in group.results]
    return Estimate(numbers[group.runs[0].folder], group.label, group.accuracy, (min(values), max(values)))


def runs_table(runs: Sequence[RunRecord], findings: Sequence[Finding]) -> Element:
    """A table of all runs with their results, unfinished ones included."""
    labels = {folder: label for finding in findings for folder, label in run_labels(finding).items()}
    kinds = list(dict.fromkeys(kind for run in runs if run.result for kind in run.result.baselines))
    head = ["run", "test accuracy", *(kind.replace("_", " ") for kind in kinds), "learned", "dev accuracy", "steps"]
    head += ["tokens/s", "trained for"]
    rows = []
    for number, run in enumerate(runs):
        result = run.result
        protocol = [run.settings["protocol"]] if "protocol" in run.settings else []
        name = tag(
            "th",
            tag("span", class_=f"swatch {colour_class(number)}"),
            labels[run.folder],
            tag("small", ", ".join([run.task_label, f"seed {run.seed}", *protocol])),
            scope="row",
        )
        data = []
        if result:
            interval = result.interval
            ends = f"{interval[0] * 100:.1f}–{interval[1] * 100:.1f}" if interval else "no interval"
            tested = f" of {result.n_test:,}" if result.n_test else ""
            data.append(tag("td", tag("b", format_percent(result.test_accuracy)), tag("small", ends + tested)))
            data += [tag("td", format_percent(result.baselines[k]) if k in result.baselines else DASH) for k in kinds]
            data.append(tag("td", _learned(result.learned), class_="text"))
            dev = None if result.dev_accuracy is None else format_percent(result.dev_accuracy)
            best = None if result.best_step is None else tag("small", f"at step {result.best_step:,}")
            data.append(tag("td", dev or DASH, best))
            data.append(tag("td", DASH if result.steps is None else f"{result.steps:,}"))
            data.append(tag("td", f"{result.tokens_per_second:,.0f}" if result.tokens_per_second else DASH))
            data.append(tag("td", format_duration(result.seconds)))
        else:
            data.append(tag("td", tag("span", "unfinished", class_="badge open")))
            data += [tag("td", DASH) for _ in kinds] + [tag("td", DASH, class_="text")]
            data.append(tag("td", *_latest_dev(run)))
            planned = None if run.planned_steps is None else tag("small", f"of {run.planned_steps:,}")
            data.append(tag("td", f"{run.last_step:,}", planned))
            data += [tag("td", DASH), tag("td", format_duration(run.last_seconds or None))]
        rows.append(tag("tr", name, *data))
    return tag(
        "section",
        tag("h2", "Runs"),
        tag(
            "p",
            "Baselines are trivial answers that need no training; on ListOps the best uses the root operator alone. "
            "Learned means that the lower bound of the 95 % interval exceeds the best baseline.",
            class_="quiet",
        ),
        table(
            [tag("th", h, scope="col", class_="text" if h == "learned" else None) for h in head],
            rows,
        ),
    )


def graph_tables(settings: Sequence[Setting], runs: Sequence[RunRecord]) -> Element:
    """Tables of the graphs' scores, one for each size."""
    section = tag("section", tag("h2", "Graphs, scored before training"), tag("p", NIP_EXPLAINED, class_="quiet"))
    for setting in settings:
        used = {graph.name: set(who) for graph, who in zip(setting.graphs, setting.used, strict=True)}
        records = [cells(row) for row in setting.rows()]
        body = []
        for record in records:
            name, *figures = record.values()
            marks = [
                tag("span", class_=f"swatch {colour_class(run)}", title=runs[run].name) for run in sorted(used[name])
            ]
            body.append(tag("tr", tag("th", *marks, name, scope="row"), *(tag("td", figure) for figure in figures)))
        n = setting.graphs[0].n
        caption = (
            f"{n * setting.block_size:,} tokens in {n:,} blocks of {setting.block_size}, best bottleneck NIP first; "
            "a dot marks a run's graph"
        )
        section.append(tag("p", caption, class_="caption"))
        section.append(table([tag("th", heading, scope="col") for heading in records[0]], body))
    return section


def masks(settings: Sequence[Setting]) -> Element:
    """The attention masks of the patterns, side by side."""
    section = tag(
        "section",
        tag("h2", "Attention masks"),
        tag(
            "p",
            "Rows are blocks of queries, columns are blocks of keys; the first block is at the top left.",
            class_="quiet",
        ),
    )
    for setting in settings:
        if len(settings) > 1:
            section.append(tag("h3", f"{setting.seq_len:,} tokens in blocks of {setting.block_size}"))
        section.append(tag("div", *map(mask_picture, setting.graphs), class_="masks"))
    return section


def curves(finding: Finding, numbers: Numbers, *, alone: bool) -> Element:
    """Loss and accuracy against steps and time, one colour per run.

    Parameters
    ----------
    finding : Finding
        Its groups' runs are drawn.
    numbers : mapping of Path to int
        The number of each run's colour.
    alone : bool
        Whether the page has one task only, so that the heading need not name it.
    """
    runs = sorted((run for group in finding.groups for run in group.runs), key=lambda run: numbers[run.folder])
    labels = run_labels(finding)
    longest = max((run.last_seconds for run in runs), default=0.0)
    unit, in_unit = next((u for u in (("hours", 3600), ("minutes", 60)) if longest >= 2 * u[1]), ("seconds", 1))

    def series(by_time: bool, accuracy: bool) -> list[Series]:
        drawn = []
        for split in ("train", "dev"):
            for run in runs:
                curve = run.curves.get(split)
                if curve is None:
                    continue
                y = curve.accuracy if accuracy else curve.loss
                x: Sequence[float] = [s / in_unit for s in curve.seconds] if by_time else curve.steps
                points = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a)]
                if points:
                    number = numbers[run.folder]
                    drawn.append(Series(number, labels[run.folder], split, *zip(*points, strict=True)))
        return drawn

    time_label = f"trained {unit}"
    lines = baselines([run for run in runs if run.result])
    charts = [
        line_chart(series(False, True), title="Accuracy by step", x_label="step", percent=True, references=lines),
        line_chart(series(True, True), title="Accuracy by time", x_label=time_label, percent=True, references=lines),
        line_chart(series(False, False), title="Loss by step", x_label="step"),
        line_chart(series(True, False), title="Loss by time", x_label=time_label),
    ]
    boxes = [
        tag(
            "label",
            tag("input", type="checkbox", checked="", value=f"run-{numbers[run.folder]}"),
            tag("span", class_="swatch"),
            labels[run.folder],
            class_=colour_class(numbers[run.folder]),
        )
        for run in runs
    ]
    boxes.append(tag("label", tag("input", type="checkbox", checked="", value="train"), "training batches (thin)"))
    return tag(
        "section",
        tag("h2", "Learning curves" if alone else f"Learning curves on {finding.task}"),
        tag(
            "p",
            "Thick lines show the development set, with a dot for each evaluation; thin lines show training batches, "
            "averaged where there are many. Time excludes the time between a stop and a restart.",
            class_="quiet",
        ),
        tag("div", *boxes, class_="legend"),
        tag("div", *charts, class_="charts"),
    )


def reproduction(runs: Sequence[RunRecord]) -> Element:
    """For every run: the command that reproduces it, its configuration, its machine and its graph's checksum."""
    section = tag("section", tag("h2", "Reproduction"))
    for number, run in enumerate(runs):
        swatch = tag("span", class_=f"swatch {colour_class(number)}")
        section.append(tag("h3", swatch, run.name))
        section.append(tag("pre", *_options(reproduction_command(run))))
        graph = run_graph(run)
        parts = [
            tag("summary", "Configuration, graph and machine"),
            _pair(f"Graph {run.pattern_label} on {graph.n:,} vertices, SHA-256", graph.checksum),
            _pair("Data, SHA-256", run.data_checksum) if run.data_checksum else None,
            tag("p", "config.json" if run.kind == "lra" else "run.json", class_="quiet"),
            tag("pre", _settings(run)),
        ]
        if run.environment:
            text = json.dumps(run.environment, indent=2, ensure_ascii=False)
            parts += [tag("p", "environment.json", class_="quiet"), tag("pre", text)]
        section.append(tag("details", *parts))
    return section


def footer() -> Element:
    """The version of nip that wrote the page."""
    return tag("footer", f"Made by nip {nip.__version__}. The page is one file and loads nothing.")


def run_labels(finding: Finding) -> dict[Path, str]:
    """A label per run: its group's, and the seed where the group has several runs."""
    return {
        run.folder: f"{group.label}, seed {run.seed}" if len(group.runs) > 1 else group.label
        for group in finding.groups
        for run in group.runs
    }


def baselines(runs: Sequence[RunRecord]) -> list[Reference]:
    """The distinct baselines of the runs as reference lines."""
    found = dict.fromkeys((k, round(v, 3)) for run in runs if run.result for k, v in run.result.baselines.items())
    return [Reference(key.replace("_", " "), value) for key, value in found]


def _settings(run: RunRecord) -> str:
    contents = run.settings if run.kind == "lra" else read_run_file(run.folder)
    return json.dumps(contents, indent=2, ensure_ascii=False)


def _unbroken(sentence: str) -> str:
    return sentence.replace(" %", "\N{NO-BREAK SPACE}%")


def _learned(learned: bool | None) -> Element:
    text, kind = {True: ("learned", "yes"), False: ("not shown", "no"), None: ("unknown", "no")}[learned]
    return tag("span", text, class_=f"badge {kind}")


def _latest_dev(run: RunRecord) -> list[Element | str]:
    curve = run.curves.get("dev")
    if curve is None or not math.isfinite(curve.accuracy[-1]):
        return [DASH]
    return [format_percent(curve.accuracy[-1]), tag("small", f"latest, step {curve.steps[-1]:,}")]


def table(head: Sequence[Element], rows: Sequence[Element]) -> Element:
    """A table of heading cells and rows that scrolls sideways where it is too wide."""
    whole = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *rows))
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label="table, scrolls sideways")


def _options(command: str) -> list[Element | str]:
    """The command in pieces, between which a narrow page may break the line."""
    pieces = [tag("span", piece, class_="piece") for piece in re.split(r" (?=--)", command)]
    return [child for piece in pieces for child in (piece, " ")][:-1]


def _pair(name: str, value: str) -> Element:
    return tag("p", name, tag("code", value), class_="pair quiet")
