import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nip.attention.layout import block_layout
from nip.bench.rows import Case

ANY_SIZE = ["softmax", "hypercube", "bigbird", "longformer", "global", "local", "random", "local+random"]


@given(st.sampled_from(ANY_SIZE), st.integers(1, 150), st.integers(1, 20))
def test_pairs_are_those_of_the_mask(pattern, n_tokens, block_size):
    case = Case(pattern, n_tokens, block_size)
    graph = case.graph()
    block_layout(graph, block_size, n_tokens)  # the sizes are consistent
    mask = np.eye(graph.n, dtype=bool)
    mask[graph.edge_rows, graph.indices] = True
    blocks = np.arange(n_tokens) // block_size
    assert case.pairs() == mask[np.ix_(blocks, blocks)].sum()
    assert case.density == case.pairs() / n_tokens**2


def test_work_by_hand():
    case = Case("softmax", 10, batch=2, heads=3, head_dim=7)
    products = 2 * 2 * 7 * 100 * 6  # q·k and p·v: a multiplication and an addition for each element
    assert case.flop("forward", 1.0) == products
    assert case.flop("backward", 1.0) == pytest.approx(2.5 * products)
    assert case.flop("forward+backward", 0.5) == pytest.approx(1.75 * products)
