"""Executes the runs of a plan on this machine or on a dask cluster; `nip.study.submission` is for SLURM.

Each run is a process of its own (`nip.study.worker`) that writes to its run folder inside the study's. A cluster needs
access to that folder, the data and an installed ``nip``. If a run fails, the others continue.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nip.processor import usable_cores
from nip.runs.workers import Worker

LOGS = "logs"

Performer = Callable[[Sequence["Job"]], Iterator["Outcome"]]


@dataclass(frozen=True)
class Outcome:
    """How the execution of a run ended.

    Parameters
    ----------
    name : str
        The run's name.
    error : str or None
        The last line of its output, if it failed.
    seconds : float
        Duration of this execution.
    log : str
        The file with its output.
    """

    name: str
    error: str | None
    seconds: float
    log: str


@dataclass(frozen=True)
class Job:
    """A run to be executed; calling the object executes it.

    Parameters
    ----------
    study : str
        The study's folder.
    name : str
        The run's.
    command : tuple of str, default=()
        The program, which gets study and name as its last arguments; empty means `nip.study.worker` under this Python.
    threads : int or None
        Threads of the run; None leaves ``OMP_NUM_THREADS`` as it is.
    """

    study: str
    name: str
    command: tuple[str, ...] = ()
    threads: int | None = None

    @property
    def log(self) -> Path:
        """The file with the output of the process."""
        return Path(self.study) / LOGS / f"{self.name}.log"

    def __call__(self, stopped: Callable[[], bool] | None = None) -> Outcome:
        """Start the process and wait for it; kill it once `stopped()` is true."""
        command = self.command or (sys.executable, "-m", "nip.study.worker")
        environment = dict(os.environ)
        if self.threads is not None:
            environment.setdefault("OMP_NUM_THREADS", str(self.threads))
        began = time.monotonic()
        with Worker([*command, self.study, self.name], self.log, environment=environment) as worker:
            while stopped is None or not stopped():
                with suppress(subprocess.TimeoutExpired):
                    worker.wait(timeout=0.5)
                    break
        return Outcome(self.name, worker.error(), time.monotonic() - began, str(self.log))

    def checkpoint(self, *_: Any) -> Any:
        """What submitit queues again when SLURM ends a job at its time limit: the same run, which resumes."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def here(workers: int = 1) -> Performer:
    """Execute on this machine, `workers` runs at a time, which share the cores.

    Raises
    ------
    ValueError
        If `workers` is below 1.
    """
    if workers < 1:
        raise ValueError(f"--workers must be an integer of at least 1. Got {workers} instead.")

    def perform(jobs: Sequence[Job]) -> Iterator[Outcome]:
        stop = threading.Event()
        threads = max(1, usable_cores() // workers) if workers > 1 else None
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(replace(job, threads=threads), stop.is_set) for job in jobs]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)

    return perform


def _on_dask_worker(job: Job) -> Outcome:
    """Execute a job in a worker of dask, and end it once the task is cancelled, as when the client is killed."""
    worker: Any = importlib.import_module("distributed").get_worker()
    key = worker.get_current_task()

    def cancelled() -> bool:
        task = worker.state.tasks.get(key)
        return task is None or task.state == "cancelled"

    return job(cancelled)


def on_dask(address: str) -> Performer:
    """Execute on the workers of a dask scheduler, such as ``tcp://host:8786``; runs of a lost worker move to another.

    Raises
    ------
    ImportError
        If dask is not installed.
    OSError
        If there is no scheduler at that address.
    """
    try:
        distributed: Any = importlib.import_module("distributed")
    except ImportError as error:
        raise ImportError("A dask cluster needs dask: pip install 'nip[cluster]'.") from error

    def perform(jobs: Sequence[Job]) -> Iterator[Outcome]:
        try:
            client = distributed.Client(address, timeout=20)
        except (OSError, ValueError) as error:
            raise OSError(f"There is no dask scheduler at {address}: {error}") from error
        with client:
            names = {}
            for job in jobs:
                names[client.submit(_on_dask_worker, job, pure=False, retries=2)] = job
            for future in distributed.as_completed(names):
                job = names[future]
                if future.status == "finished":
                    yield future.result()
                else:
                    yield Outcome(job.name, f"dask: {future.exception()}", 0.0, str(job.log))

    return perform
