"""Execution through submitit, with a stand-in for training, and with stand-ins for SLURM's commands."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nip.study.submission import on_submitit, read_submitted, still_there
from stand_in_runs import check_three, ran, stand_ins

submitit = pytest.importorskip("submitit")


def test_in_this_process(tmp_path):
    check_three(list(on_submitit("debug", {})(stand_ins(tmp_path, "fails", "crashes", "a"))), tmp_path)


@pytest.mark.slow
def test_in_processes_of_their_own(tmp_path):
    jobs = stand_ins(tmp_path, "fails", "crashes", "a")
    check_three(list(on_submitit("local", {"timeout_min": 5})(jobs)), tmp_path)
    assert set(read_submitted(tmp_path / "jobs", "local")) == {"a", "crashes", "fails"}
    # all have ended, so that they are submitted again
    check_three(list(on_submitit("local", {"timeout_min": 5})(jobs)), tmp_path)
    assert sorted(ran(tmp_path)) == ["a", "a", "crashes", "crashes", "fails", "fails"]


DRIVER = """
import sys
from pathlib import Path
from nip.study.submission import on_submitit
from stand_in_runs import stand_ins
list(on_submitit("local", {"timeout_min": 5})(stand_ins(Path(sys.argv[1]), "waits")))
"""


@pytest.mark.slow
def test_jobs_that_outlived_a_killed_command_are_waited_for(tmp_path, capsys):
    tests = str(Path(__file__).parents[1])
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": tests},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "ran.txt").exists() or not (tmp_path / "jobs" / "submitted.json").exists():
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    outcomes = []
    for outcome in on_submitit("local", {"timeout_min": 5})(Going(tmp_path, stand_ins(tmp_path, "waits", "b"))):
        outcomes.append(outcome)
    assert {(one.name, one.error) for one in outcomes} == {("waits", None), ("b", None)}
    assert sorted(ran(tmp_path)) == ["b", "waits"]  # neither was started twice
    assert "waits is job" in capsys.readouterr().err
    assert set(read_submitted(tmp_path / "jobs", "local")) == {"b", "waits"}


class Going(list):
    """Jobs that let the one that waits come to its end once they have been looked at."""

    def __init__(self, study, jobs):
        super().__init__(jobs)
        self.study = study

    def __iter__(self):
        yield from super().__iter__()
        (self.study / "go").touch()


@pytest.mark.parametrize(
    ("state", "there"), [("RUNNING", True), ("PENDING", True), ("COMPLETED", False), ("TIMEOUT", False), (None, False)]
)
def test_slurm_is_asked_for_its_jobs(state, there, tmp_path, monkeypatch):
    sacct = tmp_path / "sacct"
    line = "" if state is None else f"echo '{77}_{len(state)}|{state}|node1'"
    sacct.write_text(f"#!/bin/sh\necho 'JobID|State|NodeList'\n{line}\n")
    sacct.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    submitit.SlurmJob.watcher.clear()
    found = still_there(tmp_path, "slurm", f"77_{len(state or '')}")
    assert (found is not None) == there
    assert still_there(tmp_path, "slurm", None) is None


def test_what_was_submitted_elsewhere_is_no_job_here(tmp_path):
    (tmp_path / "submitted.json").write_text(json.dumps({"cluster": "slurm", "jobs": {"a": "7"}}))
    assert read_submitted(tmp_path, "slurm") == {"a": "7"}
    assert read_submitted(tmp_path, "local") == {}
    (tmp_path / "submitted.json").write_text("[")
    with pytest.raises(ValueError, match=r"submitted\.json is damaged"):
        read_submitted(tmp_path, "slurm")


def test_a_number_that_another_process_has_by_now_is_no_job(tmp_path):
    assert still_there(tmp_path, "local", str(os.getpid())) is None


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="--submitit must be one of slurm, local, debug"):
        on_submitit("pbs", {})
    with pytest.raises(ValueError, match="submitit refuses"):
        list(on_submitit("local", {"partitions": 3})(stand_ins(tmp_path, "a")))
