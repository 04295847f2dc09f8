"""Child processes: their log, their last words, and their end."""

import os
import sys
import textwrap
import time

import pytest

from nip.runs.workers import Worker, run_module
from process_trees import SIGNALS, alive, check_children_end


def test_the_error_is_the_last_line_of_this_process(tmp_path):
    log = tmp_path / "logs" / "a.log"
    for program, error in (
        ("print('fine')", None),
        ("import sys; print('one thing'); print('  another  \\n'); sys.exit(3)", "another"),
        ("import sys; sys.exit(3)", "exited with code 3 and no output"),
        (
            "import os; print('so far', flush=True); os.kill(os.getpid(), 9)",
            "killed by signal 9; last line of output: so far",
        ),
        ("import os; os.kill(os.getpid(), 9)", "killed by signal 9"),
    ):
        with Worker([sys.executable, "-c", program], log, title="a title") as worker:
            worker.wait()
        assert worker.error() == error
    assert log.read_text().count(" a title\n") == 5


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_end_of_the_block_kills_the_worker_and_what_it_started(tmp_path):
    inner = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    log = tmp_path / "a.log"
    with Worker([sys.executable, "-c", outer], log) as worker:
        while not (lines := log.read_text().splitlines()[1:]):
            time.sleep(0.02)
    assert worker.returncode == -9
    deadline = time.monotonic() + 60
    while alive(int(lines[0])):
        assert time.monotonic() < deadline
        time.sleep(0.02)


SLEEP = "import time; time.sleep(600)"
WATCHED = f"from nip.runs.workers import end_with_parent; end_with_parent(); {SLEEP}"
PROGRAMS = {
    "a worker": f"""
        import sys
        from pathlib import Path
        from nip.runs.workers import Worker
        with Worker([sys.executable, "-c", {WATCHED!r}], Path(sys.argv[1])) as worker:
            worker.wait()
    """,
    "a module": """
        from nip.runs.workers import run_module
        run_module("timeit", ["-n", "1", "-r", "1", "__import__('time').sleep(600)"])
    """,
    "a forked process and one that it forks": """
        import multiprocessing, time
        from nip.runs.workers import watch_in_forked_children
        watch_in_forked_children()
        fork = multiprocessing.get_context("fork").Process
        def start_another():
            fork(target=time.sleep, args=(600,)).start()
            time.sleep(600)
        fork(target=start_another).start()
        time.sleep(600)
    """,
    "joblib's processes": """
        import joblib, os, time
        from nip.runs.workers import end_with
        parallel = joblib.Parallel(n_jobs=2, initializer=end_with, initargs=(os.getpid(),))
        parallel(joblib.delayed(time.sleep)(600) for _ in range(2))
    """,
}
NUMBERS = {"a worker": 1, "a module": 1, "a forked process and one that it forks": 2, "joblib's processes": 2}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("with_signal", SIGNALS)
@pytest.mark.parametrize("name", PROGRAMS)
def test_children_end_with_their_parent(tmp_path, name, with_signal):
    program = textwrap.dedent(PROGRAMS[name])
    wanted = "popen_loky" if name == "joblib's processes" else ""
    command = [sys.executable, "-c", program, tmp_path / "log"]
    check_children_end(command, NUMBERS[name], wanted, with_signal=with_signal)


def test_a_module_is_run_to_its_end():
    made = run_module("json.tool", ["--no-such-option"])
    assert made.returncode == 2 and "--no-such-option" in made.stderr
    made = run_module("this", [], environment={**os.environ, "PYTHONIOENCODING": "utf-8"})
    assert made.returncode == 0 and "Explicit is better than implicit." in made.stdout
