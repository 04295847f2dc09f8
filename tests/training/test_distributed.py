"""Runs of two processes against one: data parallel, FSDP, and DeepSpeed if it is installed."""

import dataclasses
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.testing import assert_close

from nip.lra import train
from nip.runs.folder import RunFolder, read_metrics
from nip.training.checkpoint import read_tensors
from nip.training.distributed import check_deepspeed, check_fsdp, new_accelerator

BLOCKS = re.findall(r"```yaml\n(.*?)```", (Path(__file__).parents[2] / "docs" / "training.md").read_text("utf-8"), re.S)
FSDP, ZERO = BLOCKS
WAYS = {"plain": None, "fsdp": FSDP, "zero1": ZERO.replace("zero_stage: 2", "zero_stage: 1"), "zero2": ZERO}

absent = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed: pip install deepspeed"
)
SHARDED = ["fsdp", *(pytest.param(way, marks=absent) for way in ("zero1", "zero2"))]


@pytest.fixture
def launch(tmp_path):
    """A function that runs a program of two processes as the docs say."""

    def launched(way, *program):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if WAYS[way] is None:
            launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        else:
            (tmp_path / f"{way}.yaml").write_text(WAYS[way])
            launcher = ["accelerate.commands.launch", "--config_file", str(tmp_path / f"{way}.yaml")]
            launcher += ["--main_process_port", "0"]
        command = [sys.executable, "-m", *launcher, *program]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done

    return launched


@pytest.fixture
def train_two(launch, tmp_path, data):
    """A function that trains with two processes in one of the ways."""

    def trained(way, config, out):
        file = tmp_path / f"{out.name}.json"
        file.write_text(config.to_json())
        arguments = ["--config", str(file), "--data", str(data), "--out", str(out), "--json"]
        printed = launch(way, "-m", "nip", "lra", *arguments).stdout
        result = json.loads(printed[printed.index("{\n") :])  # accelerate's launcher may have printed something before
        described = json.loads(RunFolder(out).environment.read_text())
        distribution = {"plain": "multi_cpu", "fsdp": "fsdp"}.get(way, "deepspeed")
        assert (described["processes"], described["distribution"]) == (2, distribution)
        return result

    return trained


@pytest.fixture
def config(config):
    return dataclasses.replace(config, dropout=0.0, learning_rate=1e-2, eval_every=3, eval_steps=None, repeats=2)


def assert_alike(one, other, rel=1e-4):
    """Two runs with the same measurements, and the same weights, optimizer states, best weights and average."""
    rows, others = (read_metrics(RunFolder(folder).metrics) for folder in (one, other))
    assert [(row["step"], row["split"], row["tokens"]) for row in rows] == [
        (row["step"], row["split"], row["tokens"]) for row in others
    ]
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in others], rel=rel)
    assert [row["accuracy"] for row in rows] == pytest.approx([row["accuracy"] for row in others])
    tensors, more = (read_tensors(RunFolder(folder).checkpoint)[0] for folder in (one, other))
    assert set(tensors) == set(more)
    for name, tensor in tensors.items():
        if "exp_avg_sq" not in name:  # squares of values near zero
            assert_close(tensor, more[name], rtol=2e-2, atol=2e-4, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.slow
@pytest.mark.timeout(1200)  # several launches, each of which imports torch twice and may compile
@pytest.mark.parametrize("way", ["plain", *SHARDED])
def test_a_run_resumes_with_any_number_of_processes_and_sharding(config, data, tmp_path, train_two, way):
    config = dataclasses.replace(config, ema=0.9)
    half = dataclasses.replace(config, max_steps=6)
    train(half, tmp_path / "one", data=data)
    shutil.copytree(tmp_path / "one", tmp_path / "later")
    train(config, tmp_path / "one", data=data)
    train_two(way, config, tmp_path / "later")
    assert_alike(tmp_path / "one", tmp_path / "later")
    train_two(way, half, tmp_path / "first")
    train(config, tmp_path / "first", data=data)
    assert_alike(tmp_path / "one", tmp_path / "first")


@pytest.mark.slow
@pytest.mark.timeout(1200)  # several launches, each of which imports torch twice and may compile
@pytest.mark.parametrize("way", ["plain", *SHARDED])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_both_phases_of_the_modern_recipe(config, data, tmp_path, train_two, way, precision):
    config = dataclasses.replace(
        config,
        recipe="modern",
        pretrain_steps=6,
        pretrain_learning_rate=1e-2,
        mask_share=0.2,
        max_steps=6,
        gradient_checkpointing=True,
        precision=precision,
        batch_size=7,  # shared unequally
    )
    train(config, tmp_path / "one", data=data)
    train_two(way, config, tmp_path / "two")
    if precision == "fp32":
        assert_alike(tmp_path / "one" / "pretraining", tmp_path / "two" / "pretraining")
        assert_alike(tmp_path / "one", tmp_path / "two")
    else:
        losses = [[row["loss"] for row in read_metrics(tmp_path / name / "metrics.jsonl")] for name in ("one", "two")]
        assert losses[0] == pytest.approx(losses[1], rel=0.03)
        full = dataclasses.replace(config, precision="fp32")
        train(full, tmp_path / "full", data=data)
        exact = [row["loss"] for row in read_metrics(tmp_path / "full" / "metrics.jsonl")]
        assert losses[1] != pytest.approx(exact, rel=1e-4)  # it computed in bf16


@pytest.mark.slow
@pytest.mark.timeout(1200)  # several launches, each of which imports torch twice and may compile
def test_two_machines(config, data, tmp_path):
    train(config, tmp_path / "one", data=data)
    (tmp_path / "config.json").write_text(config.to_json())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    launcher += ["--master_addr", "127.0.0.1", "--master_port", port]
    program = ["-m", "nip", "lra", "--config", str(tmp_path / "config.json"), "--data", str(data)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    machines = [
        subprocess.Popen(
            [*launcher, "--node_rank", rank, *program, "--out", str(tmp_path / "two")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in "01"
    ]
    for machine in machines:
        _, printed = machine.communicate(timeout=200)
        assert machine.returncode == 0, printed.decode()
    assert_alike(tmp_path / "one", tmp_path / "two")


SHARD_SIZES = """
import sys
import torch
from nip.training.distributed import new_accelerator, prepare_model
accelerator = new_accelerator()
class EncoderLayer(torch.nn.Linear): ...
model = torch.nn.Sequential(EncoderLayer(100, 100))
model, optimizer = prepare_model(accelerator, model, torch.optim.AdamW(model.parameters()), "fp32")
own = sum(getattr(each, "_local_tensor", each).numel() for group in optimizer.param_groups for each in group["params"])
assert 5000 <= own <= 5100, own
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)  # several launches, each of which imports torch twice and may compile
@pytest.mark.parametrize("way", SHARDED)
def test_each_process_updates_half_of_the_weights(launch, tmp_path, way):
    (tmp_path / "shards.py").write_text(SHARD_SIZES)
    launch(way, str(tmp_path / "shards.py"))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"fsdp_version": 1}, "fsdp_version: 1"),
        ({"auto_wrap_policy": "size_based_wrap", "min_num_params": 10}, "SIZE_BASED_WRAP"),
        ({"activation_checkpointing": True}, "--gradient-checkpointing"),
        ({"cpu_offload": True}, "fsdp_offload_params"),
    ],
)
def test_unsupported_settings_of_fsdp(setting, says):
    if setting.get("fsdp_version") != 1:
        check_fsdp(FullyShardedDataParallelPlugin(fsdp_version=2))
    with pytest.raises(ValueError, match=f"With FSDP, nip does not support: .*{says}"):
        check_fsdp(FullyShardedDataParallelPlugin(**{"fsdp_version": 2, **setting}))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"zero_optimization": {"stage": 3}}, "zero_stage: 3"),
        ({"zero_optimization": {"stage": 0}}, "zero_stage: 0"),
        ({"zero_optimization": {"stage": 1, "offload_optimizer": {"device": "cpu"}}}, "offload_optimizer_device"),
        ({"gradient_clipping": 1.0}, "gradient_clipping"),
        ({"bf16": {"enabled": True}}, "--precision"),
        ({"optimizer": {"type": "Lamb"}}, "an optimizer of its own"),
        ({"scheduler": {"type": "OneCycle"}}, "a schedule of its own"),
    ],
)
def test_unsupported_settings_of_deepspeed(setting, says):
    usual = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "none"}}, "gradient_clipping": "auto"}
    plugin = SimpleNamespace(deepspeed_config=dict(usual))
    check_deepspeed(plugin)
    assert plugin.deepspeed_config["gradient_clipping"] == 0.0
    with pytest.raises(ValueError, match=f"With DeepSpeed, nip does not support: .*{says}"):
        check_deepspeed(SimpleNamespace(deepspeed_config={**usual, **setting}))


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [("MIXED_PRECISION", "bf16", "--precision is for that"), ("DYNAMO_BACKEND", "INDUCTOR", "dynamo_backend")],
)
def test_unsupported_settings_of_accelerate(monkeypatch, variable, value, says):
    monkeypatch.setenv(f"ACCELERATE_{variable}", value)
    with pytest.raises(ValueError, match=f"With accelerate's configuration, nip does not support: .*{says}"):
        new_accelerator()


def test_deepspeed_needs_a_launcher(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ValueError, match="DeepSpeed needs a launcher"):
        new_accelerator()
    assert not torch.distributed.is_initialized()
