"""The page of a search: one self-contained HTML file with the charts of `optuna.visualization` (plotly)."""

from __future__ import annotations

import html
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from nip.atomic import replacing
from nip.finetuning.search.study import counted_trials, original_number

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 0.25rem 0.7rem; text-align: left; border-bottom: 1px solid #ddd; }
pre { background: #f4f4f4; padding: 0.8rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } .quiet { color: #666; }
"""


def write_page(study: optuna.Study, result: Mapping[str, Any], path: Path) -> None:
    """Write the page of a search.

    Parameters
    ----------
    study : optuna.Study
    result : mapping
        The result, as `nip.finetuning.search.run.summarize` returns it.
    path : Path
        The HTML file; an older one is replaced.
    """
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width, initial-scale=1'>",
        f"<title>Search: {html.escape(result['study'])}</title><style>{STYLE}</style></head><body>",
        f"<h1>Search: {html.escape(result['study'])}</h1>",
        f"<p>{_summary(result)}</p>",
        *_best(result),
        *_figures(study, result),
        "<h2>All trials</h2>",
        _table(result),
        "</body></html>",
    ]
    with replacing(path) as file:
        file.write("\n".join(parts).encode())


def _summary(result: Mapping[str, Any]) -> str:
    counts = [f"{number} {name}" for name, number in result["counts"].items() if number]
    of = f", of {result['points']} points in all" if result["points"] is not None else ""
    return html.escape(
        f"Trials: {', '.join(counts) or 'none'}{of}. Sampler: {result['sampler']}, to {result['direction']} "
        f"{result['metric']}."
    )


def _best(result: Mapping[str, Any]) -> list[str]:
    best = result["best"]
    if best is None:
        return ["<p>No trial has finished.</p>"]
    settings = ", ".join(f"{name} {value}" for name, value in best["parameters"].items())
    return [
        f"<h2>Best: trial {best['trial']}, {html.escape(result['metric'])} {best['value']:.4f}</h2>",
        f"<p>{html.escape(settings)}</p><p>Run it again:</p><pre>{html.escape(best['again'])}</pre>",
    ]


def _figures(study: optuna.Study, result: Mapping[str, Any]) -> list[str]:
    """Optuna's charts of the counted trials, without those that need more trials."""
    shown = optuna.create_study(direction=result["direction"])
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    trials = {original_number(trial): trial for trial in counted_trials(study.get_trials()) if trial.state in states}
    empty = optuna.trial.create_trial(state=TrialState.FAIL)  # fills a gap: trial numbers are those of folders
    shown.add_trials([trials.get(number, empty) for number in range(max(trials, default=-1) + 1)])
    finished = [row for row in result["trials"] if row["state"] == "complete"]
    if not finished:
        return []
    draw, metric = optuna.visualization, result["metric"]
    figures: list[tuple[str, Any]] = [
        ("Optimization history", draw.plot_optimization_history(shown, target_name=metric)),
        ("Evaluations", draw.plot_intermediate_values(shown)),
    ]
    varied = [name for name in finished[0]["parameters"] if len({str(r["parameters"].get(name)) for r in finished}) > 1]
    if len(finished) > 1 and varied:
        figures += [
            ("Each hyper-parameter", draw.plot_slice(shown, params=varied, target_name=metric)),
            ("All hyper-parameters", draw.plot_parallel_coordinate(shown, params=varied, target_name=metric)),
        ]
        if len({row["value"] for row in finished}) > 1:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # ExperimentalWarning
                evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
                importances = draw.plot_param_importances(shown, evaluator=evaluator, params=varied, target_name=metric)
            figures.append(("Hyper-parameter importance", importances))
    parts = []
    for place, (title, figure) in enumerate(figures):
        figure.update_layout(title=None, template="plotly_white", margin={"t": 30})
        drawn = figure.to_html(full_html=False, include_plotlyjs=place == 0, div_id=f"figure-{place}")
        parts.append(f"<h2>{title}</h2><div class='wide'>{drawn}</div>")
    return parts


def _table(result: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(name for row in result["trials"] for name in row["parameters"]))
    head = ["trial", "state", result["metric"], *names, "evaluations", "seconds"]
    lines = ["<div class='wide'><table><tr>", *(f"<th>{html.escape(str(name))}</th>" for name in head), "</tr>"]
    sign = -1 if result["direction"] == "maximize" else 1
    for row in sorted(result["trials"], key=lambda row: (row["value"] is None, sign * (row["value"] or 0.0))):
        value = "" if row["value"] is None else f"{row['value']:.4f}"
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.0f}"
        cells = [row["trial"], row["state"], value, *(row["parameters"].get(name, "") for name in names)]
        cells += [len(row["evaluations"]), seconds]
        lines.append("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells) + "</tr>")
        if row["error"]:
            message = html.escape(f"{row['error']} ({row['log']})")
            lines.append(f"<tr><td></td><td class='quiet' colspan='{len(head) - 1}'>{message}</td></tr>")
    return "".join([*lines, "</table></div>"])
