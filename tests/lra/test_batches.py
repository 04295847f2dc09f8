import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nip.lra import batches, recipe
from nip.lra.batches import development_indices, endless_batch, indices_to_test, shuffled


@given(n=st.integers(1, 200), batch_size=st.integers(1, 50), seed=st.integers(0, 2**64), epoch=st.integers(0, 5))
def test_an_epoch_has_every_example_at_most_once(n, batch_size, seed, epoch):
    if batch_size > n:
        with pytest.raises(ValueError, match=f"A batch of {batch_size} examples cannot be drawn from the {n} of"):
            endless_batch(n, batch_size, seed, "train", 0)
        return
    per_pass = n // batch_size
    numbers = range(epoch * per_pass, (epoch + 1) * per_pass)
    seen = np.concatenate([endless_batch(n, batch_size, seed, "train", number) for number in numbers])
    assert len(seen) == per_pass * batch_size == len(set(seen.tolist()))
    assert set(seen.tolist()) <= set(range(n))


def loader(n, batch_size, batches):
    """Batches as the original's endless loader makes them: one example after the other, reshuffled at the end."""
    order, made, epoch = [], [], 0
    while len(made) < batches:
        batch = []
        while len(batch) < batch_size:
            if not order:
                order, epoch = shuffled(n, 0, "train", epoch).tolist(), epoch + 1
            batch.append(order.pop(0))
        made.append(batch)
    return made


@given(n=st.integers(1, 60), batch_size=st.integers(1, 70))
def test_batches_of_the_originals_endless_loader_span_passes(n, batch_size):
    batches = [endless_batch(n, batch_size, 0, "train", number, drop_last=False).tolist() for number in range(6)]
    assert batches == loader(n, batch_size, 6)
    if n % batch_size == 0:
        assert batches == [endless_batch(n, batch_size, 0, "train", number).tolist() for number in range(6)]


def test_ten_examples_in_batches_of_seven():
    first, second = (endless_batch(10, 7, 1, "dev", number, drop_last=False).tolist() for number in range(2))
    assert sorted(first + second[:3]) == list(range(10))
    assert second[3:] == shuffled(10, 1, "dev", 1)[:4].tolist()
    how = {"eval_steps": 2, "protocol": "original", "evaluation": 0}
    assert development_indices(10, 7, 1, **how, drop_last=False).tolist() == first + second
    earlier = first + shuffled(10, 1, "dev", 1)[:7].tolist()  # dropped the 3
    assert development_indices(10, 7, 1, **how, drop_last=True).tolist() == earlier


def test_orders_differ_by_seed_epoch_and_purpose():
    orders = [shuffled(50, *key).tolist() for key in ((0, "train", 0), (1, "train", 0), (0, "dev", 0), (0, "train", 1))]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_orders_are_uniform():
    # the place of example 0 among 8: chi-squared with 7 degrees of freedom, far beyond its 99.99 % quantile of 29.9
    places = np.bincount([shuffled(8, seed, "train", 0).tolist().index(0) for seed in range(4000)], minlength=8)
    assert ((places - 500) ** 2 / 500).sum() < 29.9


def test_the_order_is_fixed_and_does_not_use_the_global_generator():
    # written down once; a change would break resuming and every published run
    assert shuffled(10, 42, "train", 0).tolist() == [6, 5, 7, 2, 3, 4, 9, 0, 8, 1]
    code = "from nip.lra.batches import shuffled; print(shuffled(10, 42, 'train', 0).tolist())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[6, 5, 7, 2, 3, 4, 9, 0, 8, 1]"
    before = np.random.get_state()[1].copy()
    shuffled.cache_clear()
    shuffled(10, 1, "train", 0)
    assert (np.random.get_state()[1] == before).all()


def test_development_examples():
    def drawn(evaluation, eval_steps, protocol):
        how = {"eval_steps": eval_steps, "protocol": protocol, "evaluation": evaluation, "drop_last": False}
        return development_indices(20, 4, 1, **how).tolist()

    assert drawn(0, None, "clean") == drawn(3, None, "clean") == list(range(20))
    assert drawn(2, 3, "clean") == list(range(12))
    assert drawn(0, 99, "clean") == list(range(20))
    first, second = drawn(0, 3, "original"), drawn(1, 3, "original")
    assert len(first) == len(second) == 12
    # the stream continues after the previous evaluation: an epoch has 5 batches
    stream = np.concatenate([endless_batch(20, 4, 1, "dev", number) for number in range(6)]).tolist()
    assert first == stream[:12] and second == stream[12:]
    assert sorted(stream[:20]) == list(range(20))


def test_test_examples_by_protocol():
    assert indices_to_test(10, 4, 0, "clean").tolist() == list(range(10))
    original = indices_to_test(10, 4, 0, "original")
    assert len(set(original.tolist())) == 8
    with pytest.raises(ValueError, match="from the 3 of the test set"):
        indices_to_test(3, 4, 0, "original")


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
    config = dataclasses.replace(recipe("listops"), seq_len=400)
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
    config = dataclasses.replace(recipe("listops"), seq_len=seq_len, positions=8192, block_size=block_size)
    longest = data.draw(st.integers(1, 6000))
    length = batches.padded_length(longest, config)
    assert min(longest, seq_len) <= length <= seq_len
    assert length == seq_len or length % block_size == 0
    assert len({batches.padded_length(n, config) for n in range(1, seq_len + 1)}) <= batches.LENGTHS
