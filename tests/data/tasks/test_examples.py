import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nip.data import TASKS, Examples


@given(
    st.lists(st.lists(st.integers(1, 15), min_size=1, max_size=20), min_size=1, max_size=12),
    st.lists(st.integers(0, 11), max_size=8),
    st.integers(1, 25),
)
@settings(deadline=None)
def test_a_batch_is_the_sequences_cut_or_padded(sequences, indices, length):
    indices = [i % len(sequences) for i in indices]
    labels = [len(each) % 10 for each in sequences]
    flat = np.array([token for each in sequences for token in each], dtype=np.uint8)
    split = Examples(TASKS["listops"], "dev", flat, np.cumsum([0, *map(len, sequences)]), np.array(labels))
    input_ids, chosen = split.batch(indices, length)
    assert input_ids.dtype == chosen.dtype == np.int64
    assert input_ids.shape == (len(indices), length)
    assert input_ids.tolist() == [(sequences[i] + [0] * length)[:length] for i in indices]
    assert chosen.tolist() == [labels[i] for i in indices]
    assert split.lengths.tolist() == [len(each) for each in sequences]
    assert [split.sequence(i).tolist() for i in range(len(split))] == sequences


def test_arrays_of_indices_are_taken(small):
    train = small["train"]
    order = np.random.default_rng(0).permutation(len(train))[:16]
    assert np.array_equal(train.batch(order, 40)[0], train.batch(order.tolist(), 40)[0])
    assert np.array_equal(train.batch(order.astype(np.uint16), 40)[1], train.labels[order])


@pytest.mark.parametrize("indices", [[50], [-1], [0, 50], [0.5], [[0]], ["a"]])
def test_indices_outside_the_split_are_refused(small, indices):
    with pytest.raises(ValueError, match=r"has the examples 0 … 49. Got|list of integers"):
        small["test"].batch(indices, 8)


@pytest.mark.parametrize("length", [0, -3, 2.0, True])
def test_a_length_below_one_is_refused(small, length):
    with pytest.raises(ValueError, match="'length' parameter of batch must be an integer of at least 1"):
        small["test"].batch([0], length)


def test_examples_cannot_be_changed(small):
    for array in (small["dev"].tokens, small["dev"].offsets, small["dev"].labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_a_batch_is_a_copy(small):
    input_ids, labels = small["dev"].batch([0, 1], 10)
    input_ids[:] = 3
    labels[:] = 3
    assert small["dev"].batch([0], 10)[0].tolist() != [[3] * 10]
