import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

import nip
from lra_runs import one_step
from nip.data import open_split
from nip.lra import batches, evaluation
from nip.lra.evaluation import evaluate
from nip.lra.model import encoder_config
from nip.models import build_classifier
from nip.training.train_step import TrainingDivergedError


def prepared(config, data):
    examples = open_split("listops", "train", data)
    model = build_classifier(encoder_config(config), nip.pattern(config.model, config.n_blocks), seed=0)
    return model, torch.optim.SGD(model.parameters(), lr=0.1), Accelerator(mixed_precision="no"), examples


def gradient_of(model, examples, indices, config):
    """The gradient of the mean loss of the full padded batch, computed at once."""
    input_ids, labels = examples.batch(indices, config.seq_len)
    loss = torch.nn.functional.cross_entropy(model(torch.from_numpy(input_ids)), torch.from_numpy(labels))
    return loss.item(), torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.parametrize("micro_batches", [1, 2, 3, 8])
@pytest.mark.parametrize("protocol", ["clean", "original"])
def test_micro_batches_add_up_to_the_batch(config, data, micro_batches, protocol):
    eval_steps = 1 if protocol == "original" else None
    config = dataclasses.replace(
        config, gradient_accumulation=micro_batches, dropout=0.0, protocol=protocol, eval_steps=eval_steps
    )
    model, optimizer, _accelerator, examples = prepared(config, data)
    indices = np.array([3, 14, 15, 92, 65, 35, 89, 79])
    loss, gradient = gradient_of(model, examples, indices, config)
    before = [weight.detach().clone() for weight in model.parameters()]
    result = one_step(model, optimizer, examples, indices, config)
    measured, accuracy = result.loss, result.accuracy
    assert measured == pytest.approx(loss, rel=1e-5)
    assert accuracy * 8 == round(accuracy * 8)
    for weight, old, slope in zip(model.parameters(), before, gradient, strict=True):
        assert_close(weight.detach(), old - 0.1 * slope, atol=1e-7, rtol=1e-4)
        assert weight.grad is None


@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=40),
    budget=st.integers(1, 3000),
    processes=st.integers(1, 5),
)
def test_groups_of_an_evaluation_cover_all_examples_within_the_budget(lengths, budget, processes):
    class Some:
        width = 1

    examples = Some()
    examples.lengths = np.array(lengths)
    config = dataclasses.replace(nip.lra.recipe("listops"), seq_len=400)
    indices = np.argsort(-examples.lengths, kind="stable")
    groups = batches.split_by_tokens(examples, indices, budget, config, processes)
    assert np.concatenate(groups).tolist() == indices.tolist()
    for group in groups:
        width = batches.padded_length(int(examples.lengths[group].max()), config)
        per_process = -(-len(group) // processes)
        assert per_process == 1 or per_process * width <= budget
        assert width % 16 == 0 and min(400, examples.lengths[group].max()) <= width <= 400
    assert all(len(group) >= processes for group in groups[:-1])  # only in the last one a process may have no example


@given(seq_len=st.integers(1, 5000), block_size=st.sampled_from([1, 8, 16, 64]), data=st.data())
def test_padded_lengths(seq_len, block_size, data):
    config = dataclasses.replace(nip.lra.recipe("listops"), seq_len=seq_len, positions=8192, block_size=block_size)
    longest = data.draw(st.integers(1, 6000))
    length = batches.padded_length(longest, config)
    assert min(longest, seq_len) <= length <= seq_len
    assert length == seq_len or length % block_size == 0
    assert len({batches.padded_length(n, config) for n in range(1, seq_len + 1)}) <= batches.LENGTHS


def test_an_evaluation_equals_one_example_at_a_time(config, data, monkeypatch):
    monkeypatch.setattr(evaluation, "EVALUATION_TOKENS", {True: 64, False: 64})  # many groups
    model, _, accelerator, examples = prepared(config, data)
    indices = np.arange(40)
    losses, right = [], 0
    model.eval()
    for i in indices:
        input_ids, labels = examples.batch([i], config.seq_len)
        logarithms = model(torch.from_numpy(input_ids)).log_softmax(-1)[0]
        losses.append(-logarithms[labels[0]].item())
        right += int(logarithms.argmax() == labels[0])
    loss, answers = evaluate(model.train(), accelerator, examples, indices, config)
    assert (answers.right, answers.asked, answers.examples) == (right, 40, 40)
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_processes_compute_equally_often_and_count_every_example_once(config, data, monkeypatch, processes, n):
    monkeypatch.setattr(evaluation, "EVALUATION_TOKENS", {True: 64, False: 64})  # many groups
    model, _, accelerator, examples = prepared(config, data)
    indices = np.arange(n)
    loss, answers = evaluate(model, accelerator, examples, indices, config)
    calls, added = [], []
    real = evaluation.forward
    monkeypatch.setattr(evaluation, "forward", lambda *arguments: calls.append(1) or real(*arguments))
    # what each process adds; all get the total
    monkeypatch.setattr(
        evaluation, "all_reduce_sum", lambda _, *values: added.append(values) or (loss * n, *answers.sums)
    )
    numbers = set()
    for process in range(processes):
        calls.clear()
        here = SimpleNamespace(num_processes=processes, process_index=process, device=torch.device("cpu"))
        monkeypatch.setattr("nip.training.train_step.uses_deepspeed", lambda _: False)
        evaluate(model, here, examples, indices, config)
        numbers.add(len(calls))
    assert len(numbers) == 1 and numbers != {0}
    loss_sum, *counts = np.sum(added, axis=0)
    assert loss_sum == pytest.approx(loss * n, rel=1e-5)
    assert tuple(counts) == answers.sums


def test_a_nan_loss_does_not_change_the_weights(config, data):
    model, optimizer, _accelerator, examples = prepared(config, data)
    with torch.no_grad():
        model.output.bias[3] = math.inf
    before = [weight.detach().clone() for weight in model.parameters()]
    with pytest.raises(TrainingDivergedError, match="Step 6 cannot be taken: its loss is nan"):
        one_step(model, optimizer, examples, np.arange(8), config, step=5)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))


def test_dropout_depends_on_seed_and_step_alone(config, data):
    results = {}
    for seed, step in ((0, 0), (0, 0), (0, 1), (1, 0)):
        model, optimizer, _accelerator, examples = prepared(dataclasses.replace(config, dropout=0.5), data)
        torch.rand(17)
        loss = one_step(model, optimizer, examples, np.arange(8), dataclasses.replace(config, seed=seed), step).loss
        assert results.setdefault((seed, step), loss) == loss
    assert len(set(results.values())) == 3


def test_an_unknown_token_is_refused(config, data):
    model, optimizer, _accelerator, examples = prepared(config, data)
    tokens = np.array(examples.tokens)
    tokens[examples.offsets[5]] = 32
    with pytest.raises(ValueError, match=r"train set of listops contains the token id 32; it must be in \[0, 32\)"):
        one_step(model, optimizer, dataclasses.replace(examples, tokens=tokens), np.arange(8), config)


def test_bf16_computes_in_bf16_and_keeps_weights_in_fp32(config, data):
    losses = []
    for precision in ("fp32", "bf16"):
        config = dataclasses.replace(config, precision=precision, dropout=0.0)
        model, optimizer, _accelerator, examples = prepared(config, data)
        losses.append(one_step(model, optimizer, examples, np.arange(8), config).loss)
        assert all(weight.dtype == torch.float32 for weight in model.parameters())
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)  # eight bits of mantissa
