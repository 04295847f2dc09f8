import os

import pytest
import torch

from nip.training.checkpoint import Progress, load_checkpoint, read_tensors, save_checkpoint, write_tensors


def model_and_optimizer(steps, seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(steps):
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer, [name for name, _ in model.named_parameters()]


def save(path, steps):
    model, optimizer, _ = model_and_optimizer(steps)
    progress = Progress(step=steps, seconds=1.5, best_accuracy=0.1 + 0.2)
    save_checkpoint(
        path,
        model.state_dict(),
        {name: optimizer.state[weight] for name, weight in model.named_parameters()},
        progress,
        {"best": torch.arange(3.0)},
        {"mean": torch.ones(2)},
    )
    return model, optimizer, progress


@pytest.mark.parametrize("steps", [0, 3])
def test_everything_comes_back_bit_for_bit(tmp_path, steps):
    path = tmp_path / "checkpoint" / "state.safetensors"
    model, optimizer, progress = save(path, steps)
    other, fresh, names = model_and_optimizer(0, seed=1)
    weights, states, read, best, average = load_checkpoint(path, names)
    assert set(states) == (set(names) if steps else set())
    for name, weight in other.named_parameters():
        if steps:
            fresh.state[weight] = states[name]
    assert set(average) == {"mean"} and torch.equal(average["mean"], torch.ones(2))
    other.load_state_dict(weights)
    assert read == progress
    assert best["best"].tolist() == [0, 1, 2]
    for one, two in ((model, other),):
        for a, b in zip(one.parameters(), two.parameters(), strict=True):
            assert torch.equal(a, b)
    # the next step is the same, so all of the optimizer's state is there
    torch.manual_seed(9)
    batch = torch.randn(5, 3)
    for each, its in ((model, optimizer), (other, fresh)):
        each(batch).square().sum().backward()
        its.step()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("broken", ["mkstemp", "write", "fsync", "chmod", "replace"])
def test_a_crash_at_any_point_of_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch, broken):
    import tempfile
    from pathlib import Path

    path = tmp_path / "checkpoint" / "state.safetensors"
    _, _, before = save(path, 2)
    content = path.read_bytes()

    class CrashError(BaseException):  # nothing in the code may catch it, as nothing catches kill -9
        pass

    def crash(*args, **kwargs):
        raise CrashError

    owner, name = {
        "mkstemp": (tempfile, "mkstemp"),
        "write": (os, "fdopen"),
        "fsync": (os, "fsync"),
        "chmod": (Path, "chmod"),
        "replace": (Path, "replace"),
    }[broken]
    # a killed process does not clean up either
    monkeypatch.setattr(Path, "unlink", lambda *args, **kwargs: None)
    monkeypatch.setattr(owner, name, crash)
    with pytest.raises(CrashError):
        save(path, 3)
    monkeypatch.undo()
    assert path.read_bytes() == content
    names = model_and_optimizer(0)[2]
    assert load_checkpoint(path, names)[2] == before
    save(path, 3)
    assert load_checkpoint(path, names)[2].step == 3


def test_files_that_are_no_checkpoint(tmp_path):
    path = tmp_path / "state.safetensors"
    names = model_and_optimizer(0)[2]
    path.write_bytes(b"not a checkpoint at all, whatever its name says")
    with pytest.raises(ValueError, match=r"state\.safetensors is damaged or was not written by this version"):
        load_checkpoint(path, names)
    write_tensors(path, {"a": torch.zeros(1)}, {"step": 1})
    with pytest.raises(ValueError, match="is no checkpoint of this model"):
        load_checkpoint(path, names)
    import safetensors.torch

    safetensors.torch.save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="was not written by this version"):
        read_tensors(path)
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, metadata={"nip": '{"format": 99}'})
    with pytest.raises(ValueError, match="reads format 1"):
        read_tensors(path)
