"""The loop on a task of its own, a linear regression: steps, spikes, rollbacks and resuming."""

import math

import pytest
import torch
from accelerate import Accelerator

from nip.runs.console import Console
from nip.runs.folder import RunFolder, read_metrics
from nip.training import trainer
from nip.training.checkpoint import TrainState, load_checkpoint, read_tensors
from nip.training.loss_spikes import SpikeRule
from nip.training.train_step import Batch, LossSums, MicroBatch, TrainingDivergedError
from nip.training.trainer import EngineSettings, Run, TrainingTask, keep_best, train

RULE = SpikeRule(deviations=0.0, bad_steps=2, rollback_every=3, max_rollbacks=1, overflow_limit=10)


class Regression(TrainingTask):
    """y = x · w on samples that are a function of the step; losses of the steps in `bad` are NaN."""

    held_out = "dev"

    def __init__(self, steps=8, micro_batches=2, bad=()):
        self.steps, self.number, self.bad = steps, micro_batches, bad

    def finished(self, run):
        return run.progress.step >= self.steps

    def share_done(self, run):
        return run.progress.step / self.steps

    def batch(self, run):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(run.progress.step))
        y = x @ torch.tensor([1.0, -2.0, 3.0])
        chunks = zip(x.chunk(self.number), y.chunk(self.number), strict=True)
        return Batch([MicroBatch({"input": a}, b, len(b), len(b), 3 * len(b)) for a, b in chunks], 8)

    def learning_rate(self, run):
        return 0.1 / (1 + run.progress.step), None

    def loss(self, run, micro_batch, totals):
        errors = run.state.model(**micro_batch.inputs)[:, 0] - micro_batch.targets
        loss = errors.square().sum() * (math.nan if run.progress.step in self.bad else 1.0)
        return LossSums(loss / totals.targets, loss, (errors.abs() < 0.1).long())

    def mean_loss(self, loss_sum, totals):
        return loss_sum / totals.targets

    def after_step(self, run, result, seconds):
        return {"grad_norm": result.grad_norm}

    def evaluation_due(self, run):
        return run.progress.step % 4 == 0

    def validate(self, run):
        weight = run.state.unwrapped_model.weight.detach()[0]
        loss = float((weight - torch.tensor([1.0, -2.0, 3.0])).square().sum())
        keep_best(run, -loss)
        return {"loss": loss, "accuracy": 0.0}


def start(folder, **settings):
    folder.mkdir(exist_ok=True)
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    state = TrainState(Accelerator(cpu=True), model, optimizer)
    files = RunFolder(folder)
    if files.checkpoint.is_file():
        state.progress = load_checkpoint(files.checkpoint, state)
    return Run(EngineSettings(**{"seed": 0, **settings}), files, state, Console(None, None))


def results_of(folder):
    """The metrics and the checkpoint of a run, without times."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(folder / "metrics.jsonl")]
    tensors = read_tensors(folder / "checkpoint" / "state.safetensors")[0]
    return rows, {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def test_the_steps_equal_those_of_a_plain_loop(tmp_path):
    run, task = start(tmp_path / "run", clip=1.0), Regression(micro_batches=4)
    plain = start(tmp_path / "plain")
    train(run, task)
    model, optimizer = plain.state.model, plain.state.optimizer
    for step in range(8):
        plain.progress.step = step
        (full,) = Regression(micro_batches=1).batch(plain).micro_batches
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)
        loss = (model(full.inputs["input"])[:, 0] - full.targets).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    torch.testing.assert_close(run.state.model.weight, model.weight)
    assert (run.progress.tokens, run.progress.samples, run.progress.evaluations) == (8 * 24, 64, 2)
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, 9))
    assert [row["step"] for row in rows if row["split"] == "dev"] == [4, 8]


@pytest.mark.parametrize("spikes", [None, RULE])
@pytest.mark.parametrize("at", [2, 4, 7])
def test_a_stopped_run_resumes_to_the_same_bits(tmp_path, monkeypatch, spikes, at):
    settings = {"spikes": spikes, "ema": 0.9, "clip": 1.0, "checkpoint_seconds": -1.0}
    bad = () if spikes is None else (1, 5, 6)
    train(start(tmp_path / "full", **settings), Regression(bad=bad))

    def stopped(run, *rest):
        if run.progress.step == at:
            raise KeyboardInterrupt
        return true_step(run, *rest)

    true_step = trainer.take_step
    with monkeypatch.context() as patched:
        patched.setattr(trainer, "take_step", stopped)
        with pytest.raises(KeyboardInterrupt):
            train(start(tmp_path / "run", **settings), Regression(bad=bad))
    train(start(tmp_path / "run", **settings), Regression(bad=bad))
    assert results_of(tmp_path / "run") == results_of(tmp_path / "full")


def test_bad_steps_are_skipped_and_rolled_back(tmp_path):
    run = start(tmp_path / "run", spikes=RULE, clip=0.0)
    train(run, Regression(bad=(1, 4, 5)))
    assert (run.progress.step, run.progress.loss_spikes.skipped, run.progress.loss_spikes.rollbacks) == (8, 3, 1)
    events = [row["event"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["split"] == "event"]
    assert events[0] == "Step 2 was skipped: its loss is nan."
    assert events[-1] == "After step 6 the weights were rolled back to those of step 3."


def test_repeated_rollbacks_end_the_run(tmp_path):
    run = start(tmp_path / "run", spikes=RULE, clip=0.0)
    with pytest.raises(TrainingDivergedError, match=r"rolled back 1 times before\. The last good state, of step 3"):
        train(run, Regression(steps=20, bad=range(3, 20)))


def test_without_a_rule_the_first_bad_step_ends_the_run(tmp_path):
    run = start(tmp_path / "run")
    before = run.state.model.weight.detach().clone()
    with pytest.raises(TrainingDivergedError, match=r"Step 1 cannot be taken: its loss is nan\. There is no"):
        train(run, Regression(bad=(0,)))
    assert torch.equal(run.state.model.weight, before) and run.progress.step == 0
