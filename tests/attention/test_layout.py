import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nip
from nip.attention import block_layout
from nip.graphs import causal, lift, names_at, to_mask


@given(st.sampled_from(names_at(1)), st.integers(1, 12), st.sampled_from([1, 2, 5]), st.booleans(), st.booleans())
def test_lists_the_blocks_whose_tokens_the_lifted_pattern_joins(name, n, block_size, causal_pattern, causal_argument):
    pattern = nip.pattern(name, n, causal=causal_pattern)
    layout = block_layout(pattern, block_size, n * block_size, is_causal=causal_argument)
    tokens = to_mask(lift(causal(pattern) if causal_argument and not causal_pattern else pattern, block_size))
    np.fill_diagonal(tokens, True)
    expected = tokens.reshape(n, block_size, n, block_size).any((1, 3))
    blocks = np.zeros((n, n), dtype=bool)
    blocks[layout.rows, layout.indices] = True
    assert np.array_equal(blocks, expected)
    assert layout.indices.size == expected.sum()  # no duplicates
    assert layout.density == expected.mean()
    assert layout.causal == (causal_pattern or causal_argument)
    assert all(
        np.all(np.diff(layout.indices[start:end]) > 0)
        for start, end in zip(layout.indptr, layout.indptr[1:], strict=False)
    )


@pytest.mark.parametrize(("tokens", "n"), [(1, 1), (15, 1), (16, 1), (17, 2), (232, 15), (1000, 63)])
def test_the_last_block_is_filled(tokens, n):
    layout = block_layout(nip.pattern("hypercube", n), 16, tokens)
    assert (layout.n, layout.n_padded) == (n, 16 * n)
    for wrong in {n - 1, n + 1} - {0}:
        with pytest.raises(
            ValueError, match=rf"{tokens} tokens in blocks of 16 need a pattern of n = {n}\. .*n = {wrong}"
        ):
            block_layout(nip.pattern("hypercube", wrong), 16, tokens)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_complete_means_that_all_pairs_are_attended(n):
    assert block_layout(nip.pattern("softmax", n), 2, 2 * n).complete
    assert block_layout(nip.pattern("softmax", n), 2, 2 * n, is_causal=True).complete
    star = block_layout(nip.pattern("global", n), 2, 2 * n)
    assert star.complete == (n <= 2)


def test_is_made_once():
    assert block_layout(nip.pattern("bigbird", 8), 4, 31) is block_layout(nip.pattern("bigbird", 8), 4, 31)
