"""Steps and evaluations on labels, of every task, on tiny data sets."""

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch.nn import functional
from torch.testing import assert_close

import nip
from lra_runs import one_step
from nip.data import TASKS, baselines, open_split
from nip.data.masking import IGNORED
from nip.data.tasks.probe import routes
from nip.lra import evaluation, train
from nip.lra.batches import padded_micro_batches
from nip.lra.evaluation import evaluate
from nip.lra.model import encoder_config
from nip.models import build_classifier
from nip.report.page import write_report
from nip.runs.accuracy import AccuracyCounts
from nip.runs.folder import RunFolder, read_metrics
from nip.runs.record import find_records
from nip.training.train_step import TrainingDivergedError

KINDS = ["text", "retrieval", "image", "probe"]  # one of each


def prepared(config, data):
    examples = open_split(config.task, "train", data)
    if config.cut:
        examples = examples.cut(config.cut)
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


@pytest.mark.parametrize("protocol", ["clean", "original"])
@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_trained_tested_and_reported(task, protocol, any_data, small, tmp_path):
    config = small(task, protocol)
    result = train(config, tmp_path / "run", data=any_data(task), original_log=True)
    train_set, test_set = (open_split(task, split, any_data(task)) for split in ("train", "test"))
    kept = min(config.seq_len, config.cut or config.seq_len)  # four batches of six are all 24 examples, once
    assert result["tokens"] == np.diff(train_set.offsets).clip(max=kept).sum()
    assert result["n_test"] == (13 if protocol == "clean" else 12)  # of 13: batches of 6
    assert result["baselines"] == baselines(train_set, test_set)
    assert 0 <= result["interval"][0] <= result["test_accuracy"] <= result["interval"][1] <= 1
    assert result.get("n_answers") == (6 * result["n_test"] if task == "probe" else None)
    assert all(math.isfinite(row["loss"]) for row in read_metrics(RunFolder(tmp_path / "run").metrics))
    lines = (tmp_path / "run" / f"{task}_hypercube_output.log").read_text().splitlines()
    assert [json.loads(line)["component"] for line in lines] == ["train", "dev", "train", "dev", "test"]
    write_report([tmp_path / "run"], tmp_path / "report.html")
    (run,) = find_records([tmp_path / "run"])
    assert run.result.test_accuracy == result["test_accuracy"]
    assert task in (tmp_path / "report.html").read_text()


def read_by_hand(examples, i, config):
    """The sequences of an example as the model reads them, and which of their tokens count."""
    kept = min(config.seq_len, config.cut or config.seq_len)
    rows = [examples.sequence(i, part)[:kept].astype(np.int64) for part in range(examples.width)]
    masks = [row != 0 if config.protocol == "original" else np.ones(len(row), bool) for row in rows]
    length = max(map(len, rows))
    rows, masks = ([np.pad(each, (0, length - len(each))) for each in those] for those in (rows, masks))
    stacked = torch.tensor(np.array(rows)), torch.tensor(np.array(masks))
    return stacked if examples.width == 2 else (stacked[0][0], stacked[1][0])


def losses_by_hand(model, examples, indices, config):
    """The losses of all targets, one example after the other, and which are correct, by example."""
    losses, right = [], []
    for i in indices:
        input_ids, mask = read_by_hand(examples, i, config)
        logarithms = model(input_ids[None], mask[None]).log_softmax(-1)[0]
        if examples.task.targets:
            tokens = input_ids.numpy()
            queries = [q for q, key in asked_of(tokens)]
            wanted = [value for _, value in asked_of(tokens)]
        else:
            logarithms, queries, wanted = logarithms[None], [0], [int(examples.labels[i])]
        losses += [-logarithms[q, value] for q, value in zip(queries, wanted, strict=True)]
        right.append([int(logarithms[q].argmax()) == value for q, value in zip(queries, wanted, strict=True)])
    return torch.stack(losses), right


def asked_of(tokens):
    """(place, value) of every query whose pair is in the input, from the names of the tokens."""
    names = [TASKS["probe"].tokens[i] for i in tokens]
    values = dict(name.split("=") for name in names if "=" in name)
    return [(i, int(values[name[1:]])) for i, name in enumerate(names) if name[:1] == "?" and name[1:] in values]


@pytest.mark.parametrize("protocol", ["clean", "original"])
@pytest.mark.parametrize("task", KINDS)
def test_a_step_descends_the_mean_loss_over_all_targets(task, protocol, any_data, small):
    # the probe is cut, so that some queries have no pair
    sizes = {"seq_len": 24} if task == "probe" else {}
    config = small(task, protocol, dropout=0.0, attention_dropout=0.0, **sizes)
    model, optimizer, _accelerator, examples = prepared(config, any_data(task))
    indices = np.array([3, 14, 15, 9, 2, 6])
    losses, right = losses_by_hand(model, examples, indices, config)
    if task == "probe":
        assert 6 < len(losses) < 36
    gradient = torch.autograd.grad(losses.mean(), list(model.parameters()))
    before = [weight.detach().clone() for weight in model.parameters()]
    result = one_step(model, optimizer, examples, indices, config)
    loss, accuracy = result.loss, result.accuracy
    assert loss == pytest.approx(losses.mean().item(), rel=1e-5)
    assert accuracy == pytest.approx(sum(map(sum, right)) / len(losses))
    for weight, old, slope in zip(model.parameters(), before, gradient, strict=True):
        assert_close(weight.detach(), old - 0.1 * slope, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("task", KINDS)
def test_an_evaluation_counts_the_targets_of_every_example(task, any_data, small, monkeypatch):
    monkeypatch.setattr(evaluation, "EVALUATION_TOKENS", {True: 128, False: 128})  # several groups
    config = small(task, "clean")
    model, _, accelerator, examples = prepared(config, any_data(task))
    indices = np.arange(20)
    losses, right = losses_by_hand(model.eval(), examples, indices, config)
    loss, answers = evaluate(model.train(), accelerator, examples, indices, config)
    assert loss == pytest.approx(losses.mean().item(), rel=1e-5)
    counts = (np.array([reduce(each) for each in right]) for reduce in (sum, len))
    assert answers == AccuracyCounts.counted(*counts)


def test_black_pixels_are_masked_by_the_original_only(any_data, small):
    examples = open_split("image", "train", any_data("image"))
    for protocol in ("clean", "original"):
        (part,) = padded_micro_batches(examples, [np.arange(6)], small("image", protocol))
        black = part.inputs["input_ids"] == 0
        assert black.any() and part.inputs["mask"].equal(~black if protocol == "original" else torch.ones_like(black))


def test_the_original_cuts_texts_and_divides_by_the_padded_length(any_data, small):
    config = small("text", "original")
    model, _, _, examples = prepared(config, any_data("text"))
    (part,) = padded_micro_batches(examples, [np.arange(24)], config)
    assert part.inputs["mask"].sum(1).max() == 20 and examples.lengths.max() == 20
    assert max(open_split("text", "train", any_data("text")).lengths) > 20
    x = model.eval().features(part.inputs["input_ids"], part.inputs["mask"])
    mean = torch.stack([row[real].sum(0) / 40 for row, real in zip(x, part.inputs["mask"], strict=True)])
    assert_close(model.encode(part.inputs["input_ids"], part.inputs["mask"]), mean)


def test_queries_without_their_pair_after_a_cut_are_ignored(any_data, small):
    examples = open_split("probe", "train", any_data("probe"))
    (part,) = padded_micro_batches(examples, [np.arange(24)], small("probe", seq_len=24))
    asked = 0
    for i, answers in enumerate(part.targets):
        queries, pairs = routes(examples.sequence(i))
        kept = [int(q) for q, pair in zip(queries, pairs, strict=True) if max(q, pair) < 24]
        assert (answers != IGNORED).nonzero().flatten().tolist() == kept
        asked += len(kept)
    assert 0 < asked == part.n_targets < 24 * 6
    with pytest.raises(ValueError, match="The batch of step 1 has no targets within 1 tokens"):
        model, optimizer, _, examples = prepared(small("probe", seq_len=1), any_data("probe"))
        one_step(model, optimizer, examples, np.arange(6), small("probe", seq_len=1))


@pytest.mark.parametrize("task", KINDS)
def test_a_nan_loss_stops_every_task(task, any_data, small, tmp_path, monkeypatch):
    true_loss, calls = functional.cross_entropy, []

    def poisoned(*args, **options):
        calls.append(torch.is_grad_enabled())
        return true_loss(*args, **options) * (math.nan if sum(calls) == 6 else 1)  # two micro-batches a step

    monkeypatch.setattr("nip.lra.objective.functional.cross_entropy", poisoned)
    with pytest.raises(
        TrainingDivergedError, match=r"Step 3 cannot be taken: its loss is nan\..*good checkpoint, of step 2, is kept"
    ):
        train(small(task), tmp_path / "run", data=any_data(task))
    monkeypatch.undo()
    assert train(small(task), tmp_path / "run", data=any_data(task))["steps"] == 4


@pytest.mark.parametrize(
    ("task", "file", "value", "says"),
    [
        ("retrieval", "labels", 2, r"train\.labels\.npy is damaged: it has labels outside 0 … 1"),
        ("fashion-mnist", "labels", 10, r"train\.labels\.npy is damaged: it has labels outside 0 … 9"),
        ("retrieval", "tokens", 257, r"train set of retrieval contains the token id 257; it must be in \[0, 257\)"),
        ("probe", "tokens", 146, r"train set of probe contains the token id 146; it must be in \[0, 146\)"),
        ("probe", "targets", 9, r"train set of probe contains the label of a token 9; it must be in \[0, 9\)"),
        ("image", "offsets", 1023, "it has images of other than 1024 pixels"),
    ],
)
def test_data_of_another_task_is_refused(task, file, value, says, any_data, small, tmp_path):
    import shutil

    shutil.copytree(any_data(task), tmp_path / "data")
    path = tmp_path / "data" / task / f"train.{file}.npy"
    array = np.array(np.load(path))
    if file == "offsets":
        array[1] = value
    else:
        array[:] = value
    np.save(path, array)
    with pytest.raises(ValueError, match=says):
        train(small(task), tmp_path / "run", data=tmp_path / "data")
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(("protocol", "split", "size"), [("clean", "train", 25), ("original", "test", 14)])
def test_a_split_smaller_than_a_batch_is_refused(protocol, split, size, any_data, small, tmp_path):
    config = small("probe", protocol, batch_size=size)
    with pytest.raises(ValueError, match=f"A batch of {size} examples cannot be drawn from the .. of the {split} set"):
        train(config, tmp_path / "run", data=any_data("probe"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("task", ["retrieval", "image", "bible-books"])
def test_easy_tasks_are_learned(task, any_data, small, tmp_path):
    config = small(
        task, learning_rate=3e-3, dropout=0.0, attention_dropout=0.0, weight_decay=0.0, max_steps=60, eval_every=60
    )
    train(config, tmp_path / "run", data=any_data(task))
    rows = [row for row in read_metrics(RunFolder(tmp_path / "run").metrics) if row["split"] == "train"]
    assert np.mean([row["accuracy"] for row in rows[-4:]]) > 0.9  # on the examples that it is trained on
