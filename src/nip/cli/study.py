"""`nip study`: a panel of runs, and what their accuracy goes together with.

What the execution of a study says while it goes: a line for every run that has ended, with an estimate.
"""

from __future__ import annotations

import inspect
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from nip.cli.lra import lra_command, resolve
from nip.cli.options import Json, emit
from nip.formatting import format_duration, format_percent
from nip.runs.folder import LOCK, locked
from nip.runs.record import read_record
from nip.study.execute import Outcome
from nip.study.panel import PlannedRun

if TYPE_CHECKING:
    from nip.study.execute import Performer
    from nip.study.panel import PlannedRun


class Progress:
    """Counts what has ended and guesses how long the rest takes.

    Parameters
    ----------
    study : Path
    waiting : sequence of PlannedRun
        What is executed now.
    total : int
        Runs of the plan, finished ones included.
    """

    def __init__(self, study: Path, waiting: Sequence[PlannedRun], total: int) -> None:
        self._study = study
        self._waiting = {run.name: run for run in waiting}
        self._total = total
        self._took: dict[tuple[str, int], list[float]] = {}
        self._began = time.monotonic()
        self._summed = 0.0

    def ended(self, outcome: Outcome) -> str:
        """One line about a run that has ended, and what is left."""
        run = self._waiting.pop(outcome.name)
        self._summed += outcome.seconds
        done = self._total - len(self._waiting)
        if outcome.error is None:
            self._took.setdefault((run.label, run.config.layers), []).append(outcome.seconds)
            result = read_record(self._study / run.name).result
            says = format_percent(result.test_accuracy) if result else "no result"
        else:
            says = f"failed: {outcome.error}"
        left = self.seconds_left()
        about = "" if left is None or not self._waiting else f"; about {format_duration(left)} to go"
        return f"{done} of {self._total}: {run.name} {says} ({format_duration(outcome.seconds)}){about}"

    def seconds_left(self) -> float | None:
        """Seconds that the rest takes if every run takes what its like took; None before the first has succeeded."""
        if not self._took:
            return None
        overall = fmean(fmean(took) for took in self._took.values())
        rest = 0.0
        for run in self._waiting.values():
            took = self._took.get((run.label, run.config.layers))
            rest += fmean(took) if took else overall
        elapsed = time.monotonic() - self._began
        at_a_time = max(1.0, self._summed / elapsed) if elapsed > 0 else 1.0
        return rest / at_a_time


# Of the options of nip lra those that a study has other ways to say.
OTHERWISE = ("attention", "param", "graph", "seed", "output_dir", "skip_train", "original_log", "as_json")


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("study")(_with_options_of_lra(study_command))


def _with_options_of_lra(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of `nip lra` behind its own, handed over as ``passed``."""

    def taken(**values: Any) -> None:
        own = {name: values.pop(name) for name in own_names}
        command(**own, passed={name: value for name, value in values.items() if value != defaults[name]})

    def parameters(function: Callable[..., None]) -> list[inspect.Parameter]:
        hints = get_type_hints(function, include_extras=True)
        return [each.replace(annotation=hints[each.name]) for each in inspect.signature(function).parameters.values()]

    of_lra = [each for each in parameters(lra_command) if each.name not in OTHERWISE]
    own = [each for each in parameters(command) if each.name != "passed"]
    own_names = [each.name for each in own]
    defaults = {each.name: each.default for each in of_lra}
    together = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *of_lra)]
    taken.__doc__ = command.__doc__
    taken.__signature__ = inspect.Signature(together)  # type: ignore[attr-defined]
    taken.__annotations__ = {each.name: each.annotation for each in together}
    return taken


def study_command(
    passed: dict[str, Any],
    attention: Annotated[
        str | None,
        typer.Option(
            "--attention",
            "--patterns",
            help="The panel, comma-separated; settings of its own stand behind a pattern: NAME@seq_len=496.",
        ),
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, comma-separated (0,1,2).", show_default=False)] = None,
    depths: Annotated[str | None, typer.Option(help="Numbers of layers, comma-separated.", show_default=False)] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", "--out", help="The study's folder (runs/study-TASK).", show_default=False),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Runs at a time on this machine (1).", show_default=False)] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Execute on this dask scheduler, tcp://HOST:PORT.", show_default=False)
    ] = None,
    submitit: Annotated[
        str | None, typer.Option(help="Execute through submitit: slurm, local or debug.", show_default=False)
    ] = None,
    job: Annotated[
        list[str] | None,
        typer.Option(help="A setting of submitit's jobs, such as slurm_partition=gpu; may be repeated."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and run nothing.")] = False,
    results: Annotated[bool, typer.Option("--results", help="Only evaluate what has finished.")] = False,
    from_paper: Annotated[
        bool, typer.Option("--from-paper", help="The paper's own five points instead of runs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a panel of patterns, and correlate accuracy with the graphs' scores, their reach and their payload.

    Every option of nip lra that follows holds for all runs. Stopped, the same command goes on; so does --output-dir
    FOLDER alone. A run that fails is named at the end, and the exit code is 1.

    Example: nip study --attention softmax,hypercube,local --task listops --seeds 0,1,2 --max-steps 1000

    Example: nip study --from-paper --json
    """
    if from_paper:
        others: dict[str, Any] = {
            "attention": attention,
            "seeds": seeds,
            "depths": depths,
            "output-dir": output_dir,
            "workers": workers,
        }
        others |= {"scheduler": scheduler, "submitit": submitit, "job": job, "dry-run": dry_run, "results": results}
        given = [name for name, value in {**others, **passed}.items() if value]
        if given:
            raise ValueError(
                f"--from-paper is about the paper's points alone. Leave --{given[0].replace('_', '-')} out."
            )
        _from_paper(as_json)
        return
    from nip.report.study_tables import failures, to_console, write_results
    from nip.study import panel
    from nip.study.outcome import evaluate

    performer = _performer(workers, scheduler, submitit, job or [])
    study = _folder(output_dir, passed)
    runs = panel.read_plan(study)
    if attention is not None:
        runs = panel.extended(runs, _planned(attention, "0,1,2" if seeds is None else seeds, depths, passed))
    elif set(passed) - {"task"} or depths or seeds or not runs:
        raise ValueError(f"Say which patterns to study: --attention A,B,…; {study} holds no plan to go on with.")
    _check(runs)
    waiting = [run for run in runs if not panel.finished(study, run)]
    if dry_run:
        _print_plan(study, runs, waiting, as_json)
        return
    if results:
        names = {run.name for run in waiting}
        failed = [each for each in failures(study) if each["run"] in names]
    else:
        failed = _execute(study, runs, waiting, performer)
    found = evaluate(study, runs)
    outcome = {**found.to_dict(), "failed": failed}
    if not results or study.is_dir():
        write_results(study, found, outcome)
    if as_json:
        emit(json.dumps({**outcome, "folder": str(study)}, allow_nan=False, indent=2), None)
    else:
        to_console(found)
        print(f"{study}", file=sys.stderr)
    for one in failed:
        print(f"nip: {one['run']} failed: {one['error']} ({one['log']})", file=sys.stderr)
    if failed and not results:
        raise typer.Exit(1)


def _folder(output_dir: Path | None, passed: dict[str, Any]) -> Path:
    from nip.data import runs_folder

    folder = output_dir if output_dir is not None else runs_folder() / f"study-{passed.get('task', 'listops')}"
    return folder.expanduser().resolve()


def _planned(patterns: str, seeds: str, depths: str | None, passed: dict[str, Any]) -> list[PlannedRun]:
    from nip.lra import RunConfig
    from nip.study import panel

    file, data = passed.get("config"), passed.get("data")
    given = {name: value for name, value in passed.items() if name not in ("config", "data")}
    other = sorted(set(given) - {field.name for field in fields(RunConfig)})
    if other:
        raise ValueError(f"A study has no option --{other[0].replace('_', '-')}.")
    return panel.plan(
        panel.read_members(patterns),
        _integers(seeds, "--seeds"),
        _integers(depths or "", "--depths"),
        lambda own: resolve({**given, **own}, file),
        data=None if data is None else str(data),
    )


def _integers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"{option} takes integers, comma-separated. Got {text!r} instead.") from None


def _performer(workers: int | None, scheduler: str | None, submitit: str | None, job: list[str]) -> Performer:
    from nip.study import execute, submission

    if sum(choice is not None for choice in (workers, scheduler, submitit)) > 1:
        raise ValueError("--workers, --scheduler and --submitit exclude each other. Give one of them.")
    if job and submitit is None:
        raise ValueError("--job is a setting of submitit's jobs. Say which: --submitit slurm.")
    if scheduler is not None:
        return execute.on_dask(scheduler)
    if submitit is not None:
        return submission.on_submitit(submitit, _job_settings(job))
    return execute.here(1 if workers is None else workers)


def _job_settings(pairs: list[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"--job takes name=value, such as --job timeout_min=240. Got {pair!r} instead.")
        settings[name] = int(value) if value.isdigit() else value
    return settings


def _check(runs: list[PlannedRun]) -> None:
    """Refuse, before anything runs, what no run could be made of: a graph that there is not, data that is missing."""
    from nip.data import open_split
    from nip.lra.graphs import run_pattern

    for run in runs:
        run_pattern(run.config)
    for task, data in dict.fromkeys((run.config.task, run.data) for run in runs):
        open_split(task, "train", None if data is None else Path(data))


def _print_plan(study: Path, runs: list[PlannedRun], waiting: list[PlannedRun], as_json: bool) -> None:
    names = {run.name for run in waiting}
    rows = [{"run": run.name, "pattern": run.label, "finished": run.name not in names} for run in runs]
    if as_json:
        emit(json.dumps({"folder": str(study), "runs": rows}, indent=2), None)
        return
    for row in rows:
        print(f"{row['run']}{' (finished)' if row['finished'] else ''}")
    print(f"{len(runs)} runs in {study}, {len(waiting)} of them to do")


def _execute(
    study: Path, runs: list[PlannedRun], waiting: list[PlannedRun], performer: Performer
) -> list[dict[str, str]]:
    """Execute what is not finished, and say how it goes; the failures."""
    from nip.cli.study import Progress
    from nip.study import execute, panel

    failed = []
    with locked(study / LOCK):
        panel.write_plan(study, runs)
        progress = Progress(study, waiting, total=len(runs))
        for outcome in performer([execute.Job(str(study), run.name) for run in waiting]):
            if outcome.error is not None:
                failed.append({"run": outcome.name, "error": outcome.error, "log": outcome.log})
            print(progress.ended(outcome), file=sys.stderr, flush=True)
    return failed


def _from_paper(as_json: bool) -> None:
    from nip.study import paper

    if as_json:
        emit(json.dumps(paper.reproduced(), allow_nan=False, indent=2), None)
    else:
        print(paper.in_words())
