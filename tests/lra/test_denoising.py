"""Self-pretraining by denoising: masks, targets, and bit-identical resuming."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import nip
from lra_runs import one_step
from nip.data import TASKS, Examples, open_split, write_task
from nip.data.masking import IGNORED
from nip.lra import train
from nip.lra.batches import padded_micro_batches
from nip.lra.denoising import (
    FOLDER,
    DenoisingTask,
    held_out_examples,
    level_loss,
    masked_micro_batches,
    masked_tokens,
    n_outputs,
    training_examples,
)
from nip.lra.model import encoder_config
from nip.lra.objective import LABELS, class_loss
from nip.models import build_classifier, build_denoiser
from nip.runs.folder import RunFolder, read_metrics
from nip.training import trainer
from nip.training.checkpoint import read_tensors
from nip.training.train_step import TrainingDivergedError

MADE = {"source": "made for tests", "parameters": {}, "split_rule": "", "licence": ""}
MASKED = {"listops": 0.1, "text": 0.15, "retrieval": 0.15, "image": 0.5, "fashion-mnist": 0.5}


@pytest.fixture
def modern(config):
    """The tiny configuration in the modern recipe."""
    return dataclasses.replace(
        config, recipe="modern", repeats=1, width=16, heads=2, head_dim=8, inner_width=24, dropout=0.1,
        pretrain_steps=8, pretrain_learning_rate=3e-3, mask_share=0.3,
    )  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(share=st.sampled_from([0.1, 0.15, 0.5]), seed=st.integers(0, 10**6), step=st.integers(0, 10**6))
def test_the_number_of_masked_tokens_is_binomial(share, seed, step):
    real = np.tile(np.arange(4096) < 4000, (4, 1))
    counts = masked_tokens(real, share, seed, step, np.arange(4)).sum(axis=1).tolist()
    assert abs(sum(counts) - 16000 * share) < 6 * math.sqrt(16000 * share * (1 - share))
    assert len(set(counts)) > 1


def test_a_mask_is_a_function_of_seed_step_and_example():
    def drawn(seed, step, example):
        return masked_tokens(np.ones((1, 200), bool), 0.5, seed, step, np.array([example])).tobytes()

    masks = {key: drawn(*key) for key in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, "held-out", 0)]}
    assert len(set(masks.values())) == 5
    together = masked_tokens(np.ones((3, 200), bool), 0.5, 0, 0, np.array([1, 8, 0]))
    assert together[0].tobytes() == masks[0, 0, 1] and together[2].tobytes() == masks[0, 0, 0]


@given(lengths=st.tuples(st.integers(1, 20), st.integers(1, 20)), padding=st.integers(0, 9), seed=st.integers(0, 99))
def test_padding_is_never_masked_and_every_sequence_has_a_masked_token(lengths, padding, seed):
    real = (np.arange(max(lengths) + padding) < np.array(lengths)[:, None])[None]  # one pair
    hidden = masked_tokens(real, 0.1, seed, 3, np.array([5]))
    assert not (hidden & ~real).any()
    assert hidden.any(axis=-1).all()
    unpadded = masked_tokens(real[..., : max(lengths)], 0.1, seed, 3, np.array([5]))
    assert np.array_equal(unpadded, hidden[..., : max(lengths)])
    # the two documents of a pair are the sequences 10 and 11 of the set
    alone = masked_tokens(real[0], 0.1, seed, 3, np.array([10, 11]))
    assert np.array_equal(alone, hidden[0])


@pytest.mark.parametrize("task", ["listops", "retrieval", "image"])
def test_inputs_and_targets(task, any_data, small):
    config = small(task, recipe="modern", positions=40, mask_share=0.5, cut=None)
    examples = open_split(task, "train", any_data(task))
    parts = [np.array([3, 11, 5]), np.array([7])]
    plain = list(padded_micro_batches(examples, parts, config))
    masked = list(masked_micro_batches(examples, parts, config, 9))
    for before, after in zip(plain, masked, strict=True):
        hidden = after.inputs["input_ids"] == TASKS[task].vocab_size
        assert hidden.any() and not (hidden & ~before.inputs["mask"]).any()
        assert torch.equal(hidden, after.targets != IGNORED)
        assert torch.equal(after.targets[hidden], before.inputs["input_ids"][hidden])
        assert torch.equal(after.inputs["input_ids"][~hidden], before.inputs["input_ids"][~hidden])
        assert torch.equal(after.inputs["mask"], before.inputs["mask"])
    # the same mask in any micro-batch
    (alone,) = masked_micro_batches(examples, [np.array([11])], config, 9)
    length = min(alone.inputs["input_ids"].shape[-1], masked[0].inputs["input_ids"].shape[-1])
    assert torch.equal(alone.inputs["input_ids"][0, ..., :length], masked[0].inputs["input_ids"][1, ..., :length])


@pytest.mark.parametrize("loss_of", [class_loss, level_loss])
def test_only_masked_tokens_count_in_the_loss(loss_of):
    generator = torch.Generator().manual_seed(0)
    classes = 1 if loss_of is level_loss else 256
    numbers = torch.randn(2, 3, 10, classes, generator=generator, requires_grad=True)
    answers = torch.randint(0, 256, (2, 3, 10), generator=generator)
    hidden = torch.rand(2, 3, 10, generator=generator) < 0.4
    with torch.no_grad():
        numbers[0, 0, 0] = answers[0, 0, 0] / 255 if classes == 1 else 50.0 * torch.eye(256)[answers[0, 0, 0]]
    hidden[0, 0, 0] = True
    loss, right = loss_of(numbers, answers.masked_fill(~hidden, IGNORED))
    expected = 0.0
    for place in hidden.nonzero().tolist():
        row, answer = numbers[tuple(place)].detach().double(), int(answers[tuple(place)])
        expected += abs(row.item() - answer / 255) if classes == 1 else (row.exp().sum().log() - row[answer]).item()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    touched = numbers.grad.abs().sum(-1) > 0
    touched[0, 0, 0] = True  # its loss is minimal
    assert torch.equal(touched, hidden)
    assert right[0, 0, 0] and not (right & ~hidden).any()


@pytest.mark.parametrize("task", ["retrieval", "image"])
def test_micro_batches_add_up_to_the_batch(task, any_data, small):
    config = small(task, recipe="modern", positions=40, mask_share=0.5, cut=None, dropout=0.0, gradient_accumulation=3)
    config = dataclasses.replace(config, width=16, heads=2, head_dim=8, inner_width=16, attention_dropout=0.0)
    examples = open_split(task, "train", any_data(task))
    graph = nip.pattern("hypercube", config.n_blocks)
    model = build_denoiser(encoder_config(config), graph, outputs=n_outputs(TASKS[task]), seed=0)
    indices, before = np.arange(6), {name: weight.detach().clone() for name, weight in model.named_parameters()}
    (full,) = masked_micro_batches(examples, [indices], config, 2)
    hidden = full.targets != IGNORED
    numbers, answers = model(full.inputs["input_ids"], full.inputs["mask"])[hidden], full.targets[hidden]
    if task == "image":
        loss = (numbers[:, 0] - answers / 255).abs().mean()
    else:
        loss = torch.nn.functional.cross_entropy(numbers, answers)
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    measured = one_step(
        model, optimizer, examples, indices, config, 2, DenoisingTask(config, {"train": examples}).objective(2)
    ).loss
    assert measured == pytest.approx(loss.item(), rel=1e-5)
    for (name, weight), slope in zip(model.named_parameters(), slopes, strict=True):
        assert_close(weight.detach(), before[name] - 0.1 * slope, atol=1e-6, rtol=1e-4)


def test_levels_are_regressed_on_natural_images_only():
    assert {name: n_outputs(task) for name, task in TASKS.items()} == {
        name: 1 if name in ("image", "fashion-mnist") else task.vocab_size for name, task in TASKS.items()
    }


@given(n=st.integers(2, 60_000), seed=st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_held_out_examples_are_not_trained_on(n, seed):
    held, kept = held_out_examples(n, seed), training_examples(n, seed)
    assert sorted([*held, *kept]) == list(range(n))
    assert len(held) == min(1024, max(1, n // 20))


def test_batches_contain_training_examples_only(modern, data):
    task = DenoisingTask(modern, {"train": open_split("listops", "train", data)})
    seen = np.concatenate([task.indices(step) for step in range(380 // 8)])
    assert len(set(seen)) == len(seen) == 376  # an epoch, without the last incomplete batch
    assert not set(seen) & set(held_out_examples(400, modern.seed))
    assert not np.array_equal(task.indices(0), task.indices(1))


def phases(folder, comparable):
    """Everything of both phases that must be bit-identical."""
    before = RunFolder(folder / FOLDER)
    clock = ("seconds", "training_seconds")
    rows = [{key: row[key] for key in row if key not in clock} for row in read_metrics(before.metrics)]
    result = {key: value for key, value in json.loads(before.result.read_text()).items() if key not in clock}
    tensors = [
        {name: tensor.numpy().tobytes() for name, tensor in read_tensors(path)[0].items()}
        for path in (before.checkpoint, before.best)
    ]
    return [comparable(folder), rows, result, tensors]


def test_training_starts_from_the_best_denoising_weights(modern, data, tmp_path):
    config = dataclasses.replace(modern, max_steps=1, eval_every=1, learning_rate=1e-30, weight_decay=0.0)
    result = train(config, tmp_path / "run", data=data)
    assert result["steps"] == 1
    before = RunFolder(tmp_path / "run" / FOLDER)
    rows = read_metrics(before.metrics)
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, 9))
    assert {row["split"] for row in rows} == {"train", "held-out"}
    best, header = read_tensors(before.best)
    looked = {row["step"]: row["loss"] for row in rows if row["split"] == "held-out"}
    assert header["step"] == min(looked, key=looked.get)
    assert json.loads(before.result.read_text())["held_out_loss"] == min(looked.values())
    # training started with the best weights of denoising, the others as drawn from the seed
    graph = nip.pattern("hypercube", 4)
    fresh = build_classifier(encoder_config(config), graph, seed=config.seed).state_dict()
    for name, weight in read_tensors(RunFolder(tmp_path / "run").best)[0].items():
        assert torch.equal(weight, best.get(name, fresh[name])), name
    assert not torch.equal(best["tokens.weight"], fresh["tokens.weight"])


def test_without_pretraining_there_is_no_folder(modern, data, tmp_path):
    config = dataclasses.replace(modern, pretrain_steps=0, max_steps=2)
    train(config, tmp_path / "run", data=data)
    assert not (tmp_path / "run" / FOLDER).exists()


def test_neither_labels_nor_other_splits_are_used(modern, data, tmp_path):
    config = dataclasses.replace(modern, max_steps=1)
    changed = tmp_path / "data"
    splits = {split: open_split("listops", split, data) for split in ("train", "dev", "test")}
    generator = np.random.default_rng(0)
    for split, examples in splits.items():
        tokens = examples.tokens if split == "train" else generator.integers(1, 16, len(examples.tokens))
        labels = generator.integers(0, 10, len(examples))
        splits[split] = Examples(examples.task, split, tokens, examples.offsets, labels)
    write_task(splits, changed, MADE)
    found = []
    for name, folder in (("one", data), ("other", changed)):
        train(config, tmp_path / name, data=folder)
        found.append(read_tensors(RunFolder(tmp_path / name / FOLDER).checkpoint)[0])
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_denoising_learns_to_reconstruct(modern, tmp_path):
    # every sequence repeats one token, so masked tokens follow from the others
    generator = np.random.default_rng(0)
    splits = {}
    for split, n in (("train", 200), ("dev", 8), ("test", 8)):
        tokens = np.repeat(generator.integers(1, 16, n), 20)
        splits[split] = Examples(TASKS["listops"], split, tokens, np.arange(n + 1) * 20, np.zeros(n, np.int64))
    write_task(
        splits, tmp_path / "data", {"source": "made for tests", "parameters": {}, "split_rule": "", "licence": ""}
    )
    config = dataclasses.replace(modern, pretrain_steps=120, pretrain_learning_rate=1e-2, max_steps=1, eval_every=40)
    train(config, tmp_path / "run", data=tmp_path / "data")
    rows = read_metrics(RunFolder(tmp_path / "run" / FOLDER).metrics)
    assert rows[0]["loss"] > 2.5
    assert rows[-1]["split"] == "held-out" and rows[-1]["loss"] < 0.3 and rows[-1]["accuracy"] > 0.95


def test_a_tiny_task_is_learned(modern, data, tmp_path):
    # the one digit among other tokens is the label
    config = dataclasses.replace(modern, max_steps=120, learning_rate=5e-3, batch_size=16, eval_every=40)
    result = train(config, tmp_path / "run", data=data)
    assert result["test_accuracy"] > 0.9 and result["learnt"]


@pytest.mark.parametrize("task", MASKED)
def test_tasks_of_every_kind(task, any_data, small, tmp_path):
    config = small(task, recipe="modern", positions=40, repeats=1, cut=None, max_steps=2, gradient_checkpointing=True)
    config = dataclasses.replace(
        config, pretrain_steps=2, pretrain_learning_rate=1e-3, mask_share=MASKED[task], ema=0.9, model="bigbird"
    )
    result = train(config, tmp_path / "run", data=any_data(task))
    assert math.isfinite(result["test_loss"]) and result["steps"] == 2
    rows = read_metrics(RunFolder(tmp_path / "run" / FOLDER).metrics)
    assert all(math.isfinite(row["loss"]) for row in rows) and len(rows) == 3


def until(folder, lines):
    """Wait until the metrics in a folder have that many lines, then kill."""
    import contextlib
    import os
    import time

    metrics = RunFolder(folder).metrics

    def wait(pid):
        with contextlib.suppress(ProcessLookupError):
            while not metrics.exists() or metrics.read_bytes().count(b"\n") < lines:
                os.kill(pid, 0)
                time.sleep(0.002)

    return wait


def test_a_run_killed_in_either_phase_resumes_bit_identically(modern, data, tmp_path, runner, comparable):
    config = dataclasses.replace(modern, pretrain_steps=24, max_steps=24, eval_every=2)
    assert runner.run(config, tmp_path / "full", data) == 0
    killed = tmp_path / "killed"
    kills = [
        runner.run(config, killed, data, until(folder, lines)) == 9
        for folder, lines in ((killed / FOLDER, 2), (killed / FOLDER, 14), (killed, 1), (killed, 13))
    ]
    assert sum(kills) >= 3
    assert runner.run(config, killed, data) == 0
    assert phases(killed, comparable) == phases(tmp_path / "full", comparable)


def test_a_run_stopped_between_the_phases_resumes_bit_identically(modern, data, tmp_path, comparable, monkeypatch):
    train(modern, tmp_path / "full", data=data)
    true_step = trainer.take_step

    def stopped(run, task, batch):
        if task.objective(0) is LABELS:
            raise KeyboardInterrupt
        return true_step(run, task, batch)

    monkeypatch.setattr(trainer, "take_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(modern, tmp_path / "run", data=data)
    assert not RunFolder(tmp_path / "run").checkpoint.exists()
    monkeypatch.undo()
    train(modern, tmp_path / "run", data=data)
    assert phases(tmp_path / "run", comparable) == phases(tmp_path / "full", comparable)


def test_a_nan_loss_stops_denoising(modern, data, tmp_path, monkeypatch):
    true_loss, calls = torch.nn.functional.cross_entropy, []

    def poisoned(*args, **options):
        calls.append(torch.is_grad_enabled())
        return true_loss(*args, **options) * (math.nan if sum(calls) == 14 else 1)  # two a step: in step 7

    monkeypatch.setattr("nip.lra.objective.functional.cross_entropy", poisoned)
    with pytest.raises(
        TrainingDivergedError, match=r"Step 7 cannot be taken: its loss is nan\..*of step 4, is kept in .*pretraining\."
    ):
        train(modern, tmp_path / "run", data=data)
    monkeypatch.undo()
    assert train(modern, tmp_path / "run", data=data)["steps"] == 12


def test_a_training_set_too_small(modern, data, tmp_path):
    with pytest.raises(ValueError, match="batch of 390 examples cannot be drawn from the 380 of the pretraining set"):
        train(dataclasses.replace(modern, batch_size=390), tmp_path / "run", data=data)
    with pytest.raises(ValueError, match="needs at least two examples"):
        held_out_examples(1, 0)
