"""`nip study`: train a panel of patterns, and correlate accuracy with graph scores."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nip.cli.lra import lra_command, resolve
from nip.cli.options import Json, option, split, with_options
from nip.cli.output import print_json
from nip.formatting import format_duration, format_percent
from nip.ownership import LOCK
from nip.runs.folder import locked
from nip.runs.record import read_record
from nip.study.execute import Outcome
from nip.study.panel import PlannedRun

if TYPE_CHECKING:
    from nip.study.execute import Performer

# Options of nip lra that a study sets in other ways.
OTHERWISE = ("attention", "param", "graph", "seed", "output_dir", "skip_train", "weights", "original_log", "as_json")


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    of_lra = inspect.signature(lra_command, eval_str=True).parameters.values()
    command = with_options(study_command, [each for each in of_lra if each.name not in OTHERWISE])
    app.command("study", rich_help_panel="Train")(command)


def study_command(
    attention: Annotated[
        str | None,
        option("Patterns, comma-separated; NAME@seq_len=496 gives one its own settings.", "--attention", "--patterns"),
    ] = None,
    seeds: Annotated[str | None, option("Seeds, comma-separated.", default="0,1,2")] = None,
    depths: Annotated[
        str | None, option("Numbers of layers, comma-separated; one run for each.", default="--layers")
    ] = None,
    output_dir: Annotated[
        Path | None, option("Folder of the study.", "--output-dir", "--out", default="runs/study-TASK")
    ] = None,
    workers: Annotated[int | None, option("Parallel runs on this machine.", default="1")] = None,
    scheduler: Annotated[str | None, option("Run on this dask scheduler, tcp://HOST:PORT.")] = None,
    submitit: Annotated[str | None, option("Run through submitit: slurm, local or debug.")] = None,
    job: Annotated[
        list[str] | None,
        option("Parameter of submitit, such as slurm_partition=gpu; repeat for several.", metavar="NAME=VALUE"),
    ] = None,
    dry_run: Annotated[bool, option("Print the plan without running it.", "--dry-run")] = False,
    results: Annotated[bool, option("Only evaluate finished runs.", "--results")] = False,
    from_paper: Annotated[
        bool, option("Correlate the paper's own five points instead of runs.", "--from-paper")
    ] = False,
    as_json: Json = False,
    **of_lra: Any,
) -> None:
    """Train a panel of patterns, and correlate accuracy with graph scores, reach and payload.

    The options of nip lra apply to all runs. --task takes several tasks, comma-separated: then the accuracies averaged
    over the tasks follow those of each. Rerun the same command, or only --output-dir FOLDER, to resume. If a run
    fails, the others continue and the exit code is 1.

    Example: nip study --attention softmax,hypercube,local --task listops --seeds 0,1,2 --max-steps 1000

    Example: nip study --attention softmax,hypercube,bigbird --task listops,text,retrieval,image --seeds 0,1,2

    Example: nip study --from-paper --json
    """
    own = {name: value for name, value in locals().items() if name not in ("from_paper", "as_json", "of_lra")}
    passed = {name: value for name, value in of_lra.items() if value is not None}
    if from_paper:
        if given := [name for name, value in {**own, **passed}.items() if value]:
            raise ValueError(f"--from-paper uses the paper's points alone. Leave --{given[0].replace('_', '-')} out.")
        _from_paper(as_json)
        return
    from nip.report.study_tables import failures, to_console, write_results
    from nip.study import panel
    from nip.study.outcome import panels, to_dict

    performer = _performer(workers, scheduler, submitit, job or [])
    study = _folder(output_dir, passed)
    if results and not study.is_dir():
        raise ValueError(f"There is no study in {study}: --results evaluates runs that are there. Leave it out to run.")
    panel.study_folder(study).check()
    runs = panel.read_plan(study)
    if attention is not None:
        runs = panel.extended(runs, _planned(attention, "0,1,2" if seeds is None else seeds, depths, passed))
    elif set(passed) - {"task"} or depths or seeds or not runs:
        raise ValueError(f"Say which patterns to study: --attention A,B,…; {study} has no plan to resume.")
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
    found = panels(study, runs)
    outcome = {**to_dict(found), "failed": failed}
    write_results(study, found, outcome)
    if as_json:
        print_json({**outcome, "folder": str(study)})
    else:
        for one in found:
            to_console(one)
        print(study, file=sys.stderr)
    for each in failed:
        print(f"nip: {each['run']} failed: {each['error']} ({each['log']})", file=sys.stderr)
    if failed and not results:
        raise typer.Exit(1)


def _folder(output_dir: Path | None, passed: dict[str, Any]) -> Path:
    from nip.data import runs_folder

    tasks = "+".join(split(passed.get("task", "listops")))
    folder = output_dir if output_dir is not None else runs_folder() / f"study-{tasks}"
    return folder.expanduser().resolve()


def _planned(patterns: str, seeds: str, depths: str | None, passed: dict[str, Any]) -> list[PlannedRun]:
    from nip.study import panel

    file, data = passed.get("config"), passed.get("data")
    given = {name: value for name, value in passed.items() if name not in ("config", "data", "task")}
    tasks = split(passed["task"]) if "task" in passed else []
    if "task" in passed and not tasks:
        raise ValueError("--task names no task.")
    return panel.plan(
        panel.read_members(patterns),
        _integers(seeds, "--seeds"),
        _integers(depths or "", "--depths"),
        lambda own, folder: resolve({**given, **own}, file, None if folder is None else Path(folder)),
        data=None if data is None else str(data),
        tasks=tasks,
    )


def _integers(text: str, option: str) -> list[int]:
    try:
        return [int(part) for part in split(text)]
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
    """Raise before any run starts if a graph is impossible or data is missing."""
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
        print_json({"folder": str(study), "runs": rows})
        return
    for row in rows:
        print(f"{row['run']}{' (finished)' if row['finished'] else ''}")
    print(f"{len(runs)} runs in {study}, {len(waiting)} unfinished")


def _execute(
    study: Path, runs: list[PlannedRun], waiting: list[PlannedRun], performer: Performer
) -> list[dict[str, str]]:
    """Execute the runs that are not finished, and print progress; return the failures."""
    from nip.study import execute, panel

    failed = []
    panel.study_folder(study).check()
    with locked(study / LOCK):
        panel.write_plan(study, runs)
        progress = RemainingTime(study, waiting, total=len(runs))
        for outcome in performer([execute.Job(str(study), run.name) for run in waiting]):
            if outcome.error is not None:
                failed.append({"run": outcome.name, "error": outcome.error, "log": outcome.log})
            print(progress.ended(outcome), file=sys.stderr, flush=True)
    return failed


class RemainingTime:
    """Counts finished runs and estimates the remaining time.

    Parameters
    ----------
    study : Path
        Folder of the study.
    waiting : sequence of PlannedRun
        Runs to execute.
    total : int
        Runs of the plan, including those finished before.
    """

    def __init__(self, study: Path, waiting: Sequence[PlannedRun], total: int) -> None:
        self._study = study
        self._waiting = {run.name: run for run in waiting}
        self._total = total
        self._took: dict[tuple[str, int], list[float]] = {}
        self._began = time.monotonic()
        self._summed = 0.0

    def ended(self, outcome: Outcome) -> str:
        """A line about a run that has ended, with the remaining time."""
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
        about = "" if left is None or not self._waiting else f"; about {format_duration(left)} left"
        return f"{done} of {self._total}: {run.name} {says} ({format_duration(outcome.seconds)}){about}"

    def seconds_left(self) -> float | None:
        """Estimated seconds to the end, from runs of the same pattern and depth; None before the first success."""
        if not self._took:
            return None
        overall = fmean(fmean(took) for took in self._took.values())
        rest = 0.0
        for run in self._waiting.values():
            took = self._took.get((run.label, run.config.layers))
            rest += fmean(took) if took else overall
        elapsed = time.monotonic() - self._began
        parallel = max(1.0, self._summed / elapsed) if elapsed > 0 else 1.0
        return rest / parallel


def _from_paper(as_json: bool) -> None:
    from nip.study import paper

    if as_json:
        print_json(paper.reproduced())
    else:
        print(paper.in_words())
