"""The exponential moving average of the weights."""

import dataclasses

import pytest
import torch
from torch.testing import assert_close

from nip.lra import task as lra_task
from nip.lra import train
from nip.runs.folder import RunFolder
from nip.training import trainer
from nip.training.checkpoint import read_tensors
from nip.training.ema import swapped_in, update


def test_the_update_follows_the_formula():
    seen = [float(step * step) for step in range(30)]
    average = {"w": torch.zeros(1, dtype=torch.float64)}
    expected = 0.0
    for step, value in enumerate(seen, 1):
        update(average, {"w": torch.tensor([value], dtype=torch.float64)}, 0.7, step)
        decay = min(0.7, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    assert average["w"].item() == pytest.approx(expected)
    assert 0.7 in [min(0.7, (1 + step) / (10 + step)) for step in range(1, 30)]  # both branches were taken


def test_swapping_in_restores_the_weights():
    model = torch.nn.Linear(2, 1)
    own = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(KeyError), swapped_in(model, {name: weight + 1 for name, weight in own.items()}):
        assert torch.equal(model.weight, own["weight"] + 1)
        raise KeyError  # the weights are restored even so
    assert torch.equal(model.weight, own["weight"])
    with swapped_in(model, {}):
        assert torch.equal(model.weight, own["weight"])


def test_the_best_weights_are_the_average_and_a_stopped_run_resumes_it(config, data, tmp_path, comparable, monkeypatch):
    config = dataclasses.replace(config, ema=0.8, max_steps=7, eval_every=7)
    taken, true_step, settings = [], trainer.train_step, lra_task.EngineSettings

    def watched(state, *rest, **options):
        measured = true_step(state, *rest, **options)
        taken.append({name: weight.clone() for name, weight in state.model.state_dict().items()})
        return measured

    monkeypatch.setattr(trainer, "train_step", watched)
    train(config, tmp_path / "full", data=data)
    best = read_tensors(RunFolder(tmp_path / "full").best)[0]
    from nip.graphs import hypercube
    from nip.lra.model import encoder_config
    from nip.models import build_classifier

    first = build_classifier(encoder_config(config), hypercube(4), seed=config.seed).state_dict()
    for name, mean in best.items():
        expected = first[name].double()
        for step, weights in enumerate(taken, 1):
            decay = min(0.8, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * weights[name].double()
        assert_close(mean.double(), expected, atol=1e-7, rtol=1e-5)
        assert not torch.equal(mean, taken[-1][name])

    def stopped(state, *rest, **options):
        if state.progress.step == 4:
            raise KeyboardInterrupt
        return true_step(state, *rest, **options)

    # a checkpoint after every step
    monkeypatch.setattr(lra_task, "EngineSettings", lambda **given: settings(**given, checkpoint_seconds=-1.0))
    monkeypatch.setattr(trainer, "train_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "stopped", data=data)
    monkeypatch.setattr(trainer, "train_step", true_step)
    train(config, tmp_path / "stopped", data=data)
    assert comparable(tmp_path / "stopped") == comparable(tmp_path / "full")
