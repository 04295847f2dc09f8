import pytest
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, ModernBertConfig, ModernBertModel

import nip
from nip.graphs import pattern
from nip.graphs.exchange import to_mask
from nip.models.huggingface.masks import packed

SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 9}
TOKENS = dict.fromkeys((f"{name}_token_id" for name in ("pad", "bos", "eos", "cls", "sep")), 0)
IDS = torch.randint(9, (3, 30), generator=torch.Generator().manual_seed(0))
SEGMENTS = torch.stack([torch.where(torch.arange(30) < k, 1, 2) for k in (7, 16, 30)])


def same_document():
    return (SEGMENTS[:, :, None] == SEGMENTS[:, None, :])[:, None]


def attended(name, block_size, n):
    """Which of n tokens attend to which over a pattern; over None all to all."""
    if name is None:
        return torch.ones(n, n, dtype=torch.bool)
    blocks = torch.from_numpy(to_mask(pattern(name, -(-n // block_size))))
    return blocks.repeat_interleave(block_size, 0).repeat_interleave(block_size, 1)[:n, :n]


@pytest.mark.parametrize("name", ["hypercube", "local", None])
def test_packed_documents_and_graph_together_equal_transformers_with_a_written_mask(name):
    torch.manual_seed(0)
    model = BertModel(BertConfig(**SMALL)).eval()
    allowed = same_document() & attended(name, 4, 30)
    expected = model(IDS, attention_mask=allowed).last_hidden_state
    nip.sparsify(model, name, block_size=4)
    found = model(IDS, attention_mask=packed(SEGMENTS)).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (model(IDS).last_hidden_state - expected).abs().max() > 1e-3


@pytest.mark.parametrize("named", [False, True])
def test_layers_with_a_window_keep_it_inside_documents(named):
    torch.manual_seed(0)
    config = {**SMALL, "layer_types": ["full_attention", "sliding_attention"], "local_attention": 6}
    model = ModernBertModel(ModernBertConfig(**config, **TOKENS)).eval()
    distance = (torch.arange(30)[:, None] - torch.arange(30)[None, :]).abs()
    window, graph = same_document() & (distance <= 3), same_document() & attended("hypercube", 4, 30)
    masks = {"full_attention": graph, "sliding_attention": window & graph if named else window}
    expected = model(IDS, attention_mask=masks).last_hidden_state
    nip.sparsify(model, "hypercube", block_size=4, layers={1: "hypercube"} if named else None)
    found = model(IDS, attention_mask=packed(SEGMENTS)).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_causal_model_takes_packed_documents_too():
    torch.manual_seed(0)
    config = GPT2Config(n_embd=16, n_head=2, n_layer=2, n_positions=30, vocab_size=9, bos_token_id=0, eos_token_id=0)
    model = GPT2Model(config).eval()
    earlier = torch.ones(30, 30, dtype=torch.bool).tril()
    allowed = same_document() & earlier & attended("hypercube", 4, 30)
    expected = model(IDS, attention_mask=torch.where(allowed, 0.0, torch.finfo(torch.float32).min)).last_hidden_state
    nip.sparsify(model, "hypercube", block_size=4)
    found = model(IDS, attention_mask=packed(SEGMENTS)).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
