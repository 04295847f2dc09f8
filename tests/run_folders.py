"""Run folders as training writes them, made of invented measurements."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from nip.lra.config import RunConfig
from nip.lra.graphs import run_pattern
from nip.lra.recipes import recipe
from nip.lra.record import make_record
from nip.runs.accuracy import wilson_interval
from nip.runs.folder import RunFolder
from nip.runs.record import write_record

BASELINES = {"commonest_label": 0.1705, "root_operator": 0.3634}


def small_config(**settings: Any) -> RunConfig:
    """ListOps in short: 256 tokens in 16 blocks."""
    base = dataclasses.replace(recipe("listops"), seq_len=256, max_steps=200, eval_every=50)
    return dataclasses.replace(base, **settings)


def write_run(
    root: Path,
    config: RunConfig,
    *,
    name: str | None = None,
    correct: int = 780,
    steps: int | None = None,
    finished: bool = True,
    checksum: str | None = None,
    **result: Any,
) -> Path:
    """Write a run folder under `root`: `correct` of 2,000 test examples right, `result` overriding what it records."""
    folder = root / (name or config.name)
    folder.mkdir(parents=True)
    config = dataclasses.replace(config, checksum=checksum or run_pattern(config).checksum)
    (folder / "config.json").write_text(config.to_json(), encoding="utf-8")
    write_record(RunFolder(folder), make_record(config))
    (folder / "environment.json").write_text(json.dumps({"python": "3.11.2", "processor": "Some CPU", "threads": 2}))
    steps = steps or config.max_steps
    drawn = random.Random(name)
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(10, steps + 1, 10):
            share = correct / 2000 * (1 - math.exp(-step / 60))
            row = {"step": step, "learning_rate": 1e-4, "tokens": step * 8192, "seconds": step * 0.4}
            noisy = {"loss": 2.3 - share + drawn.gauss(0, 0.05), "accuracy": max(0, share + drawn.gauss(0, 0.05))}
            file.write(json.dumps({**row, "split": "train", **noisy}) + "\n")
            if step % config.eval_every == 0:
                file.write(json.dumps({**row, "split": "dev", "loss": 2.3 - share, "accuracy": share}) + "\n")
    if finished:
        outcome = {
            "test_accuracy": correct / 2000,
            "dev_accuracy": correct / 2000 + 0.004,
            "best_step": steps - 50,
            "steps": steps,
            "seconds": steps * 0.4,
            "interval": list(wilson_interval(correct, 2000)),
            "baselines": BASELINES,
            "n_test": 2000,
            "tokens_per_second": 20480.0,
        }
        (folder / "result.json").write_text(json.dumps({**outcome, **result}))
    return folder


def write_three_runs(root: Path) -> Path:
    """Write one run that learnt, one that did not, and one that was cut off while it wrote; the folder is returned."""
    write_run(root, small_config(model="hypercube"), correct=790)
    write_run(root, small_config(model="local"), correct=700)
    cut = write_run(
        root, small_config(model="bigbird", parameters={"num_random_blocks": 1}), correct=720, steps=120, finished=False
    )
    with (cut / "metrics.jsonl").open("a") as file:
        file.write('{"step": 130, "split": "tra')
    return root


@pytest.fixture
def demo(tmp_path):
    """A folder of three runs: one that learned, one that did not, one that was killed while it wrote."""
    return write_three_runs(tmp_path / "demo")
