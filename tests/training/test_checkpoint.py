import os

import pytest
import torch
from accelerate import Accelerator

from nip.training.checkpoint import Progress, TrainState, load_checkpoint, read_tensors, save_checkpoint, write_tensors


def state_after(steps, seed=0):
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(steps):
        model(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return TrainState(Accelerator(cpu=True), model, optimizer)


def save(path, steps):
    state = state_after(steps)
    state.progress = Progress(step=steps, seconds=1.5, best_score=0.1 + 0.2)
    state.best = {name: weight + 1 for name, weight in state.model.state_dict().items()}
    state.average = {name: weight + 2 for name, weight in state.model.state_dict().items()}
    assert save_checkpoint(path, state)
    return state


@pytest.mark.parametrize("steps", [0, 3])
def test_a_checkpoint_restores_everything_bit_for_bit(tmp_path, steps):
    path = tmp_path / "checkpoint" / "state.safetensors"
    saved, other = save(path, steps), state_after(0, seed=1)
    assert load_checkpoint(path, other) == saved.progress
    assert len(other.optimizer.state) == (4 if steps else 0)
    for name in ("best", "average"):
        for key, tensor in getattr(saved, name).items():
            assert torch.equal(tensor, getattr(other, name)[key])
    for a, b in zip(saved.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)
    # the next step is the same, so the optimizer's state is complete
    torch.manual_seed(9)
    batch = torch.randn(5, 3)
    for state in (saved, other):
        state.model(batch).square().sum().backward()
        state.optimizer.step()
    for a, b in zip(saved.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("broken", ["mkstemp", "write", "fsync", "chmod", "replace"])
def test_a_crash_at_any_point_of_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch, broken):
    import tempfile
    from pathlib import Path

    path = tmp_path / "checkpoint" / "state.safetensors"
    before = save(path, 2).progress
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
    assert load_checkpoint(path, state_after(0)) == before
    save(path, 3)
    assert load_checkpoint(path, state_after(0)).step == 3


def test_files_that_are_not_checkpoints(tmp_path):
    path = tmp_path / "state.safetensors"
    state = state_after(0)
    path.write_bytes(b"not a checkpoint at all, whatever its name says")
    with pytest.raises(ValueError, match=r"state\.safetensors is damaged or was not written by this version"):
        load_checkpoint(path, state)
    write_tensors(path, {"a": torch.zeros(1)}, {"step": 1})
    with pytest.raises(ValueError, match="is not a checkpoint of this model"):
        load_checkpoint(path, state)
    import safetensors.torch

    safetensors.torch.save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="was not written by this version"):
        read_tensors(path)
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, metadata={"nip": '{"format": 99}'})
    with pytest.raises(ValueError, match="reads format 1"):
        read_tensors(path)
