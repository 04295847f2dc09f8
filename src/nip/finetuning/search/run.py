"""``nip hpo COMMAND FLAG …``: a hyper-parameter search whose trials are runs of a finetuning command.

Each trial is a process and a run folder of its own; `nip.finetuning.search.study` decides which trials run, here or
on every machine that uses the same storage. The results are in ``search.json`` and on a page, ``search.html``.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy.exc
from optuna.trial import FrozenTrial, TrialState

from nip.finetuning.arguments import print_notice
from nip.finetuning.glue.metrics import METRICS
from nip.finetuning.output_dir import owned_folder
from nip.finetuning.search.arguments import DATABASE, SUM, Search, read_search
from nip.finetuning.search.page import write_page
from nip.finetuning.search.space import Range, space_size, suggest, to_flags
from nip.finetuning.search.study import (
    HEARTBEAT,
    ask,
    check_same_search,
    close_redundant,
    counted_trials,
    enqueue_grid,
    open_storage,
    open_study,
    original_number,
    params_of,
    requeue_lost,
    retry_failed,
)
from nip.ownership import OwnedFolder, removed_on_error
from nip.processor import usable_cores
from nip.runs.folder import MANIFEST, locked, read_json, read_metrics, write_json, write_manifest
from nip.runs.workers import Worker

KIND = "search"
TRIALS, LOCKS = "trials", ".locks"
PROGRAM = (sys.executable, "-m", "nip.finetuning.search.trial")
BAD_INPUT = 2
RETRIES = 3  # of a trial whose process is killed by a signal, as where memory runs out


@dataclass
class _SearchState:
    """What the worker threads of this process share."""

    search: Search
    storage: Any
    study: optuna.Study
    lock: str
    program: tuple[str, ...]
    asking: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)


def main(argv: Sequence[str], program: str = "nip hpo") -> dict[str, Any]:
    """Search as a command line says, and print the result; the exit code is 1 if no trial has finished.

    Raises
    ------
    ValueError, OSError, ImportError
        One sentence about what is wrong, before any trial.
    """
    search = read_search(argv, program)
    try:
        result = run_search(search)
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        reason = str(getattr(error.__cause__, "orig", None) or getattr(error, "orig", None) or error).splitlines()[0]
        raise OSError(
            f"The storage of the search cannot be read or written ({reason}). The same command resumes the search."
        ) from error
    best = result["best"]
    if search.json:
        print(json.dumps(result, allow_nan=False, indent=2))
    else:
        print(", ".join(f"{n} {state}" for state, n in result["counts"].items() if n) or "no trials")
        if best is not None:
            print(f"best: trial {best['trial']}, {result['metric']} {best['value']:.4f}, {best['folder']}")
            print(best["again"])
        print(search.folder / "search.html")
    for row in result["failed"]:
        print_notice(f"trial {row['trial']} has failed: {row['error']} ({row['log']})")
    if best is None:
        sys.exit(1)
    return result


def run_search(search: Search, program: Sequence[str] = PROGRAM) -> dict[str, Any]:
    """Run a search, or the rest of it.

    Parameters
    ----------
    search : Search
    program : sequence of str
        The command that runs a trial; the finetuning command and its flags are appended.

    Returns
    -------
    dict
        The content of ``search.json``.

    Raises
    ------
    ValueError
        If the study is another search's, or the first trial finds its command line wrong.
    OSError, ImportError
        If the storage cannot be reached.
    """
    own = search_folder(search.folder)
    own.check()
    with removed_on_error(search.folder, {DATABASE, f"{DATABASE}-journal"}):
        storage = open_storage(search.storage)
        study = open_study(storage, search.study, search.direction, search.pruner)
        check_same_search(study, search.described())
    if not (search.folder / MANIFEST).is_file():
        write_manifest(search.folder, KIND, (), own.names, finished=False)
    (search.folder / TRIALS).mkdir(exist_ok=True)
    (search.folder / LOCKS).mkdir(exist_ok=True)
    lock = search.folder / LOCKS / f"{uuid.uuid4().hex}.lock"
    with locked(lock):
        requeue_lost(study)
        if search.retry_failed:
            retry_failed(study)
        if search.sampler == "grid":
            enqueue_grid(study, search.space, search.seed, search.trials)
        finished = len(_in_state(study, TrialState.COMPLETE))
        if finished:
            print_notice(f"resuming after {finished} finished trials")
        _run_workers(_SearchState(search, storage, study, str(lock), tuple(program)))
    own.delete([f"{LOCKS}/{lock.name}"])
    result = summarize(search, study)
    write_json(search.folder / "search.json", result)
    write_page(study, result, search.folder / "search.html")
    return result


def _run_workers(state: _SearchState) -> None:
    with ThreadPoolExecutor(state.search.workers) as pool:
        futures = [pool.submit(_work, state, index) for index in range(state.search.workers)]
        try:
            for future in futures:
                future.result()
        finally:  # a failed worker, or an interrupt, ends all
            state.stop.set()


def _work(state: _SearchState, index: int) -> None:
    """Run one trial after another until none is left."""
    search, study = state.search, state.study
    try:
        while not state.stop.is_set():
            with state.asking:
                requeue_lost(study)
                trial = ask(study, search.space, search.sampler, search.trials, search.seed)
                if trial is None:
                    return
                trial.set_user_attr("host", socket.gethostname())
                trial.set_user_attr("lock", state.lock)
                suggest(trial, search.space)
                if close_redundant(study, trial, search.sampler, search.trials):
                    continue
            try:
                _run_trial(state, trial, index)
            except optuna.exceptions.UpdateFinishedTrialError:
                print_notice(f"trial {trial.number} was marked as lost by another process: it is retried")
    except BaseException:
        state.stop.set()
        raise


def _run_trial(state: _SearchState, trial: optuna.Trial, index: int) -> None:
    search, study = state.search, state.study
    number = original_number(trial)
    folder = search.folder / TRIALS / f"{number:04d}"
    log = folder.with_suffix(".log")
    argv = [search.command, *search.argv, *to_flags(trial.params), "--output_dir", str(folder)]
    trial.set_user_attr("folder", str(folder))
    varied = {name: value for name, value in trial.params.items() if _varies(search.space[name])}
    print_notice(f"trial {number} starts: {' '.join(f'{name}={value}' for name, value in varied.items())}")
    environment = worker_environment(search.workers, index)
    with Worker([*state.program, *argv], log, title=f"nip {shlex.join(argv)}", environment=environment) as process:
        pruned = _wait_or_prune(state, trial, process, folder / "metrics.jsonl")
    if pruned:
        _tell(study, trial, state=TrialState.PRUNED)
        print_notice(f"trial {number} is pruned")
        delete_weights(folder)
        return
    value, error = None, process.error()
    killed = process.returncode < 0 and sum(original_number(each) == number for each in study.get_trials()) <= RETRIES
    if error is not None and (state.stop.is_set() or killed):
        _tell(study, trial, state=TrialState.FAIL)  # without an error: it counts as lost, and is retried
        if not state.stop.is_set():
            print_notice(f"trial {number} was {error}; it resumes from its last checkpoint")
        return
    if error is None:
        value, error = read_value(folder, search.metric)
    elif process.returncode == BAD_INPUT and not _in_state(study, TrialState.COMPLETE, TrialState.PRUNED):
        trial.set_user_attr("void", error)
        _tell(study, trial, state=TrialState.FAIL)
        raise ValueError(error)  # what is wrong with the first command is wrong with all
    if value is None:
        trial.set_user_attr("error", error)
        trial.set_user_attr("log", str(log))
        _tell(study, trial, state=TrialState.FAIL)
        print_notice(f"trial {number} has failed: {error} ({log})")
        return
    _tell(study, trial, value)
    print_notice(f"trial {number}: {search.metric} {value:.4f}; the best is {study.best_value:.4f}")
    _keep_best_weights(study, search)


def _varies(entry: Any) -> bool:
    return isinstance(entry, Range) or len(entry) > 1


def _tell(
    study: optuna.Study, trial: optuna.Trial, value: float | None = None, state: TrialState | None = None
) -> None:
    try:
        study.tell(trial, value, state)
    except ValueError as error:
        if study._storage.get_trial(trial._trial_id).state.is_finished():
            raise optuna.exceptions.UpdateFinishedTrialError from error
        raise


def worker_environment(workers: int, index: int) -> dict[str, str]:
    """The environment of worker `index`'s trials: its share of the cores and, in turn, a GPU."""
    import torch

    environment = dict(os.environ)
    if workers > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // workers)))
        devices = environment.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count()))))
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = devices.split(",")[index % len(devices.split(","))]
    return environment


def _wait_or_prune(state: _SearchState, trial: optuna.Trial, process: Worker, metrics: Path) -> bool:
    """Wait for a trial's process, report its evaluations and heartbeats, and return whether to prune it."""
    reported, last_heartbeat = 0, 0.0
    while True:
        if time.monotonic() - last_heartbeat > HEARTBEAT / 2:
            state.storage.record_heartbeat(trial._trial_id)
            last_heartbeat = time.monotonic()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        if state.stop.is_set() and process.poll() is None:
            return False
        values = read_evaluations(metrics, state.search.metric)
        for step, value in enumerate(values[reported:], reported + 1):
            trial.report(value, step)
            if trial.should_prune() and process.poll() is None:
                return True
        reported = len(values)
        if process.poll() is not None:
            return False


def read_evaluations(metrics: Path, metric: str) -> list[float]:
    """The evaluations of a run so far, from its ``metrics.jsonl``; of ``sum`` the sum of a GLUE task's metrics."""
    if not metrics.is_file():
        return []
    rows = [row for row in read_metrics(metrics) if row["split"] == "dev"]
    if metric == SUM:
        return [total for row in rows if (total := sum_of(row)) is not None]
    return [row[metric] for row in rows if row.get(metric) is not None]


def sum_of(figures: Mapping[str, Any]) -> float | None:
    """The sum of a GLUE task's metrics, without loss, times and the mean ``combined_score``; None if one has no value.

    Examples
    --------
    >>> sum_of({"loss": 0.3, "accuracy": 0.75, "f1": 0.5, "combined_score": 0.625, "seconds": 9.0})
    1.25
    """
    own = [value for name, value in figures.items() if name in METRICS]
    return None if not own or None in own else float(sum(own))


def read_value(folder: Path, metric: str) -> tuple[float | None, str | None]:
    """The metric of a finished run, or why it has none.

    Of ``sum`` it is that of the last evaluation while training, whose weights are not those that are kept.
    """
    metrics = json.loads((folder / "result.json").read_text("utf-8"))["metrics"]
    if metric == SUM:
        last = read_evaluations(folder / "metrics.jsonl", metric)[-1:]
        metrics = {**metrics, SUM: last[0] if last else sum_of(metrics)}
    if metrics.get(metric) is None:
        return None, f"the run has no metric {metric!r}; it has {', '.join(metrics)}"
    value = float(metrics[metric])
    return (value, None) if math.isfinite(value) else (None, f"its {metric} is NaN or Inf")


def _keep_best_weights(study: optuna.Study, search: Search) -> None:
    """Delete the checkpoints of finished trials, and all weights but the best one's: a search would fill the disk."""
    finished = _in_state(study, TrialState.COMPLETE)  # read once: others finish meanwhile
    best = best_trial(finished, study)
    for trial in finished:
        folder = search.folder / TRIALS / f"{original_number(trial):04d}"
        if not search.keep_all and folder.is_dir():
            delete_weights(folder, checkpoints_only=best is not None and trial.number == best.number)


def delete_weights(folder: Path, *, checkpoints_only: bool = False) -> None:
    """Delete a run's checkpoints and, by default, its model's weights."""
    patterns = ("checkpoint-*", "*.safetensors", "*.safetensors.index.json", "*.bin")
    own = owned_folder(folder)
    if own.ours():  # it is not if the trial failed before it wrote anything
        own.delete(patterns[: 1 if checkpoints_only else None])


def search_folder(path: Path) -> OwnedFolder:
    """The folder of a search, for what may be deleted in it; the folders of its trials are those of runs."""
    names = ("search.json", "search.html", DATABASE, f"{TRIALS}/*.log", f"{LOCKS}/*.lock", MANIFEST)
    return OwnedFolder(path, "search", names, _is_search)


def _is_search(path: Path) -> bool:
    if (path / MANIFEST).is_file():
        return read_json(path / MANIFEST).get("kind") == KIND
    return (path / TRIALS).is_dir() and (path / LOCKS).is_dir()  # of earlier versions


def _in_state(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    return [trial for trial in counted_trials(study.get_trials(deepcopy=False)) if trial.state in states]


def best_trial(finished: Sequence[FrozenTrial], study: optuna.Study) -> FrozenTrial | None:
    """The trial of the best value, of equal ones the earliest."""
    sign = 1 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1
    return min(finished, key=lambda trial: (sign * (trial.value or 0.0), original_number(trial)), default=None)


def summarize(search: Search, study: optuna.Study) -> dict[str, Any]:
    """The result of a search, as JSON values."""
    trials = sorted(counted_trials(study.get_trials(deepcopy=False)), key=original_number)
    best = best_trial([trial for trial in trials if trial.state == TrialState.COMPLETE], study)
    rows = [_row(trial) for trial in trials]
    points = space_size(search.space)
    result: dict[str, Any] = {
        "command": search.command,
        "study": search.study,
        "metric": search.metric,
        "direction": search.direction,
        "sampler": search.sampler,
        "points": None if points == float("inf") else int(points),
        "counts": {
            state: sum(row["state"] == state for row in rows)
            for state in ("complete", "pruned", "fail", "running", "waiting")
        },
        "best": None,
        "failed": [row for row in rows if row["state"] == "fail"],
        "trials": rows,
    }
    if best is not None:
        again = [*search.argv, *to_flags(best.params), "--output_dir", str(search.folder / "best")]
        result["best"] = {**_row(best), "again": f"nip {search.command} {shlex.join(again)}"}
    return result


def _row(trial: FrozenTrial) -> dict[str, Any]:
    return {
        "trial": original_number(trial),
        "state": trial.state.name.lower(),
        "value": trial.value if trial.state == TrialState.COMPLETE else None,
        "parameters": params_of(trial),
        "evaluations": list(trial.intermediate_values.values()),
        "seconds": trial.duration.total_seconds() if trial.duration is not None else None,
        "folder": trial.user_attrs.get("folder"),
        "error": trial.user_attrs.get("error"),
        "log": trial.user_attrs.get("log"),
    }
