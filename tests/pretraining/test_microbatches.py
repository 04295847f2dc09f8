import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nip.data.corpus import Masking, open_corpus
from nip.pretraining.microbatches import HELD_OUT_EPOCH, Lookahead, held_out_micro_batches, training_micro_batches

MASKING = Masking(probability=0.2, max_predictions=6)


@pytest.fixture(scope="module")
def corpus(corpora):
    return open_corpus(corpora["packed"])


@pytest.fixture(scope="module")
def held_out(corpora):
    return open_corpus(corpora["packed"], "test")


@pytest.fixture(scope="module")
def pairs(corpora):
    return open_corpus(corpora["pairs"])


def rows(micro_batch):
    """The unmasked samples of a micro-batch, as tuples."""
    ids = micro_batch.inputs["input_ids"].clone().flatten()
    ids[micro_batch.inputs["positions"]] = micro_batch.targets
    return [tuple(row.tolist()) for row in ids.view_as(micro_batch.inputs["input_ids"])]


def originals(corpus):
    return sorted(tuple(row) for row in corpus.samples(np.arange(len(corpus))).input_ids.tolist())


def arguments(micro_batch):
    return {name: x for name, x in {**micro_batch.inputs, "targets": micro_batch.targets}.items() if x is not None}


def test_an_epoch_has_every_sample_once_while_the_batch_grows(corpus):
    n, seen, position, count = len(corpus), [], 0, 1
    while position < n:
        count = min(count, n - position)
        for each in training_micro_batches(corpus, position, count, 4, MASKING, seed=3):
            seen += rows(each)
        position, count = position + count, count + 2
    assert sorted(seen) == originals(corpus)


@given(data=st.data())
def test_processes_and_micro_batches_share_a_batch_without_changing_it(corpus, data):
    processes = data.draw(st.integers(1, 4))
    count = processes * data.draw(st.integers(1, 6))
    position = data.draw(st.integers(0, 3 * len(corpus)))
    (full,) = training_micro_batches(corpus, position, count, count, MASKING, seed=1)
    micro = data.draw(st.integers(1, 7))
    shares = [
        training_micro_batches(corpus, position, count, micro, MASKING, seed=1, process=r, processes=processes)
        for r in range(processes)
    ]
    assert len({len(micro_batches) for micro_batches in shares}) == 1
    assert all(1 <= each.samples <= micro for micro_batches in shares for each in micro_batches)
    found = [torch.cat([each.inputs["input_ids"] for each in micro_batches]) for micro_batches in shares]
    assert torch.equal(torch.stack(found, 1).flatten(0, 1), full.inputs["input_ids"])
    labels = torch.cat([each.targets for micro_batches in shares for each in micro_batches])
    assert sorted(labels.tolist()) == sorted(full.targets.tolist())
    assert sum(each.tokens for micro_batches in shares for each in micro_batches) == full.tokens


def test_a_batch_across_two_epochs(corpus):
    n = len(corpus)
    (across,) = training_micro_batches(corpus, n - 3, 5, 5, MASKING, seed=1)
    (before,), (after,) = (training_micro_batches(corpus, at, k, k, MASKING, seed=1) for at, k in ((n - 3, 3), (n, 2)))
    length = corpus.max_seq_length
    assert torch.equal(across.inputs["input_ids"], torch.cat([before.inputs["input_ids"], after.inputs["input_ids"]]))
    assert torch.equal(
        across.inputs["positions"], torch.cat([before.inputs["positions"], after.inputs["positions"] + 3 * length])
    )
    assert torch.equal(across.targets, torch.cat([before.targets, after.targets]))
    assert torch.equal(
        across.inputs["segment_ids"], torch.cat([before.inputs["segment_ids"], after.inputs["segment_ids"]])
    )
    assert (across.samples, across.n_targets, across.tokens) == (5, len(across.targets), before.tokens + after.tokens)


def test_epochs_differ_in_order_and_masks(corpus):
    n = len(corpus)
    (first,), (second,) = (training_micro_batches(corpus, at, n, n, MASKING, seed=1) for at in (0, n))
    assert sorted(rows(first)) == sorted(rows(second)) and rows(first) != rows(second)
    places = {row: k for k, row in enumerate(rows(first))}
    same = [
        torch.equal(first.inputs["input_ids"][places[row]], second.inputs["input_ids"][k])
        for k, row in enumerate(rows(second))
    ]
    assert sum(same) < n / 2


def test_masks_are_those_of_the_corpus(corpus):
    batch = corpus.batch(np.arange(4, 20), seed=2, epoch=0)
    masked = corpus.masked(batch, MASKING, seed=2, epoch=0)
    (micro_batch,) = training_micro_batches(corpus, 4, 16, 16, MASKING, seed=2)
    assert torch.equal(micro_batch.inputs["input_ids"], torch.from_numpy(masked.input_ids))
    labels = torch.full((16 * corpus.max_seq_length,), -100)
    labels[micro_batch.inputs["positions"]] = micro_batch.targets
    assert torch.equal(labels.view(16, -1), torch.from_numpy(masked.labels))
    assert torch.equal(micro_batch.inputs["segment_ids"], torch.from_numpy(batch.segment_ids))
    assert (
        micro_batch.tokens == int((batch.segment_ids > 0).sum())
        and micro_batch.inputs["token_type_ids"] is micro_batch.inputs["next_sentence"] is None
    )


def test_samples_of_one_document_have_no_segments(corpus, monkeypatch):
    full = next(k for k in range(len(corpus)) if (corpus.samples(np.array([k])).segment_ids == 1).all())
    monkeypatch.setattr(type(corpus), "batch", lambda self, places, seed, epoch: self.samples(np.array([full])))
    (micro_batch,) = training_micro_batches(corpus, 0, 1, 1, MASKING, seed=1)
    assert micro_batch.inputs["segment_ids"] is None and micro_batch.tokens == corpus.max_seq_length
    (both,) = training_micro_batches(corpus, len(corpus) - 1, 2, 2, MASKING, seed=1)
    assert both.inputs["segment_ids"] is None and both.samples == 2


def test_samples_of_a_masked_corpus_keep_masks_and_pairs(pairs):
    n = len(pairs)
    (first,), (second,) = (training_micro_batches(pairs, at, n, n, MASKING, seed=1) for at in (0, n))
    assert sorted(map(tuple, first.inputs["input_ids"].tolist())) == sorted(
        map(tuple, second.inputs["input_ids"].tolist())
    )
    batch = pairs.batch(np.arange(n), seed=1, epoch=0)
    assert torch.equal(first.inputs["token_type_ids"], torch.from_numpy(batch.token_type_ids))
    assert torch.equal(first.inputs["next_sentence"], torch.from_numpy(batch.next_sentence))
    assert first.inputs["token_type_ids"].max() == 1 and 0 < first.inputs["next_sentence"].sum() < n
    (across,) = training_micro_batches(pairs, n - 1, 2, 2, MASKING, seed=1)
    assert torch.equal(
        across.inputs["next_sentence"],
        torch.stack([first.inputs["next_sentence"][-1], second.inputs["next_sentence"][0]]),
    )


@pytest.mark.parametrize("processes", [1, 2, 5])
@pytest.mark.parametrize("limit", [None, 13])
def test_held_out_samples_are_the_same_at_every_evaluation(held_out, processes, limit):
    n = len(held_out) if limit is None else limit
    assert n >= 13
    (full,) = held_out_micro_batches(held_out, len(held_out), MASKING, seed=1, limit=limit)
    shares = [
        list(held_out_micro_batches(held_out, 2, MASKING, seed=1, process=r, processes=processes, limit=limit))
        for r in range(processes)
    ]
    assert len({len(micro_batches) for micro_batches in shares}) == 1
    micro_batches = [each for share in shares for each in share]
    assert sum(each.samples for each in micro_batches) == full.samples == n
    assert sum(each.tokens for each in micro_batches) == full.tokens
    assert sorted(row for each in micro_batches if each.samples for row in rows(each)) == sorted(rows(full))
    assert sorted(label for each in micro_batches for label in each.targets.tolist()) == sorted(full.targets.tolist())
    empty = [each for each in micro_batches if not each.samples]
    assert all(each.n_targets == each.tokens == 0 and len(each.inputs["input_ids"]) == 1 for each in empty)
    assert bool(empty) == (0 < n % (2 * processes) < processes)  # of 13 samples in rounds of 10 so with five
    again = held_out_micro_batches(held_out, len(held_out), MASKING, seed=1, limit=limit)
    assert torch.equal(next(again).inputs["input_ids"], full.inputs["input_ids"])


def test_held_out_masks_differ_from_training_masks(corpus):
    n = len(corpus)
    trained = {tuple(row) for (each,) in (training_micro_batches(corpus, at, n, n, MASKING, seed=1) for at in (0, n))
               for row in each.inputs["input_ids"].tolist()}  # fmt: skip
    (micro_batch,) = held_out_micro_batches(corpus, n, MASKING, seed=1)
    assert sum(tuple(row) in trained for row in micro_batch.inputs["input_ids"].tolist()) < n / 2


def test_a_micro_batch_moves_to_a_device_completely(pairs):
    (micro_batch,) = training_micro_batches(pairs, 0, 3, 3, MASKING, seed=1)
    moved = micro_batch.to(torch.device("meta"))
    assert all(x.device.type == "meta" for x in arguments(moved).values())
    assert arguments(moved).keys() == arguments(micro_batch).keys() >= {"token_type_ids", "next_sentence"}
    assert (moved.samples, moved.tokens) == (micro_batch.samples, micro_batch.tokens)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"count": 3, "processes": 2}, "2 processes cannot share a batch of 3 samples equally"),
        ({"count": 0}, "cannot share a batch of 0 samples"),
        ({"micro_batch": 0}, "'micro_batch' parameter of training_micro_batches"),
        ({"position": -1}, "'position' parameter of training_micro_batches"),
    ],
)
def test_impossible_batches_are_refused(corpus, wrong, says):
    with pytest.raises(ValueError, match=says):
        training_micro_batches(
            corpus, **{"position": 0, "count": 2, "micro_batch": 1, **wrong}, masking=MASKING, seed=0
        )


def test_lookahead_changes_only_the_thread():
    where = []

    def make(x, *, y=0):
        where.append(threading.current_thread() is threading.main_thread())
        if x < 0:
            raise ValueError(f"no {x}")
        return x + y

    ahead = Lookahead(make)
    ahead.start(1, y=2)
    assert ahead.get(1, y=2) == 3 and where == [False]
    ahead.start(1, y=2)
    assert ahead.get(1, y=3) == 4 and where[-1]  # not the call that was started
    assert ahead.get(1, y=2) == 3 and where[-1]
    ahead.start(-1)
    with pytest.raises(ValueError, match="no -1"):
        ahead.get(-1)
    ahead.close()


def test_calls_of_a_lookahead_never_overlap():
    inside, most = [], []
    begun = threading.Event()

    def make(x):
        inside.append(x)
        begun.set()
        time.sleep(0.05)
        most.append(len(inside))
        inside.remove(x)
        return x

    ahead = Lookahead(make)
    ahead.start(1)
    assert begun.wait(10) and ahead.get(2) == 2  # not the call that was started, and is being made
    ahead.close()
    assert most == [1, 1]


def test_lookahead_gives_the_same_micro_batches(corpus):
    def make(position):
        return training_micro_batches(corpus, position, 4, 2, MASKING, seed=1)

    ahead = Lookahead(make)
    ahead.start(4)
    for found, expected in zip(ahead.get(4), make(4), strict=True):
        assert all(torch.equal(x, arguments(expected)[name]) for name, x in arguments(found).items())
    ahead.close()
    assert HELD_OUT_EPOCH < 0
