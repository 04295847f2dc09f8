"""Search for the settings that finetune best: every trial a run of its own, stopped where it falls behind.

``nip hpo COMMAND FLAG …`` performs the trials (`search.trial`) that `search.study` hands out,
here or on every machine that is given the same storage, and writes a page of what came of them.

The process of a trial: what it runs under, what it has come to, how it is ended, what is left of it.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import optuna
from optuna.trial import FrozenTrial, TrialState

from nip.finetuning.arguments import print_notice
from nip.finetuning.search.arguments import Search
from nip.finetuning.search.page import write_page
from nip.finetuning.search.space import Range, as_words, size, suggest
from nip.finetuning.search.study import (
    HEARTBEAT,
    ask,
    close_duplicate,
    close_lost,
    counted,
    first_number,
    open_storage,
    open_study,
    point_of,
    queue_grid,
    remember,
    retry_failed,
)
from nip.processor import usable_cores
from nip.runs.folder import read_metrics, write_json
from nip.runs.workers import Worker


def evaluations(metrics: Path, metric: str) -> list[float]:
    """What a run's evaluations on the development set have come to so far."""
    if not metrics.is_file():
        return []
    rows = [row for row in read_metrics(metrics) if row["split"] == "dev"]
    return [row[metric] for row in rows if row.get(metric) is not None]


def environment(workers: int, index: int) -> dict[str, str]:
    """Each worker with its share of the processors and, in turn, a GPU."""
    import torch

    environment = dict(os.environ)
    if workers > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // workers)))
        devices = environment.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count()))))
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = devices.split(",")[index % len(devices.split(","))]
    return environment


def value_of(folder: Path, metric: str) -> tuple[float | None, str | None]:
    """What a finished run has come to, or what is wrong."""
    measured = json.loads((folder / "result.json").read_text("utf-8"))["metrics"]
    value = measured.get(metric)
    if value is None:
        return None, f"the run has no metric {metric!r}; it has {', '.join(measured)}"
    if value != value:  # noqa: PLR0124 (not a number)
        return None, f"its {metric} is not a number"
    return float(value), None


def leave_only_figures(folder: Path) -> None:
    """Delete what fills a disk: a run's checkpoints and weights."""
    drop(folder, "checkpoint-*", "*.safetensors", "*.safetensors.index.json", "*.bin")


def drop(folder: Path, *patterns: str) -> None:
    """Delete files and folders of these names from a run's folder."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


TRIALS, LOCKS = "trials", ".locks"
PROGRAM = (sys.executable, "-m", "nip.finetuning.search.trial")
BAD_INPUT = 2


@dataclass
class _Work:
    """What the workers of this process share."""

    search: Search
    storage: Any
    study: optuna.Study
    lock: str
    program: tuple[str, ...]
    asking: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)


def run_search(search: Search, program: Sequence[str] = PROGRAM) -> dict[str, Any]:
    """Perform a search, or what is left of it; what came of it, as ``search.json`` holds it.

    Parameters
    ----------
    search : Search
    program : sequence of str
        What performs a trial: it is started with the command and its flags.

    Raises
    ------
    ValueError
        If the study is another search's, or the first trial finds the command's input wrong.
    OSError, ImportError
        If the storage cannot be reached.
    """
    out = search.folder
    (out / TRIALS).mkdir(parents=True, exist_ok=True)
    (out / LOCKS).mkdir(exist_ok=True)
    storage = open_storage(search.storage)
    study = open_study(storage, search.study, search.direction, search.pruner)
    remember(study, search.described())
    lock = out / LOCKS / f"{uuid.uuid4().hex}.lock"
    with filelock.FileLock(lock):
        work = _Work(search, storage, study, str(lock), tuple(program))
        close_lost(study)
        if search.retry_failed:
            retry_failed(study)
        if search.sampler == "grid":
            queue_grid(study, search.space, search.seed, search.trials)
        before = len(_in_state(study, TrialState.COMPLETE))
        if before:
            print_notice(f"going on after {before} finished trials")
        _perform_all(work)
    lock.unlink(missing_ok=True)
    found = outcome(search, study)
    write_json(out / "search.json", found)
    write_page(study, found, out / "search.html")
    return found


def _perform_all(work: _Work) -> None:
    with ThreadPoolExecutor(work.search.workers) as pool:
        futures = [pool.submit(_worker, work, index) for index in range(work.search.workers)]
        try:
            for future in futures:
                future.result()
        finally:  # one that has failed, or an interrupt, ends all
            work.stop.set()


def _worker(work: _Work, index: int) -> None:
    search, study = work.search, work.study
    try:
        while not work.stop.is_set():
            with work.asking:
                close_lost(study)
                trial = ask(study, search.space, search.sampler, search.trials, search.seed)
                if trial is None:
                    return
                trial.set_user_attr("host", socket.gethostname())
                trial.set_user_attr("lock", work.lock)
                suggest(trial, search.space)
                if close_duplicate(study, trial, search.space, search.sampler, search.trials):
                    continue
            try:
                _perform(work, trial, index)
            except optuna.exceptions.UpdateFinishedTrialError:
                print_notice(
                    f"trial {trial.number} was taken for lost meanwhile, having been out of reach: it comes again"
                )
    except BaseException:
        work.stop.set()
        raise


def _perform(work: _Work, trial: optuna.Trial, index: int) -> None:
    """One trial, in a process of its own."""
    search, study = work.search, work.study
    number = trial.user_attrs.get("retry_of", trial.number)
    folder = search.folder / TRIALS / f"{number:04d}"
    log = folder.with_suffix(".log")
    words = [search.command, *search.words, *as_words(trial.params), "--output_dir", str(folder)]
    trial.set_user_attr("folder", str(folder))
    said = " ".join(f"{name}={value}" for name, value in trial.params.items() if _varies(search.space[name]))
    print_notice(f"trial {number} begins: {said}")
    command = [*work.program, *words]
    title = f"nip {shlex.join(words)}"
    with Worker(command, log, title=title, environment=environment(search.workers, index)) as process:
        pruned = _watch(work, trial, process, folder / "metrics.jsonl")
    if work.stop.is_set() and not pruned and process.returncode != 0:
        _close(study, trial, state=TrialState.FAIL)  # without an error: it is lost, and comes again
        return
    if pruned:
        _close(study, trial, state=TrialState.PRUNED)
        print_notice(f"trial {number} is stopped: it has fallen behind")
        leave_only_figures(folder)
        return
    value, error = None, None
    if process.returncode == 0:
        value, error = value_of(folder, search.metric)
    else:
        error = process.error()
    if process.returncode == BAD_INPUT and not _in_state(study, TrialState.COMPLETE, TrialState.PRUNED):
        trial.set_user_attr("void", error)
        _close(study, trial, state=TrialState.FAIL)
        raise ValueError(str(error))  # what is wrong with the first is wrong with all
    if error is not None or value is None:
        trial.set_user_attr("error", error)
        trial.set_user_attr("log", str(log))
        _close(study, trial, state=TrialState.FAIL)
        print_notice(f"trial {number} has failed: {error} ({log})")
        return
    _close(study, trial, value)
    print_notice(f"trial {number} comes to {search.metric} {value:.4f}; the best is {study.best_value:.4f}")
    _keep_best(study, search)


def _close(
    study: optuna.Study, trial: optuna.Trial, value: float | None = None, state: TrialState | None = None
) -> None:
    try:
        study.tell(trial, value, state)
    except ValueError as error:
        if study._storage.get_trial(trial._trial_id).state.is_finished():
            raise optuna.exceptions.UpdateFinishedTrialError from error
        raise


def _varies(entry: Any) -> bool:
    return isinstance(entry, Range) or len(entry) > 1


def _watch(work: _Work, trial: optuna.Trial, process: Worker, metrics: Path) -> bool:
    """Wait for a trial's end, hand its evaluations on, and say whether it is to be stopped early."""
    told, beat = 0, 0.0
    while True:
        if time.monotonic() - beat > HEARTBEAT / 2:
            work.storage.record_heartbeat(trial._trial_id)
            beat = time.monotonic()
        try:
            process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            if work.stop.is_set():
                return False
        values = evaluations(metrics, work.search.metric)
        for step, value in enumerate(values[told:], told + 1):
            trial.report(value, step)
            if trial.should_prune() and process.poll() is None:
                return True
        told = len(values)
        if process.poll() is not None:
            return False


def _in_state(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    return [trial for trial in counted(study.get_trials(deepcopy=False)) if trial.state in states]


def _keep_best(study: optuna.Study, search: Search) -> None:
    """Of finished trials only the best keeps its weights: a search of a large model would fill any disk."""
    finished = _in_state(study, TrialState.COMPLETE)  # looked at once: others finish meanwhile
    best = best_of(finished, study)
    for trial in finished:
        folder = search.folder / TRIALS / f"{first_number(trial):04d}"
        if search.keep_all or not folder.is_dir():
            continue
        if best is not None and trial.number == best.number:
            drop(folder, "checkpoint-*")
        else:
            leave_only_figures(folder)


def best_of(finished: Sequence[FrozenTrial], study: optuna.Study) -> FrozenTrial | None:
    """The trial of the best value, the earlier of equals."""
    sign = 1 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1
    return min(finished, key=lambda trial: (sign * (trial.value or 0.0), first_number(trial)), default=None)


def outcome(search: Search, study: optuna.Study) -> dict[str, Any]:
    """What came of a search, as JSON values."""
    trials = sorted(counted(study.get_trials(deepcopy=False)), key=first_number)
    best = best_of([trial for trial in trials if trial.state == TrialState.COMPLETE], study)
    rows = [_row(trial) for trial in trials]
    found: dict[str, Any] = {
        "command": search.command,
        "study": search.study,
        "metric": search.metric,
        "direction": search.direction,
        "sampler": search.sampler,
        "points": None if size(search.space) == float("inf") else int(size(search.space)),
        "counts": {
            state.name.lower(): sum(trial.state == state for trial in trials)
            for state in (
                TrialState.COMPLETE,
                TrialState.PRUNED,
                TrialState.FAIL,
                TrialState.RUNNING,
                TrialState.WAITING,
            )
        },
        "best": None,
        "failed": [row for row in rows if row["state"] == "fail"],
        "trials": rows,
    }
    if best is not None:
        again = [*search.words, *as_words(best.params), "--output_dir", str(search.folder / "best")]
        found["best"] = {**_row(best), "again": f"nip {search.command} {shlex.join(again)}"}
    return found


def _row(trial: FrozenTrial) -> dict[str, Any]:
    seconds = trial.duration.total_seconds() if trial.duration is not None else None
    return {
        "trial": first_number(trial),
        "state": trial.state.name.lower(),
        "value": trial.value if trial.state == TrialState.COMPLETE else None,
        "parameters": point_of(trial),
        "evaluations": list(trial.intermediate_values.values()),
        "seconds": seconds,
        "folder": trial.user_attrs.get("folder"),
        "error": trial.user_attrs.get("error"),
        "log": trial.user_attrs.get("log"),
    }


def main(words: Sequence[str], program: str = "nip hpo") -> dict[str, Any]:
    """Search as a command line says, and print what came of it; the exit code is 1 where no trial has finished.

    Raises
    ------
    ValueError, OSError, ImportError
        One sentence about what is wrong, before long work.
    """
    from nip.finetuning.search.arguments import read_search

    search = read_search(words, program)
    found = run_search(search)
    if search.json:
        print(json.dumps(found, allow_nan=False, indent=2))
    else:
        best = found["best"]
        counts = ", ".join(f"{n} {name}" for name, n in found["counts"].items() if n)
        print(f"{counts or 'no trials'}")
        if best is not None:
            print(f"best: trial {best['trial']}, {found['metric']} {best['value']:.4f}, {best['folder']}")
            print(best["again"])
        print(search.folder / "search.html")
    for row in found["failed"]:
        print_notice(f"trial {row['trial']} has failed: {row['error']} ({row['log']})")
    if found["best"] is None:
        sys.exit(1)
    return found
