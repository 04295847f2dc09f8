import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nip.graphs import complete, global_tokens, local_window, longformer, to_mask

sizes = st.integers(1, 30)
counts = st.integers(0, 40)


@given(sizes)
def test_complete_attends_to_all(n):
    assert to_mask(complete(n)).all()


@given(sizes, counts)
def test_local_is_the_band(n, w):
    i, j = np.indices((n, n))
    assert np.array_equal(to_mask(local_window(n, num_sliding_window_blocks=w)), abs(i - j) <= w // 2)


@given(sizes, counts)
def test_global_fills_the_first_rows_and_columns(n, g):
    i, j = np.indices((n, n))
    expected = (i < g) | (j < g) | (i == j)
    assert np.array_equal(to_mask(global_tokens(n, num_global_blocks=g)), expected)


@given(sizes, counts, counts)
def test_longformer_is_the_union(n, g, w):
    either = to_mask(global_tokens(n, num_global_blocks=g)) | to_mask(local_window(n, num_sliding_window_blocks=w))
    assert np.array_equal(to_mask(longformer(n, num_global_blocks=g, num_sliding_window_blocks=w)), either)


def test_defaults_are_those_of_the_paper():
    assert longformer(9) == longformer(9, num_global_blocks=1, num_sliding_window_blocks=3)
    assert global_tokens(9) == global_tokens(9, num_global_blocks=1)
    assert local_window(9) == local_window(9, num_sliding_window_blocks=3)
