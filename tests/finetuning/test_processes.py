"""Runs in separate processes: killed at random, and on two processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from finetuning_files import write_model, write_mrpc, write_text

pytestmark = pytest.mark.slow
SCRIPTS = Path(__file__).parents[2] / "scripts"
QUIET = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def same(one: Path, other: Path, tolerance: float) -> bool:
    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    return a.keys() == b.keys() and all((a[k] - b[k]).abs().max() <= tolerance for k in a)


def commands(tmp_path: Path, kind: str, **settings: Any) -> list[str]:
    model = write_model(tmp_path / "model", **settings)
    if kind == "glue":
        words = f"run_glue_sparse.py --task_name mrpc --data_dir {write_mrpc(tmp_path / 'MRPC', train=64)} "
    else:
        words = f"run_mlm_sparse.py --train_file {write_text(tmp_path / 'a.txt', 200)} "
        words += "--streaming --line_by_line " if kind == "stream" else ""
    words += f"--model_name_or_path {model} --max_seq_length 16 --block_size 4 --do_train --seed 2 --learning_rate 1e-3"
    return [str(SCRIPTS / words.split()[0]), *words.split()[1:]]


@pytest.mark.parametrize("kind", ["glue", "mlm", "stream"])
def test_two_processes_equal_one_with_both_batches(kind: str, tmp_path: Path):
    """The loss neither doubled nor halved: every step's loss and the weights are those of one process."""
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    words = [*commands(tmp_path, kind, **still), "--max_steps", "6", "--use_cpu"]
    one, two = tmp_path / "one", tmp_path / "two"
    alone = [*words, "--output_dir", str(one), "--per_device_train_batch_size", "8"]
    subprocess.run([sys.executable, *alone], env=QUIET, check=True, timeout=280)
    both = [*words, "--output_dir", str(two), "--per_device_train_batch_size", "4"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*launcher, *both], env=QUIET, check=True, timeout=280)
    for single, double in zip(rows(one), rows(two), strict=True):
        assert single["loss"] == pytest.approx(double["loss"], rel=1e-4)
    assert same(one, two, 2e-5)


@pytest.mark.parametrize("kind", ["glue", "mlm"])
def test_a_run_killed_repeatedly_gives_the_same_result(kind: str, tmp_path: Path):
    words = [*commands(tmp_path, kind), "--max_steps", "60", "--save_steps", "5", "--save_total_limit", "2"]
    words += ["--logging_steps", "7", "--overwrite_output_dir"]
    full, killed = tmp_path / "full", tmp_path / "killed"
    subprocess.run([sys.executable, *words, "--output_dir", str(full)], env=QUIET, check=True, timeout=280)
    command = [sys.executable, *words, "--output_dir", str(killed)]
    for more in (1, 17, 33):  # as soon as so many lines are there
        process = subprocess.Popen(command, env=QUIET, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            file = killed / "metrics.jsonl"
            if file.is_file() and file.read_bytes().count(b"\n") >= more:
                process.send_signal(signal.SIGKILL)
                process.wait()
            time.sleep(0.01)
    subprocess.run(command, env=QUIET, check=True, timeout=280)
    assert rows(full) == rows(killed)
    assert same(full, killed, 0.0)
