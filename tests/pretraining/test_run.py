"""Complete runs: their files, and bit-identical resuming."""

import dataclasses
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForMaskedLM, AutoTokenizer

import nip
from nip.pretraining.export import load_model
from nip.pretraining.run import pretrain
from nip.pretraining.settings import Settings
from nip.pretraining.task import PretrainingTask
from nip.runs.folder import read_metrics
from nip.training import trainer
from nip.training.checkpoint import read_progress, read_tensors
from nip.training.train_step import TrainingDivergedError

CLOCK = (
    "flops_utilisation",
    "seconds",
    "training_seconds",
    "saving_seconds",
    "tokens_per_second",
    "samples_per_second",
    "peak_mib",
)


@pytest.fixture
def settings():
    return Settings(
        size="tiny",
        layers=2,
        width=16,
        heads=2,
        inner_width=32,
        block_size=8,
        lengths=((16, 0.5), (32, 0.5)),
        batch_size=8,
        micro_batch=4,
        max_steps=8,
        eval_every=4,
        eval_samples=12,
        learning_rate=1e-2,
        rollback_every=3,
        track="none",
    )


def results_of(folder: Path):
    """Everything of a run that must be bit-identical: all but times."""
    result = json.loads((folder / "result.json").read_text())
    rows = read_metrics(folder / "metrics.jsonl")
    tensors = {
        name: tensor.numpy().tobytes()
        for name, tensor in read_tensors(folder / "checkpoint/state.safetensors")[0].items()
    }
    return {
        "result": {key: value for key, value in result.items() if key not in CLOCK},
        "rows": [{key: value for key, value in row.items() if key not in CLOCK} for row in rows],
        "tensors": tensors,
        "model": (folder / "model.safetensors").read_bytes(),
        "config": (folder / "config.json").read_text(),
    }


def stopping(monkeypatch, at):
    """End the run as if it were killed, right after a step."""

    def after(run, *rest):
        saved_at = before(run, *rest)
        if run.progress.step == at:
            raise KeyboardInterrupt
        return saved_at

    before = trainer.evaluate_and_checkpoint
    monkeypatch.setattr(trainer, "evaluate_and_checkpoint", after)


def test_a_run_from_start_to_end(settings, corpora, tmp_path):
    result = pretrain(settings, corpora["packed"], tmp_path / "run", command=["nip", "pretrain"])
    assert result == json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["ended"] == "8 steps are done"
    assert result["perplexity"] == pytest.approx(math.exp(result["test_loss"]))
    low, high = result["interval"]
    assert low <= result["test_accuracy"] <= high
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [(row["step"], row["length"]) for row in rows if row["split"] == "train"] == [
        *((n, 16) for n in range(1, 5)),
        *((n, 32) for n in range(5, 9)),
    ]
    assert [row["step"] for row in rows if row["split"] == "dev"] == [4, 8]
    assert rows[-1]["split"] == "test"
    assert rows[-1]["loss"] == result["test_loss"] < rows[0]["loss"]
    # the model is loaded by transformers, and its weights are those of the checkpoint
    model = load_model(tmp_path / "run")
    assert model.config.max_position_embeddings == 32
    plain = AutoModelForMaskedLM.from_pretrained(tmp_path / "run").state_dict()
    state = read_tensors(tmp_path / "run/checkpoint/state.safetensors")[0]
    for name, weight in model.named_parameters():
        assert torch.equal(weight, state[f"weights.model.{name}"]), name
        assert torch.equal(weight, plain[name]), name
    assert AutoTokenizer.from_pretrained(tmp_path / "run").model_max_length == 32
    again = pretrain(settings, corpora["packed"], tmp_path / "run")
    assert again == result


@pytest.mark.parametrize("at", [1, 4, 6])
def test_a_stopped_run_resumes_bit_identically(settings, corpora, tmp_path, monkeypatch, at):
    """Stopped in either stage, and at the step where samples become longer."""
    settings = dataclasses.replace(settings, optimizer="lamb" if at == 4 else "adamw", ramp_from=4)
    pretrain(settings, corpora["packed"], tmp_path / "full")
    with monkeypatch.context() as patched:
        stopping(patched, at)
        with pytest.raises(KeyboardInterrupt):
            pretrain(dataclasses.replace(settings, checkpoint_minutes=0.0), corpora["packed"], tmp_path / "run")
    assert read_progress(tmp_path / "run/checkpoint/state.safetensors").step == at
    assert not (tmp_path / "run" / "config.json").exists()
    pretrain(settings, corpora["packed"], tmp_path / "run")
    assert results_of(tmp_path / "run") == results_of(tmp_path / "full")


def test_steps_after_the_checkpoint_are_computed_again(settings, corpora, tmp_path, monkeypatch):
    pretrain(settings, corpora["packed"], tmp_path / "full")
    with monkeypatch.context() as patched:
        stopping(patched, 5)
        with pytest.raises(KeyboardInterrupt):
            pretrain(settings, corpora["packed"], tmp_path / "run")
    assert read_progress(tmp_path / "run/checkpoint/state.safetensors").step == 4  # where samples became longer
    pretrain(settings, corpora["packed"], tmp_path / "run")
    assert results_of(tmp_path / "run") == results_of(tmp_path / "full")


def test_positions_and_moments_are_extended_by_reflection(settings, corpora, tmp_path, monkeypatch):
    """The second stage starts with the weights that nip.extend_positions makes from the first."""
    first = dataclasses.replace(settings, lengths=((16, 1.0),), max_steps=4, warmup=0.0, learning_rate=1e-3)
    pretrain(first, corpora["packed"], tmp_path / "first")
    small = load_model(tmp_path / "first")
    nip.extend_positions(small, 32)
    both = dataclasses.replace(first, lengths=((16, 0.5), (32, 0.5)), max_steps=8)
    seen = {}

    def observe(run, task, batch):
        if run.progress.step == 4:
            model = run.state.unwrapped_model.model
            seen["length"] = task.length
            seen["weights"] = {n: w.detach().clone() for n, w in model.named_parameters()}
            table = model.bert.embeddings.position_embeddings.weight
            seen["moment"] = run.state.optimizer.state[table]["exp_avg"].clone()
        return take(run, task, batch)

    take = trainer.take_step
    monkeypatch.setattr(trainer, "take_step", observe)
    monkeypatch.setattr(
        "nip.pretraining.task.learning_rate",
        lambda settings, progress: 1e-3 * (1 - progress.step / 4) if progress.step < 4 else 1e-3,
    )
    pretrain(both, corpora["packed"], tmp_path / "both")
    assert seen["length"] == 32
    for name, weight in small.named_parameters():
        assert torch.equal(weight, seen["weights"][name]), name
    moment = read_tensors(tmp_path / "first/checkpoint/state.safetensors")[0][
        "optimizer.exp_avg.model.bert.embeddings.position_embeddings.weight"
    ]
    assert_close(seen["moment"], torch.cat([moment, moment.flip(0)]), rtol=0, atol=0)


def test_a_larger_budget_continues_a_run(settings, corpora, tmp_path):
    settings = dataclasses.replace(
        settings, schedule="constant_step", warmup_steps=2, curve="exp", lengths=((32, 1.0),)
    )
    pretrain(settings, corpora["packed"], tmp_path / "run")
    longer = dataclasses.replace(settings, max_steps=12)
    result = pretrain(longer, corpora["packed"], tmp_path / "run")
    assert (result["steps"], result["ended"]) == (12, "12 steps are done")
    pretrain(longer, corpora["packed"], tmp_path / "full")
    # with this schedule the rate of a step does not depend on the budget, so all steps are the same
    assert results_of(tmp_path / "run")["model"] == results_of(tmp_path / "full")["model"]


def test_a_budget_of_tokens_ends_a_run_and_moves_its_rate(settings, corpora, tmp_path):
    settings = dataclasses.replace(settings, max_steps=None, max_tokens=700, warmup=0.1, lengths=((32, 1.0),))
    result = pretrain(settings, corpora["packed"], tmp_path / "run")
    rows = [row for row in read_metrics(tmp_path / "run/metrics.jsonl") if row["split"] == "train"]
    assert rows[-2]["tokens"] < 700 <= rows[-1]["tokens"] == result["tokens"]
    for before, row in itertools.pairwise(rows):
        done = before["tokens"] / 700
        assert row["learning_rate"] == pytest.approx(1e-2 * (1 - (done - 0.1) / 0.9))


def test_a_budget_of_hours_ends_a_run_and_exports_models(settings, corpora, tmp_path, monkeypatch):
    """Every reading of the clock is six minutes later, whatever the speed of this machine."""
    now = [0.0]

    def clock():
        now[0] += 360.0
        return now[0]

    settings = dataclasses.replace(
        settings, max_steps=None, hours=4.0, finetune_hours=(1.0, 2.0), eval_every=1000, lengths=((32, 1.0),)
    )
    monkeypatch.setattr("nip.training.trainer.perf_counter", clock)
    result = pretrain(settings, corpora["packed"], tmp_path / "run")
    assert result["ended"] == "4 hours have passed"
    assert result["kept_hours"] == [1.0, 2.0]
    one = load_model(tmp_path / "run" / "finetune-1h").state_dict()
    last = load_model(tmp_path / "run").state_dict()
    assert any(not torch.equal(one[name], last[name]) for name in one)
    early = dataclasses.replace(settings, early_exit_hours=2.0)
    result = pretrain(early, corpora["packed"], tmp_path / "early")
    assert result["ended"] == "the early exit is at 2 hours"
    steps = result["steps"]
    result = pretrain(settings, corpora["packed"], tmp_path / "early")
    assert result["ended"] == "4 hours have passed"
    assert result["steps"] > steps


def test_a_bad_loss_stops_a_run_early(settings, corpora, tmp_path):
    settings = dataclasses.replace(settings, early_stop_loss=0.5)
    result = pretrain(settings, corpora["packed"], tmp_path / "run")
    assert result["steps"] == 4
    assert result["ended"].startswith("the held-out loss was ")
    assert pretrain(settings, corpora["packed"], tmp_path / "run") == result
    patient = dataclasses.replace(settings, early_stop_minutes=1e6)
    assert pretrain(patient, corpora["packed"], tmp_path / "run")["steps"] == 8


def poisoned(monkeypatch, steps):
    """Make the loss of some steps NaN."""

    def loss(task, run, *rest):
        sums = before(task, run, *rest)
        hit = run.progress.step in steps
        return sums._replace(objective=sums.objective * math.nan, loss=sums.loss * math.nan) if hit else sums

    before = PretrainingTask.loss
    monkeypatch.setattr(PretrainingTask, "loss", loss)


def test_steps_with_nan_are_skipped_and_rolled_back(settings, corpora, tmp_path, monkeypatch):
    """Steps 4, 6 and 7, counted from 0: the first is skipped, the two in a row roll back to the weights of step 6."""
    settings = dataclasses.replace(settings, bad_steps=2, lengths=((32, 1.0),))
    with monkeypatch.context() as patched:
        poisoned(patched, (4, 6, 7))
        result = pretrain(settings, corpora["packed"], tmp_path / "run")
        stopping(patched, 7)
        with pytest.raises(KeyboardInterrupt):
            pretrain(dataclasses.replace(settings, checkpoint_minutes=0.0), corpora["packed"], tmp_path / "stopped")
    with monkeypatch.context() as patched:
        poisoned(patched, (4, 6, 7))
        pretrain(settings, corpora["packed"], tmp_path / "stopped")
    assert (result["skipped_steps"], result["rollbacks"]) == (3, 1)
    rows = read_metrics(tmp_path / "run/metrics.jsonl")
    events = [row["event"] for row in rows if row["split"] == "event"]
    assert events[0] == "Step 5 was skipped: its loss is nan."
    assert events[-1] == "After step 8 the weights were rolled back to those of step 6."
    assert [row["loss"] for row in rows if row["step"] == 5 and row["split"] == "train"] == [None]
    assert results_of(tmp_path / "stopped") == results_of(tmp_path / "run")


def test_a_run_that_does_not_recover_keeps_its_last_good_state(settings, corpora, tmp_path, monkeypatch):
    settings = dataclasses.replace(settings, bad_steps=1, max_rollbacks=1, lengths=((32, 1.0),))
    poisoned(monkeypatch, range(4, 100))
    with pytest.raises(TrainingDivergedError, match=r"rolled back 1 times before\. The last good state, of step 3"):
        pretrain(settings, corpora["packed"], tmp_path / "run")
    good = read_tensors(tmp_path / "run/checkpoint/good.safetensors")[0]
    assert all(tensor.isfinite().all() for tensor in good.values())


def test_a_run_killed_before_its_rollback_checkpoint_was_linked(settings, corpora, tmp_path, monkeypatch):
    """Killed after the checkpoint of step 3, before the link; resumed, the link is made."""
    settings = dataclasses.replace(settings, lengths=((32, 1.0),))

    def killed(state, good):
        if read_progress(state).step == 3:
            raise KeyboardInterrupt
        link(state, good)

    link = trainer.link_checkpoint
    good = tmp_path / "run/checkpoint/good.safetensors"
    with monkeypatch.context() as patched:
        patched.setattr(trainer, "link_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            pretrain(settings, corpora["packed"], tmp_path / "run")
    assert read_progress(good).step == 0
    with monkeypatch.context() as patched:
        stopping(patched, 4)
        with pytest.raises(KeyboardInterrupt):
            pretrain(settings, corpora["packed"], tmp_path / "run")
    assert read_progress(good).step == 3


def test_a_full_disk_keeps_the_last_checkpoint(settings, corpora, tmp_path, monkeypatch):
    pretrain(dataclasses.replace(settings, max_steps=4), corpora["packed"], tmp_path / "run")
    before = (tmp_path / "run/checkpoint/state.safetensors").read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nip.training.checkpoint.write_tensors", full)
    with pytest.raises(OSError, match=r"cannot be written \(No space left on device\); the last one, in .* stays"):
        pretrain(settings, corpora["packed"], tmp_path / "run")
    assert (tmp_path / "run/checkpoint/state.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"learning_rate": 1e-3}, "learning_rate is 0.01 there and 0.001 here"),
        ({"max_steps": 4}, "max_steps is 8 there and 4 here"),
        ({"max_tokens": 100}, "max_tokens is None there and 100 here"),
        ({"model": "local"}, "model is 'hypercube' there and 'local' here"),
    ],
)
def test_another_run_is_refused(settings, corpora, tmp_path, change, says):
    small = dataclasses.replace(settings, layers=1, lengths=((16, 1.0),), eval_samples=2)
    if not (tmp_path / "run").exists():
        (tmp_path / "run").mkdir()
        facts = {"kind": "pretraining", "settings": {**small.to_dict(), "precision": "fp32"}}
        (tmp_path / "run" / "run.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="holds another run: .*" + says):
        pretrain(dataclasses.replace(small, **change), corpora["packed"], tmp_path / "run")


KILLED = """
import json, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from nip.pretraining.run import pretrain
from nip.pretraining.settings import Settings
pretrain(Settings(**json.loads(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]))
"""


@pytest.mark.slow
def test_a_run_killed_at_any_moment_resumes_bit_identically(settings, corpora, tmp_path):
    """kill -9 several times, and the same command until it ends: the results of a run that was not killed."""
    settings = dataclasses.replace(settings, max_steps=60, rollback_every=7, checkpoint_minutes=0.001, eval_every=9)
    pretrain(settings, corpora["packed"], tmp_path / "full")
    words = [
        sys.executable,
        "-c",
        KILLED,
        json.dumps(settings.to_dict()),
        str(corpora["packed"]),
        str(tmp_path / "run"),
    ]
    metrics, killed = tmp_path / "run" / "metrics.jsonl", 0
    for rows in (1, 14, 30):
        process = subprocess.Popen(words, env={**os.environ, "OMP_NUM_THREADS": "1"})
        while process.poll() is None and (not metrics.exists() or metrics.read_bytes().count(b"\n") < rows):
            time.sleep(0.002)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            killed += 1
    assert killed >= 2
    pretrain(settings, corpora["packed"], tmp_path / "run")
    assert results_of(tmp_path / "run") == results_of(tmp_path / "full")
