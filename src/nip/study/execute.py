"""The runs of a plan, executed here or on a dask cluster; `nip.study.submission` has SLURM.

Wherever a run goes, it becomes a process of its own (`nip.study.worker`) that writes to its run folder in the study's;
so a cluster must see that folder, the data and an installed ``nip``. A run that fails is named and the others go on.
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
        Of the run.
    error : str or None
        The last thing it said, where it failed.
    seconds : float
        How long it took here.
    log : str
        The file with all that it said.
    """

    name: str
    error: str | None
    seconds: float
    log: str


@dataclass(frozen=True)
class Job:
    """A run to be executed; calling it does.

    Parameters
    ----------
    study : str
        The study's folder.
    name : str
        The run's.
    command : tuple of str, default=()
        What is started with the two as its last arguments; empty: `nip.study.worker` under this Python.
    threads : int or None
        Threads that the run may use; None: what the environment says.
    """

    study: str
    name: str
    command: tuple[str, ...] = ()
    threads: int | None = None

    @property
    def log(self) -> Path:
        """The file that takes what the process says."""
        return Path(self.study) / LOGS / f"{self.name}.log"

    def __call__(self, stop: threading.Event | None = None) -> Outcome:
        """Start the process and wait for it; kill it once `stop` is set."""
        command = self.command or (sys.executable, "-m", "nip.study.worker")
        environment = dict(os.environ)
        if self.threads is not None:
            environment.setdefault("OMP_NUM_THREADS", str(self.threads))
        began = time.monotonic()
        with Worker([*command, self.study, self.name], self.log, environment=environment) as worker:
            while stop is None or not stop.is_set():
                with suppress(subprocess.TimeoutExpired):
                    worker.wait(timeout=0.5)
                    break
        return Outcome(self.name, worker.error(), time.monotonic() - began, str(self.log))

    def checkpoint(self, *_: Any) -> Any:
        """What submitit queues anew when SLURM ends a job at its time limit: the same run, which goes on by itself."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def here(workers: int = 1) -> Performer:
    """Execute on this machine, `workers` runs at a time, which share the processors.

    Raises
    ------
    ValueError
        If that is no integer of at least 1.
    """
    if workers < 1:
        raise ValueError(f"--workers must be an integer of at least 1. Got {workers} instead.")

    def perform(jobs: Sequence[Job]) -> Iterator[Outcome]:
        stop = threading.Event()
        threads = max(1, usable_cores() // workers) if workers > 1 else None
        with ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(replace(job, threads=threads), stop) for job in jobs]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)

    return perform


def on_dask(address: str) -> Performer:
    """Execute on the workers of a dask scheduler, such as ``tcp://host:8786``; a lost worker's runs move to another.

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
                names[client.submit(job, pure=False, retries=2)] = job
            for future in distributed.as_completed(names):
                job = names[future]
                if future.status == "finished":
                    yield future.result()
                else:
                    yield Outcome(job.name, f"dask: {future.exception()}", 0.0, str(job.log))

    return perform
