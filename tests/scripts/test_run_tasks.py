"""The original's run_tasks.py, run in its folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nip.cli.compat.lra_flags import lra_arguments
from nip.data import Rule, build_listops

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_train_then_test_alone(tmp_path):
    build_listops(tmp_path / "data", Rule(min_length=4, max_length=60), (60, 10, 13), seed=1)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "NIP_DATA": str(tmp_path / "data"),
        "NIP_RUNS": str(tmp_path / "runs"),
    }
    small = "--seq_len 64 --block_size 8 --batch_size 4 --max_steps 4 --eval_every 2 --eval-steps 2"
    command = [sys.executable, "run_tasks.py", "--model", "local", "--task", "listops", "--seed", "7", *small.split()]

    def run(*more):
        return subprocess.run([*command, *more], cwd=SCRIPTS, env=environment, capture_output=True, text=True)

    trained = run()
    assert trained.returncode == 0, trained.stderr
    folder = tmp_path / "runs" / "listops-local-seed7"
    config = json.loads((folder / "config.json").read_text())
    assert config["protocol"] == "original" and config["eval_steps"] == 2
    result = json.loads((folder / "result.json").read_text())
    assert result["n_test"] == 12  # of 13: batches of 4
    lines = [json.loads(line) for line in (folder / "listops_local_output.log").read_text().splitlines()]
    assert [line["component"] for line in lines] == ["train", "dev", "train", "dev", "test"]
    assert set(lines[0]) == {"train_step_idx", "loss", "accu", "best_accu", "component", "t"}
    assert lines[-1]["accu"] == round(result["test_accuracy"], 4)
    tested = subprocess.run(
        [*command, "--skip_train", "1"], cwd=SCRIPTS, env=environment, capture_output=True, text=True
    )
    assert tested.returncode == 0, tested.stderr
    assert tested.stdout == trained.stdout
    assert (folder / "result.json").read_text() == json.dumps(result, indent=2, ensure_ascii=False) + "\n"


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    build_listops(tmp_path / "data", Rule(min_length=4, max_length=60), (60, 10, 13), seed=1)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NIP_DATA": str(tmp_path / "data")}
    small = "--seq_len 64 --block_size 8 --batch_size 8 --max_steps 6 --eval_every 3 --learning_rate 1e-3 --dropout 0"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for name, launcher in (("one", []), ("two", torchrun)):
        command = [sys.executable, *launcher, "run_tasks.py", "--protocol", "clean", *small.split()]
        command += ["--out", str(tmp_path / name)]
        done = subprocess.run(command, cwd=SCRIPTS, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("Test accuracy") == 1  # one process reports

    def rows(name):
        return [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]

    assert len(rows("one")) == len(rows("two")) == 9
    for one, two in zip(rows("one"), rows("two"), strict=True):
        assert {**one, "loss": 0, "seconds": 0} == {**two, "loss": 0, "seconds": 0}
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)  # sums in another order


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--skip_train 0 --seed 3", "--seed 3"),
        ("--skip_train=1", "--skip-train"),
        ("--skip-train --seed 3", "--skip-train --seed 3"),
        ("--max_steps=7 --batch_size 2", "--max-steps=7 --batch-size 2"),
        ("--model local+random --param num_random_blocks=2", "--model local+random --param num_random_blocks=2"),
    ],
)
def test_old_spellings(typed, meant):
    assert lra_arguments(typed.split()) == ["--protocol", "original", "--original-log", *meant.split()]


def test_the_protocol_may_be_named():
    assert lra_arguments(["--protocol", "clean"]) == ["--original-log", "--protocol", "clean"]
    with pytest.raises(ValueError, match=r"--skip_train takes 0 or 1\. Got 'yes'"):
        lra_arguments(["--skip_train", "yes"])
