"""What stands in for training where only the execution of runs is tested: a program that says that it ran."""

import sys
from pathlib import Path

from nip.study.execute import Job

# Appends a line to ran.txt; runs whose name begins so fail, crash, sleep, or wait for a file named go.
STAND_IN = """
import os, signal, sys, time
from pathlib import Path
study, name = Path(sys.argv[-2]), sys.argv[-1]
with (study / "ran.txt").open("a") as file:
    file.write(f"{name} {os.getpid()} {os.environ.get('OMP_NUM_THREADS')}\\n")
if name.startswith("fails"):
    print("one thing", file=sys.stderr)
    print("The loss is not finite.", file=sys.stderr)
    sys.exit(2)
if name.startswith("crashes"):
    os.kill(os.getpid(), signal.SIGKILL)
if name.startswith("sleeps"):
    while os.read(0, 1):
        pass
if name.startswith("waits"):
    while not (study / "go").exists():
        time.sleep(0.05)
(study / f"{name}.done").touch()
"""


def stand_ins(study: Path, *names: str) -> list[Job]:
    return [Job(str(study), name, (sys.executable, "-c", STAND_IN)) for name in names]


def ran(study: Path) -> list[str]:
    return [line.split()[0] for line in (study / "ran.txt").read_text().splitlines()]


def check_three(outcomes, study):
    by_name = {one.name: one for one in outcomes}
    assert set(by_name) == {"a", "fails", "crashes"}
    assert by_name["a"].error is None and (study / "a.done").exists()
    assert by_name["fails"].error == "The loss is not finite."
    assert "one thing" in Path(by_name["fails"].log).read_text()
    assert "signal 9" in by_name["crashes"].error
