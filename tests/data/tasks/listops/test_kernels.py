"""The compiled loops against plain Python."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nip.data.tasks.examples import read_only
from nip.data.tasks.listops import kernels
from nip.data.tasks.listops.language import evaluate

# Mostly no expressions: what is refused must be the same as well.
TOKENS = st.sampled_from([1, 2, 3, 4, 5, 5, 5, 6, 10, 15]) | st.integers(0, 17)
SEQUENCES = st.lists(st.lists(TOKENS, min_size=1, max_size=12), min_size=1, max_size=8)


def flat(sequences):
    offsets = np.cumsum([0, *map(len, sequences)])
    return read_only(np.array([token for each in sequences for token in each], dtype=np.uint8), offsets)


def value_or_none(tokens):
    try:
        return evaluate(tokens)
    except ValueError:
        return -1


@given(SEQUENCES)
@settings(max_examples=300, deadline=None)
def test_values_are_the_evaluators(sequences):
    assert kernels.values(*flat(sequences)).tolist() == [value_or_none(each) for each in sequences]


@given(st.sampled_from([1, 2, 3, 4]), st.lists(st.integers(0, 9), min_size=1, max_size=30))
@settings(max_examples=300, deadline=None)
def test_operators_are_the_evaluators(operator, digits):
    tokens = [operator, *(6 + digit for digit in digits), 5]
    assert kernels.values(*flat([tokens])).tolist() == [evaluate(tokens)]


def test_values_of_the_small_set(small):
    for split in small.values():
        assert split.labels.tolist() == [evaluate(split.sequence(i)) for i in range(len(split))]


def shape(tokens):
    """Depth and the numbers of arguments, by recursion."""
    tokens = list(tokens)

    def node():
        if tokens.pop(0) >= 6:
            return 1, []
        children = []
        while tokens[0] != 5:
            children.append(node())
        tokens.pop(0)
        return 1 + max(c[0] for c in children), [len(children), *(n for c in children for n in c[1])]

    return node()


def test_shapes_of_the_small_set(small):
    train = small["train"]
    depths, arguments, occurs = kernels.shapes(train.tokens, train.offsets)
    expected = [shape(train.sequence(i).tolist()) for i in range(len(train))]
    assert depths.tolist() == [depth for depth, _ in expected]
    numbers = np.bincount([n for _, each in expected for n in each], minlength=arguments.size)
    assert arguments.tolist() == numbers.tolist()
    assert occurs.tolist() == np.bincount(train.tokens, minlength=256).tolist()


def test_shapes_of_deep_and_wide_trees():
    deep = [1] * 40 + [7] + [5] * 40
    wide = [2] + [7] * 50 + [5]
    depths, arguments, _ = kernels.shapes(*flat([deep, wide]))
    assert depths.tolist() == [41, 2]
    assert {int(n): int(arguments[n]) for n in np.flatnonzero(arguments)} == {1: 40, 50: 1}
