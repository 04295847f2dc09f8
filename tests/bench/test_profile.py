import dataclasses

import pytest
import torch

import nip
from nip.bench import profile
from nip.data import open_split
from nip.lra import batches
from nip.models import lra


def test_the_parts_are_found_and_add_up(config, data):
    found = profile.profile_step(profile.make_step(config, open_split("listops", "train", data)), repeats=1)
    assert set(found) == {*profile.GROUPS, "other", "step"}
    assert sum(found.values()) == pytest.approx(2 * found["step"])
    for part in ("attention", "dropout", "layer norm", "GELU", "linear maps", "embeddings", "optimizer"):
        assert found[part] > 0


@pytest.mark.parametrize("backend", ["native", "gather", "dense"])
def test_backward_passes_of_attention_are_counted_as_attention(config, data, backend):
    if not next(each.available for each in nip.backends() if each.name == backend):
        pytest.skip(f"{backend} is not available here")
    step = profile.make_step(dataclasses.replace(config, backend=backend), open_split("listops", "train", data))
    with profile.attention_named(), torch.profiler.profile() as profiled:
        step()
    prefix = "autograd::engine::evaluate_function: "
    words = profile.GROUPS["attention"]
    backward = {e.name.removeprefix(prefix) for e in profiled.events() if e.name.startswith(prefix)}
    known = [word for part, group in profile.GROUPS.items() if part != "attention" for word in group]
    outside = (
        "NllLoss",
        "LogSoftmax",
        "Add",
        "Mul",
        "Div",
        "Relu",
        "Slice",
        "Squeeze",
        "Unsqueeze",
        "Expand",
        "ToCopy",
    )
    assert any(word in name for name in backward for word in words)
    for name in backward:  # nothing of it falls under "other"
        assert any(word in name for word in (*words, *known, *outside)), name


def test_every_step_is_the_same_work(config, data, monkeypatch):
    seen = []
    monkeypatch.setattr(profile, "take_step", lambda run, task, batch: seen.append(batch))
    step = profile.make_step(config, open_split("listops", "train", data))
    step()
    step()
    assert seen[0].samples == seen[1].samples == config.batch_size
    for one, other in zip(seen[0].micro_batches, seen[1].micro_batches, strict=True):
        assert torch.equal(one.inputs["input_ids"], other.inputs["input_ids"])


def test_loading_reads_what_the_steps_read(config, data, monkeypatch):
    examples, seen = open_split("listops", "train", data), []
    real = profile.padded_micro_batches

    def watched(given, parts, *rest):
        parts = list(parts)
        seen.append([part.tolist() for part in parts])
        return real(given, parts, *rest)

    monkeypatch.setattr(profile, "padded_micro_batches", watched)
    load = profile.make_loading(config, examples)
    load()
    load()
    for number, parts in enumerate(seen):
        batch = profile.endless_batch(len(examples), config.batch_size, config.seed, "train", number)
        assert sorted(index for part in parts for index in part) == sorted(batch)
    assert [len(parts) for parts in seen] == [config.gradient_accumulation] * 2


def test_plainly_changes_nothing_but_the_way(config):
    before = (lra.dropout, lra.add_dropout, batches.padded_length)
    x = torch.ones(20_000)
    torch.manual_seed(0)
    with profile.plainly():
        assert batches.padded_length(3, config) == config.seq_len
        dropped = lra.add_dropout(x, x, 0.25, True)
        assert dropped.unique().tolist() == pytest.approx([1.0, 1 + 4 / 3])
        assert dropped.mean().item() == pytest.approx(2, abs=0.03)
        assert torch.equal(lra.dropout(x, 0.25, False), x)
    assert before == (lra.dropout, lra.add_dropout, batches.padded_length)
