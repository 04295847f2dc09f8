"""A page of a search's results: one HTML file that needs nothing else, drawn by Optuna with plotly."""

from __future__ import annotations

import html
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from nip.atomic import replacing
from nip.finetuning.search.study import counted, first_number

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 0.25rem 0.7rem; text-align: left; border-bottom: 1px solid #ddd; }
pre { background: #f4f4f4; padding: 0.8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } .quiet { color: #666; }
"""


def write_page(study: optuna.Study, found: Mapping[str, Any], path: Path) -> None:
    """Write the page of a search.

    Parameters
    ----------
    study : optuna.Study
    found : mapping
        As `nip.finetuning.search.run.outcome` gives it.
    path : Path
    """
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>Search: {html.escape(found['study'])}</title><style>{STYLE}</style></head><body>",
        f"<h1>Search: {html.escape(found['study'])}</h1>",
        f"<p>{_summary(found)}</p>",
        *_best(found),
        *_figures(study, found),
        "<h2>All trials</h2>",
        _table(found),
        "</body></html>",
    ]
    with replacing(path) as file:
        file.write("\n".join(parts).encode())


def _summary(found: Mapping[str, Any]) -> str:
    counts = [f"{number} {name}" for name, number in found["counts"].items() if number]
    of = f", of {found['points']} points in all" if found["points"] is not None else ""
    return html.escape(
        f"Trials: {', '.join(counts) or 'none'}{of}. Drawn by {found['sampler']}, to {found['direction']} "
        f"{found['metric']}."
    )


def _best(found: Mapping[str, Any]) -> list[str]:
    best = found["best"]
    if best is None:
        return ["<p>No trial has finished.</p>"]
    settings = ", ".join(f"{name} {value}" for name, value in best["parameters"].items())
    return [
        f"<h2>The best: trial {best['trial']}, {html.escape(found['metric'])} {best['value']:.4f}</h2>",
        f"<p>{html.escape(settings)}</p><p>Run it again:</p><pre>{html.escape(best['again'])}</pre>",
    ]


def _figures(study: optuna.Study, found: Mapping[str, Any]) -> list[str]:
    """What Optuna draws of the trials that count; where there are too few for a picture it is left out."""
    shown = optuna.create_study(direction=found["direction"])
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    trials = {first_number(trial): trial for trial in counted(study.get_trials()) if trial.state in states}
    empty = optuna.trial.create_trial(state=TrialState.FAIL)  # keeps the place, so that numbers are those of folders
    shown.add_trials([trials.get(number, empty) for number in range(max(trials, default=-1) + 1)])
    finished = [row for row in found["trials"] if row["state"] == "complete"]
    if not finished:
        return []
    draw, metric = optuna.visualization, found["metric"]
    figures: list[tuple[str, Any]] = [
        ("In the order of the trials", draw.plot_optimization_history(shown, target_name=metric)),
        ("Evaluation by evaluation", draw.plot_intermediate_values(shown)),
    ]
    varied = [name for name in finished[0]["parameters"] if len({str(r["parameters"].get(name)) for r in finished}) > 1]
    if len(finished) > 1 and varied:
        figures += [
            ("Setting by setting", draw.plot_slice(shown, params=varied, target_name=metric)),
            ("All settings together", draw.plot_parallel_coordinate(shown, params=varied, target_name=metric)),
        ]
        if len({row["value"] for row in finished}) > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what it holds to be experimental
                # by variance in a forest of trees, which scikit-learn grows
                evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
                importances = draw.plot_param_importances(shown, evaluator=evaluator, params=varied, target_name=metric)
            figures.append(("What mattered", importances))
    parts = []
    for place, (title, figure) in enumerate(figures):
        figure.update_layout(title=None, template="plotly_white", margin={"t": 30})
        drawn = figure.to_html(full_html=False, include_plotlyjs=place == 0, div_id=f"figure-{place}")
        parts.append(f"<h2>{title}</h2><div class='wide'>{drawn}</div>")
    return parts


def _table(found: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(name for row in found["trials"] for name in row["parameters"]))
    head = ["trial", "state", found["metric"], *names, "evaluations", "seconds"]
    lines = ["<div class='wide'><table><tr>", *(f"<th>{html.escape(str(name))}</th>" for name in head), "</tr>"]
    sign = -1 if found["direction"] == "maximize" else 1
    for row in sorted(found["trials"], key=lambda row: (row["value"] is None, sign * (row["value"] or 0.0))):
        value = "" if row["value"] is None else f"{row['value']:.4f}"
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.0f}"
        cells = [row["trial"], row["state"], value, *(row["parameters"].get(name, "") for name in names)]
        cells += [len(row["evaluations"]), seconds]
        lines.append("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>")
        if row["error"]:
            says = html.escape(f"{row['error']} ({row['log']})")
            lines.append(f"<tr><td></td><td class='quiet' colspan='{len(head) - 1}'>{says}</td></tr>")
    return "".join([*lines, "</table></div>"])
