"""Executes the runs of a plan as jobs of submitit, usually on SLURM.

Jobs outlive the command that submitted them. Their ids are stored in the study's folder, so that the next command waits
for those that are still queued or running, instead of submitting the same runs again.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nip.runs.folder import write_json
from nip.study.execute import Job, Outcome, Performer

JOBS = "jobs"
SUBMITTED = "submitted.json"


def on_submitit(cluster: str, options: Mapping[str, Any]) -> Performer:
    """Execute as jobs of submitit: ``slurm``, or ``local`` and ``debug`` to test on one machine.

    Parameters
    ----------
    cluster : {"slurm", "local", "debug"}
    options : mapping
        Of `submitit.AutoExecutor.update_parameters`: ``timeout_min``, ``cpus_per_task``, ``slurm_partition`` …

    Raises
    ------
    ImportError
        If submitit is not installed.
    ValueError
        If the cluster or an option is unknown.
    """
    if cluster not in ("slurm", "local", "debug"):
        raise ValueError(f"--submitit must be one of slurm, local, debug. Got {cluster!r} instead.")
    try:
        import submitit
    except ImportError as error:
        raise ImportError("SLURM needs submitit: pip install 'nip[cluster]'.") from error

    def perform(jobs: Sequence[Job]) -> Iterator[Outcome]:
        if not jobs:
            return
        folder = Path(jobs[0].study) / JOBS
        try:
            executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            executor.update_parameters(name="nip-study", **options)
        except (RuntimeError, NameError, TypeError, AssertionError) as error:
            raise ValueError(f"submitit refuses: {error}") from error
        numbers = read_submitted(folder, cluster)
        at_work: dict[Job, Any] = {}
        for job in jobs:
            handle = still_there(folder, cluster, numbers.get(job.name))
            if handle is not None:
                at_work[job] = handle
                print(f"{job.name} is already job {handle.job_id}: not submitted again.", file=sys.stderr)
        new = [job for job in jobs if job not in at_work]
        if new:
            with executor.batch():
                submitted = {job: executor.submit(job) for job in new}
            at_work |= submitted
            numbers |= {job.name: str(handle.job_id) for job, handle in submitted.items()}
            folder.mkdir(parents=True, exist_ok=True)  # submitit's debug executor does not create it
            write_json(folder / SUBMITTED, {"cluster": cluster, "jobs": numbers})
        while at_work:
            for job, handle in list(at_work.items()):
                if handle.done():
                    del at_work[job]
                    yield _result(job, handle)
            if at_work:
                time.sleep(1.0)

    return perform


def read_submitted(folder: Path, cluster: str) -> dict[str, str]:
    """The ids of the jobs that were submitted to a cluster, by the runs' names."""
    path = folder / SUBMITTED
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
        return dict(found["jobs"]) if found["cluster"] == cluster else {}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged: {error}. Remove it once no job of the study is left.") from error


def still_there(folder: Path, cluster: str, number: str | None) -> Any:
    """The job of that id if it is queued or running; None if it has ended or is unknown.

    Parameters
    ----------
    folder : Path
        Of the study's jobs.
    cluster : {"slurm", "local", "debug"}
    number : str or None
        The job's id.
    """
    if number is None or cluster == "debug":
        return None
    from submitit import SlurmJob
    from submitit.local.local import LocalJob

    if cluster == "slurm":
        job: SlurmJob[Outcome] = SlurmJob(folder=folder, job_id=number)
        known = job.watcher.get_state(number, mode="force") != "UNKNOWN"
        return None if job.done() or not known else job

    class Found(LocalJob[Outcome]):
        """A job on this machine; submitit itself only knows the children of this process."""

        def done(self, force_check: bool = False) -> bool:
            return self.paths.result_pickle.exists() or not _is_submitit(int(self.job_id))

    local = Found(folder=folder, job_id=number)
    return None if local.done() else local


def _is_submitit(process: int) -> bool:
    try:
        os.kill(process, 0)
        return b"submitit" in Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False


def _result(job: Job, handle: Any) -> Outcome:
    try:
        outcome: Outcome = handle.result()
    except Exception as error:  # submitit's own exceptions, and any that the job raised
        last = str(error).strip().split("\n")[-1]
        return Outcome(job.name, f"submitit job {handle.job_id}: {last}", 0.0, str(handle.paths.stderr))
    return outcome
