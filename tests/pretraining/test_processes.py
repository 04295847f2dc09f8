"""Runs of two processes against one: data parallel, FSDP, and DeepSpeed if it is installed."""

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate import DistributedType
from torch.testing import assert_close

from nip.pretraining.checks import check_run
from nip.pretraining.export import load_model
from nip.pretraining.run import pretrain
from nip.pretraining.settings import Settings
from nip.runs.folder import read_metrics
from nip.training.checkpoint import read_tensors

PAGE = (Path(__file__).parents[2] / "docs" / "pretraining.md").read_text("utf-8")
FSDP, ZERO = (block for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.S) if "distributed_type" in block)
WAYS = {"plain": None, "fsdp": FSDP, "zero1": ZERO.replace("zero_stage: 2", "zero_stage: 1"), "zero2": ZERO}
absent = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed: pip install deepspeed"
)
SHARDED = ["plain", "fsdp", *(pytest.param(way, marks=absent) for way in ("zero1", "zero2"))]


@pytest.fixture
def settings():
    return Settings(
        size="tiny",
        layers=2,
        width=16,
        heads=2,
        inner_width=32,
        block_size=8,
        dropout=0.0,
        attention_dropout=0.0,
        lengths=((16, 0.5), (32, 0.5)),
        batch_size=8,
        micro_batch=2,
        max_steps=8,
        eval_every=3,
        eval_samples=11,
        learning_rate=1e-2,
        rollback_every=3,
        track="none",
    )


@pytest.fixture
def pretrain_two(tmp_path, corpora):
    """A function that trains with two processes in one of the ways."""

    def trained(way, settings, out, *program):
        (tmp_path / "settings.json").write_text(json.dumps({"settings": settings.to_dict()}))
        if WAYS[way] is None:
            launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        else:
            (tmp_path / f"{way}.yaml").write_text(WAYS[way])
            launcher = ["accelerate.commands.launch", "--config_file", str(tmp_path / f"{way}.yaml")]
            launcher += ["--main_process_port", "0"]
        words = ["pretrain", "--config", tmp_path / "settings.json", "--dataset", corpora["packed"], "--out", out]
        command = [sys.executable, "-m", *launcher, *(program or ("-m", "nip")), *map(str, words)]
        done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        described = json.loads((out / "environment.json").read_text())
        distribution = {"plain": "multi_cpu", "fsdp": "fsdp"}.get(way, "deepspeed")
        assert (described["processes"], described["distribution"]) == (2, distribution)
        return json.loads((out / "result.json").read_text())

    return trained


def assert_alike(one, other, rel=1e-4):
    """Two runs with the same measurements, and the same weights and optimizer states."""
    rows, others = (read_metrics(folder / "metrics.jsonl") for folder in (one, other))
    keys = ("step", "split", "tokens", "samples", "length", "batch")
    assert [[row.get(key) for key in keys] for row in rows] == [[row.get(key) for key in keys] for row in others]
    for key in ("loss", "accuracy", "grad_norm"):
        found = [[row[key] for row in each if row.get(key) is not None] for each in (rows, others)]
        assert found[0] == pytest.approx(found[1], rel=rel), key
    tensors, more = (read_tensors(folder / "checkpoint/state.safetensors")[0] for folder in (one, other))
    assert set(tensors) == set(more)
    for name, tensor in tensors.items():
        if "exp_avg_sq" not in name:  # squares of values near zero
            assert_close(tensor, more[name], rtol=2e-2, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}")
    weights, more = (load_model(folder).state_dict() for folder in (one, other))
    for name, tensor in weights.items():
        assert_close(tensor, more[name], rtol=2e-2, atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("way", SHARDED)
def test_two_processes_equal_one(settings, corpora, tmp_path, pretrain_two, way):
    """Both stages; then a longer run that starts with one process and resumes with two."""
    pretrain(settings, corpora["packed"], tmp_path / "one")
    pretrain_two(way, settings, tmp_path / "two")
    assert_alike(tmp_path / "one", tmp_path / "two")
    longer = dataclasses.replace(settings, max_steps=14, schedule="step")
    plain = dataclasses.replace(settings, schedule="step")
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
    pretrain(plain, corpora["packed"], tmp_path / "a" / "run")
    for folder in ("b", "c"):
        shutil.copytree(tmp_path / "a" / "run", tmp_path / folder / "run")
    pretrain(longer, corpora["packed"], tmp_path / "b" / "run")
    pretrain_two(way, longer, tmp_path / "c" / "run")
    assert_alike(tmp_path / "b" / "run", tmp_path / "c" / "run")


POISON = """
import os, sys
from nip.cli import main
from nip.pretraining.task import PretrainingTask
def loss(task, run, *rest):
    sums = before(task, run, *rest)
    last = run.accelerator.process_index == run.accelerator.num_processes - 1
    hit = last and run.progress.step in (4, 6, 7)
    return sums._replace(objective=sums.objective * float("nan"), loss=sums.loss * float("nan")) if hit else sums
before, PretrainingTask.loss = PretrainingTask.loss, loss
main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", SHARDED)
def test_two_processes_skip_and_roll_back_like_one(settings, corpora, tmp_path, pretrain_two, way):
    """The loss of one process is NaN at steps 4, 6 and 7, counted from 0."""
    settings = dataclasses.replace(settings, bad_steps=2, lengths=((32, 1.0),), max_steps=12)
    (tmp_path / "poison.py").write_text(POISON)
    (tmp_path / "settings.json").write_text(json.dumps({"settings": settings.to_dict()}))
    words = [
        "pretrain",
        "--config",
        tmp_path / "settings.json",
        "--dataset",
        corpora["packed"],
        "--out",
        tmp_path / "one",
    ]
    subprocess.run([sys.executable, *map(str, (tmp_path / "poison.py", *words))], check=True, capture_output=True)
    two = pretrain_two(way, settings, tmp_path / "two", str(tmp_path / "poison.py"))
    assert (two["skipped_steps"], two["rollbacks"]) == (3, 1)
    assert_alike(tmp_path / "one", tmp_path / "two")


def test_impossible_settings_for_several_processes(settings, corpora):
    def refused(processes, kind=DistributedType.MULTI_CPU, **changes):
        asked = dataclasses.replace(settings, **changes)
        accelerator = SimpleNamespace(num_processes=processes, distributed_type=kind)
        with pytest.raises(ValueError) as error:
            check_run(asked, corpora["packed"], accelerator)
        return str(error.value)

    assert refused(3) == "A batch of 8 samples cannot be shared equally by 3 processes."
    assert refused(4, ramp_from=2) == "A batch of 2 samples cannot be shared equally by 4 processes."
    assert "must be adam or adamw, not lamb" in refused(2, DistributedType.FSDP, optimizer="lamb")
    assert "must be fp32 or bf16, not fp16" in refused(2, DistributedType.DEEPSPEED, precision="fp16")
