"""Execution with a stand-in for training, given as a command: skipping, failing, being killed, and dask."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import filelock
import pytest

from nip.runs.folder import RunFolder, locked
from nip.study import worker
from nip.study.execute import Job, here, on_dask
from process_trees import DEADLINE, alive
from stand_in_runs import check_three, ran, stand_ins


@pytest.fixture
def jobs(tmp_path):
    def made(*names):
        return stand_ins(tmp_path, *names)

    return made


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_fails_is_named_and_the_others_go_on(jobs, tmp_path, workers):
    check_three(list(here(workers)(jobs("fails", "crashes", "a"))), tmp_path)
    assert sorted(ran(tmp_path)) == ["a", "crashes", "fails"]


def test_workers_share_the_processors(jobs, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    list(here(4)(jobs("a")))
    list(here(1)(jobs("b")))
    assert [line.split()[2] for line in (tmp_path / "ran.txt").read_text().splitlines()] == ["2", "None"]


def test_a_second_attempt_says_only_its_own_last_words(jobs, tmp_path):
    (job,) = jobs("fails")
    job.log.parent.mkdir()
    job.log.write_text("said before\n")
    assert job().error == "The loss is not finite."
    assert job.log.read_text().startswith("said before\n--- ")
    silent = Job(str(tmp_path), "silent", (sys.executable, "-c", "raise SystemExit(3)"))
    assert silent().error == "exited with code 3 and no output"


def test_leaving_early_kills_what_runs_and_starts_no_more(jobs, tmp_path):
    outcomes = here(1)(jobs("a", "sleeps", "b"))
    assert next(outcomes).name == "a"
    deadline = time.monotonic() + 60
    while "sleeps" not in ran(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    outcomes.close()
    while not dead(tmp_path, "sleeps"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert ran(tmp_path) == ["a", "sleeps"]


def dead(study: Path, name: str) -> bool:
    pid = next(int(line.split()[1]) for line in (study / "ran.txt").read_text().splitlines() if line.startswith(name))
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


def test_a_run_that_another_process_trains_is_waited_for(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    lock = filelock.FileLock(folder.lock)
    lock.acquire()

    def wait():
        with locked(folder.lock, wait=True):
            pass

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    waiting.join(0.3)
    assert waiting.is_alive()
    lock.release()
    waiting.join(30)
    assert not waiting.is_alive()


def test_a_worker_waits_before_it_trains(tmp_path, monkeypatch):
    called = []
    run = SimpleNamespace(name="a", config=None, data=None)
    monkeypatch.setattr(worker, "spin_briefly", lambda: None)
    monkeypatch.setattr(worker, "end_with_parent", lambda: None)
    monkeypatch.setattr("nip.study.panel.read_plan", lambda study: [run])

    def waited(file, *, wait):
        called.append(("wait", file))
        return nullcontext()

    monkeypatch.setattr("nip.runs.folder.locked", waited)
    monkeypatch.setattr("nip.lra.train", lambda config, out, data: called.append(("train", out)))
    assert worker.main([str(tmp_path), "a"]) == 0
    assert called == [("wait", tmp_path / "a" / ".lock"), ("train", tmp_path / "a")]


WATCHED = """
import os, sys, time
from pathlib import Path
from nip.runs.workers import end_with_parent
end_with_parent()
with (Path(sys.argv[-2]) / "ran.txt").open("a") as file:
    file.write(f"{sys.argv[-1]} {os.getpid()} -\\n")
time.sleep(600)
"""


def test_a_worker_ends_with_the_process_that_started_it_even_if_that_is_killed(tmp_path):
    program = (
        f"from nip.study.execute import Job, here; import sys; "
        f"list(here(1)([Job({str(tmp_path)!r}, 'watched', (sys.executable, '-c', {WATCHED!r}))]))"
    )
    driver = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 120
    while not (tmp_path / "ran.txt").exists() or not (tmp_path / "ran.txt").read_text().endswith("\n"):
        assert driver.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    assert not dead(tmp_path, "watched")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    while not dead(tmp_path, "watched"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_one_study_is_executed_once_at_a_time(tmp_path):
    with (
        locked(tmp_path / "study" / ".lock"),
        pytest.raises(ValueError, match="Another process is at work in"),
        locked(tmp_path / "study" / ".lock"),
    ):
        pass
    with locked(tmp_path / "study" / ".lock"):
        pass


def test_dask(jobs, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None, protocol="tcp://", host="127.0.0.1"
    ) as cluster:
        check_three(list(on_dask(cluster.scheduler_address)(jobs("fails", "crashes", "a"))), tmp_path)


CLIENT = """
import sys
from nip.study.execute import on_dask
from stand_in_runs import stand_ins
from pathlib import Path
list(on_dask(sys.argv[1])(stand_ins(Path(sys.argv[2]), "sleeps")))
"""


def test_the_run_of_a_client_that_is_killed_ends(tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, protocol="tcp://", host="127.0.0.1"
    ) as cluster:
        command = [sys.executable, "-c", CLIENT, cluster.scheduler_address, str(tmp_path)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        client = subprocess.Popen(command, env=environment)
        while not (tmp_path / "ran.txt").exists():
            assert client.poll() is None
            time.sleep(0.02)
        run = int((tmp_path / "ran.txt").read_text().split()[1])
        assert alive(run)
        client.kill()
        client.wait()
        deadline = time.monotonic() + DEADLINE
        while alive(run):
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.mark.slow
def test_no_scheduler_there(jobs):
    with pytest.raises(OSError, match=r"no dask scheduler at tcp://127\.0\.0\.1:1"):
        list(on_dask("tcp://127.0.0.1:1")(jobs("a")))


def test_what_submitit_queues_anew_is_the_same_run(jobs):
    pytest.importorskip("submitit")
    (job,) = jobs("a")
    assert job.checkpoint().function is job


def test_bad_input(jobs):
    with pytest.raises(ValueError, match="--workers must be an integer of at least 1"):
        here(0)
