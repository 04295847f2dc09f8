import dataclasses
import json
import os
import resource
import subprocess
import sys

import pytest
import torch

from nip.runs.process import peak_mib, spin_briefly

# How many pages the system hands out while a 64 MiB tensor is made and freed again and again.
CODE = """
import resource, sys, torch
from nip.runs.process import keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(3):
    torch.ones(1 << 24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(1 << 24)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is glibc's")
def test_freed_memory_is_used_again():
    def fresh_bytes(how):
        done = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert resource.getpagesize() > 0
    # the least of several: a system that is short of memory may take pages away in between
    assert min(fresh_bytes("keep") for _ in range(4)) < 2**24
    assert fresh_bytes("give back") > 2**28


PEAK = """
import numpy as np, torch
from nip.runs.process import peak_mib
cpu = torch.device("cpu")
before = peak_mib(cpu)
held = np.ones(1 << 26)
del held
print(before, peak_mib(cpu))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
def test_the_peak_of_memory_is_in_mib_and_stays_when_memory_is_freed():
    ballast = bytes(1 << 30)  # of the process that starts the other, which is not to count
    assert len(ballast) == 1 << 30
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    before, after = map(float, done.stdout.split())
    assert 50 < before < 2000
    assert before + 100 < after < before + 600  # 512 MiB beside what torch left free after it was imported
    assert after > 512


def test_a_gpu_tells_its_own_peak(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 << 20)
    assert peak_mib(torch.device("cuda")) == 3.0


# The memory of a training process after every hundredth step, in bytes.
WATCHED = """
import json, resource, sys
from pathlib import Path
from nip.lra import RunConfig, train
from nip.training import trainer

true_step, resident = trainer.train_step, []

def train_step(state, *arguments, **options):
    if state.progress.step % 100 == 0:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident.append(pages * resource.getpagesize())
    return true_step(state, *arguments, **options)

trainer.train_step = train_step
order = json.loads(sys.argv[1])
train(RunConfig(**order["config"]), Path(order["out"]), data=Path(order["data"]))
print(json.dumps(resident))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_memory_stays_flat_over_ten_thousand_steps(config, data, tmp_path):
    config = dataclasses.replace(config, max_steps=10_000, eval_every=100, gradient_accumulation=1, layers=1, ema=0.99)
    order = {"config": dataclasses.asdict(config), "out": str(tmp_path / "run"), "data": str(data)}
    command = [sys.executable, "-c", WATCHED, json.dumps(order)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    resident = json.loads(done.stdout)
    print([round(each / 2**20, 1) for each in resident[9::10]])
    assert len(resident) == 100
    # 100 evaluations and checkpoints; a kilobyte a step that were kept would be nine megabytes, and half of it in the
    # second half, when allocators have settled
    assert max(resident[10:]) - resident[10] < 4 * 2**20, resident
    assert max(resident[50:]) - resident[50] < 2**20, resident


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({}, {"GOMP_SPINCOUNT": "3000"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
        ({"GOMP_SPINCOUNT": "9"}, {"GOMP_SPINCOUNT": "9"}),
    ],
)
def test_threads_spin_briefly_unless_the_user_says_otherwise(monkeypatch, given, left):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that it is restored whatever the function does
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    spin_briefly()
    assert {name: os.environ[name] for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT") if name in os.environ} == left


@pytest.mark.parametrize("command", [["lra"], ["bench", "attention"], ["bench", "step"]], ids=" ".join)
def test_commands_ask_for_it_before_torch_is_there(command):
    code = (
        "import sys\n"
        "from nip.runs import process\n"
        "process.spin_briefly = lambda *_: sys.exit(7 if 'torch' not in sys.modules else 1)\n"
        "from nip.cli import main\n"
        f"main({command})"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 7
