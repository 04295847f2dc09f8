import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nip
from nip.attention.layout import block_layout
from nip.attention.tiles import TILE, bitmap, table, tiling
from nip.graphs import causal, lift, to_mask

NAMES = ["hypercube", "softmax", "bigbird", "longformer", "global", "local", "random", "local+random"]


@st.composite
def layouts(draw):
    block_size = draw(st.sampled_from([1, 5, 16, 48, 64, 128, 200, 300]))
    tokens = draw(st.integers(1, 600))
    name = draw(st.sampled_from(NAMES))
    pattern = nip.pattern(name, -(-tokens // block_size), causal=draw(st.booleans()))
    return block_layout(pattern, block_size, tokens, is_causal=draw(st.booleans())), pattern


def pairs(layout, pattern):
    """The allowed pairs of tokens."""
    if layout.causal and not pattern.causal:
        pattern = causal(pattern)
    mask = to_mask(lift(pattern, layout.block_size)) | np.eye(layout.n_padded, dtype=bool)
    return mask[: layout.n_tokens, : layout.n_tokens]


@settings(max_examples=50)
@given(layouts())
def test_a_tile_is_listed_if_any_pair_attends_and_full_if_all_do(drawn):
    layout, pattern = drawn
    mask = pairs(layout, pattern)
    found = tiling(layout)
    assert found.n == -(-layout.n_tokens // TILE)
    listed = {(int(i), int(j)): bool(full) for i, j, full in zip(found.rows, found.columns, found.full, strict=True)}
    assert len(listed) == found.rows.size  # no duplicates
    for i in range(found.n):
        for j in range(found.n):
            tile = mask[i * TILE : (i + 1) * TILE, j * TILE : (j + 1) * TILE]
            assert ((i, j) in listed) == tile.any()
            assert listed.get((i, j), False) == (tile.all() and tile.shape[1] == TILE)  # the queries may be fewer
    assert found.density == len(listed) / found.n**2


@given(layouts(), st.integers(0, 300))
def test_a_bit_is_set_if_two_blocks_attend(drawn, more):
    layout, pattern = drawn
    bits = bitmap(layout, layout.n_tokens + more)
    blocks = np.zeros((bits.shape[0], 8 * bits.shape[1]), dtype=bool)
    for i in range(layout.n):
        own = [j for j in [*pattern.row(i).tolist(), i] if j <= i or not layout.causal]
        blocks[i, own] = True
    assert len(bits) * layout.block_size >= layout.n_tokens + more
    assert np.array_equal(np.unpackbits(bits, axis=1, bitorder="little").astype(bool), blocks)


@given(st.integers(1, 9), st.data())
def test_tables_list_the_tiles_of_each_row_first(n, data):
    grid = np.array(data.draw(st.lists(st.booleans(), min_size=n * n, max_size=n * n))).reshape(n, n)
    rows, columns = np.array(grid.nonzero())[:, ::-1]  # in any order
    counts, indices = table(rows, columns, n)
    assert indices.shape == (n, n)
    assert indices.dtype == counts.dtype == np.int32
    for i in range(n):
        assert indices[i, : counts[i]].tolist() == grid[i].nonzero()[0].tolist()


@pytest.mark.parametrize(("tokens", "density"), [(1024, 4 / 8), (16384, 8 / 128)])
def test_a_hypercube_of_tiles_is_a_hypercube(tokens, density):
    assert tiling(block_layout(nip.pattern("hypercube", tokens // 16), 16, tokens)).density == density
