import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nip
from nip.attention.arguments import Options
from nip.attention.grouping import block_mask, group_rows
from nip.attention.layout import block_layout
from nip.graphs import names_at

CPU = torch.device("cpu")


def grouped(layout, options, batch, heads, kv_heads):
    return group_rows(layout, options, block_mask(layout, options, CPU), batch, heads, kv_heads, CPU)


@settings(deadline=None)
@given(
    name=st.sampled_from(names_at(1)),
    tokens=st.integers(1, 40),
    heads=st.sampled_from([(1, 1), (4, 2), (3, 1)]),
    causal=st.booleans(),
    masks=st.sampled_from(["none", "padding", "segments", "both"]),
    seed=st.integers(0, 1000),
)
def test_every_pair_of_blocks_with_an_allowed_pair_of_tokens_is_in_one_group(
    allowed, name, tokens, heads, causal, masks, seed
):
    batch, b, (heads, kv_heads) = 2, 4, heads
    torch.manual_seed(seed)
    pattern = nip.pattern(name, -(-tokens // b), causal=causal)
    real = torch.arange(tokens) < torch.randint(0, tokens + 1, (batch, 1)) if masks in {"padding", "both"} else None
    ids = torch.randint(0, 3, (batch, tokens)).sort(-1).values if masks in {"segments", "both"} else None
    layout = block_layout(pattern, b, tokens)
    pairs = allowed(pattern, b, tokens, batch, key_padding_mask=real, segment_ids=ids)
    full = torch.zeros(batch, layout.n_padded, layout.n_padded, dtype=torch.bool)
    full[:, :tokens, :tokens] = pairs
    n = layout.n
    by_block = full.view(batch, n, b, n, b)
    # A query that pads the last block, or a padding query, attends like any other: only keys are masked.
    needed = by_block.any(4).any(2)
    whole = by_block[:, :, : min(b, tokens - (n - 1) * b)].all(4).all(2)

    seen = torch.zeros(batch, heads, n, n, dtype=torch.long)
    for group in grouped(layout, Options(1.0, key_padding_mask=real, segment_ids=ids), batch, heads, kv_heads):
        assert (group.queries.diff() > 0).all()
        for query, keys in zip(group.queries.tolist(), group.keys.tolist(), strict=True):
            sequence, head, i = query // (heads * n), query // n % heads, query % n
            for key in keys:
                assert key // (kv_heads * n) == sequence
                assert key // n % kv_heads == head * kv_heads // heads
                j = key % n
                seen[sequence, head, i, j] += 1
                unmasked = not group.partial and not (group.triangle and i == j)
                if unmasked and i < n - 1:
                    assert whole[sequence, i, j]
            if group.triangle:
                assert keys[-1] % n == i
    assert (seen <= 1).all()
    assert (seen > 0)[needed[:, None].expand(-1, heads, -1, -1)].all()


def test_blocks_of_padding_and_of_other_documents_are_not_visited():
    layout = block_layout(nip.pattern("softmax", 8), 4, 32)
    real = torch.arange(32)[None] < torch.tensor([[8], [0]])
    groups = grouped(layout, Options(1.0, key_padding_mask=real), 2, 1, 1)
    assert [(group.queries.tolist(), group.keys.shape[1]) for group in groups] == [(list(range(8)), 2)]
    assert not groups[0].partial

    ids = (torch.arange(32) // 8)[None]
    groups = grouped(layout, Options(1.0, segment_ids=ids), 1, 1, 1)
    assert [group.keys.tolist() for group in groups] == [[[i // 2 * 2, i // 2 * 2 + 1] for i in range(8)]]
    assert not groups[0].partial


def test_one_row_that_attends_to_everything_does_not_make_the_others_dense():
    groups = grouped(block_layout(nip.pattern("longformer", 64), 16, 1024), Options(1.0), 1, 1, 1)
    sizes = {group.keys.shape[1]: len(group.queries) for group in groups}
    assert sizes == {64: 1, 3: 2, 4: 61}  # the global row; the second and the last; all others
