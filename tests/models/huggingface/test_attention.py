"""Masks of all kinds, caches, and ways to compute: each against the same model with everything written out."""

from dataclasses import replace

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM

import nip
from huggingface_families import BLOCK, FAMILIES, GROUPED, TEXT, TOKENS, hypercube
from nip.models.huggingface import attention as huggingface_attention
from nip.models.huggingface import masks as huggingface_mask
from nip.models.huggingface.attention import attention_function
from nip.models.huggingface.config import LayerGraph
from nip.models.huggingface.layers import SITE, Site
from nip.models.huggingface.masks import Mask
from nip.models.huggingface.sparsify import attention_layers

BERT, LLAMA = FAMILIES["bert"], FAMILIES["llama"]
IDS = BERT.inputs()["input_ids"]


def sparse(family, pattern="hypercube", **options):
    return nip.sparsify(family.make(), pattern, block_size=BLOCK, **options)


def result(model, *inputs, **options):
    with torch.no_grad():
        output = model(*inputs, **options)
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
@pytest.mark.parametrize("kind", ["bool", "minimum", "added"])
def test_a_mask_of_four_dimensions_combines_with_the_graph(name, kind):
    family = FAMILIES[name]
    generator = torch.Generator().manual_seed(3)
    allowed = (torch.rand(3, 1, TOKENS, TOKENS, generator=generator) < 0.7) | torch.eye(TOKENS, dtype=torch.bool)
    as_numbers = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    if kind == "added":
        as_numbers += torch.randn(allowed.shape, generator=generator)
    models = sparse(family), family.as_oracle(hypercube)
    if name == "t5":
        models = tuple(model.encoder for model in models)
    found = result(models[0], IDS, attention_mask=allowed if kind == "bool" else as_numbers)
    close(found, result(models[1], IDS, attention_mask=as_numbers))


def test_a_mask_of_four_dimensions_that_is_the_same_for_all_queries_is_padding(monkeypatch):
    monkeypatch.setattr(huggingface_attention, "_attend_rows", None)  # the sparse way must do
    real = BERT.inputs()["attention_mask"].bool()
    for mask in (real[:, None, None, :], real[:, None, None, :].expand(-1, -1, TOKENS, -1)):
        found = result(sparse(BERT), IDS, attention_mask=mask)
        assert torch.equal(found, result(sparse(BERT), IDS, attention_mask=real.long()))


def test_numbers_of_a_mask_count_also_where_they_are_the_same_for_all_queries():
    added = torch.zeros(3, 1, 1, TOKENS)
    added[..., 5:9], added[..., 20:] = -0.7, torch.finfo(torch.float32).min
    oracle = result(BERT.as_oracle(hypercube), IDS, attention_mask=added.expand(-1, -1, TOKENS, -1).contiguous())
    for mask in (added, added.expand(-1, -1, TOKENS, -1)):
        close(result(sparse(BERT), IDS, attention_mask=mask), oracle)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("kind", ["bool", "minimum", "many"])
def test_a_mask_of_four_dimensions_counts_where_queries_follow_on_kept_keys(name, kind):
    family = FAMILIES[name]
    model, kept = sparse(family), TOKENS - (2 if kind == "many" else 1)
    allowed = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()[None, None].repeat(3, 1, 1, 1)
    allowed[..., 3] = False
    allowed[:, :, 3, 3] = True
    mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    mask = mask if kind == "minimum" else allowed
    whole = result(model, IDS, attention_mask=mask)
    with torch.no_grad():
        cache = model(IDS[:, :kept], attention_mask=mask[:, :, :kept, :kept], use_cache=True).past_key_values
        step = model(IDS[:, kept:], attention_mask=mask[:, :, kept:], past_key_values=cache).logits
    close(step, whole[:, kept:])


def test_a_mask_of_four_dimensions_for_a_cache_of_fixed_length_is_refused():
    mask = torch.ones(3, 1, 1, 32, dtype=torch.bool)
    mask[..., 27:] = False
    module = sparse(LLAMA).get_submodule("model.layers.0.self_attn")
    q, k = torch.randn(3, 4, 1, 8), torch.randn(3, 2, 32, 8)
    with pytest.raises(ValueError, match="hides the last of 32 keys from every query"):
        attention_function(module, q, k, k, mask)


def test_packed_documents_attend_to_themselves(monkeypatch):
    positions = torch.cat([torch.arange(10), torch.arange(16)]).expand(3, -1)
    expected = result(LLAMA.as_oracle(hypercube), IDS, position_ids=positions, use_cache=False)
    close(result(sparse(LLAMA), IDS, position_ids=positions, use_cache=False), expected)
    # Should transformers put its function together otherwise, the result stays right but every pair is looked at.
    monkeypatch.setattr(huggingface_mask, "_segments", lambda function: None)
    close(result(sparse(LLAMA), IDS, position_ids=positions, use_cache=False), expected)


def test_packed_documents_need_no_mask_of_all_pairs(monkeypatch):
    monkeypatch.setattr(huggingface_attention, "_attend_rows", None)
    positions = torch.cat([torch.arange(10), torch.arange(16)]).expand(3, -1)
    result(sparse(LLAMA), IDS, position_ids=positions, use_cache=False)


def test_a_window_of_the_model_combines_with_the_graph():
    family = FAMILIES["mistral"]
    family = replace(family, sizes={**family.sizes, "sliding_window": 7})
    inputs = family.inputs()
    model, oracle = sparse(family), family.as_oracle(hypercube)
    close(family.real(result(model, **inputs)), family.real(result(oracle, **inputs)))
    longer = {"input_ids": IDS[:1], "max_new_tokens": 14, "min_new_tokens": 14, "do_sample": False}
    assert torch.equal(model.generate(**longer), oracle.generate(**longer, use_cache=False))


def test_layers_with_a_window_keep_it_where_others_have_none_unless_named():
    family = FAMILIES["modernbert"]
    inputs = family.inputs()

    def names(**options):
        return [site.graph and site.graph.name for site in attention_layers(sparse(family, **options))]

    assert names() == ["hypercube", None, "hypercube"]
    assert names(layers={0: "local"}) == ["local", None, "hypercube"]
    assert names(layers={1: "local"}) == ["hypercube", "local", "hypercube"]
    every = replace(family, sparse=r"attn$").as_oracle(hypercube)
    found = result(sparse(family, layers=["hypercube"]), **inputs)
    close(family.real(found), family.real(result(every, **inputs)))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("pattern", ["hypercube", "random", "expander", "bigbird", "softmax"])
def test_what_a_token_attends_to_does_not_change_as_a_text_grows(name, pattern):
    family = FAMILIES[name]
    model = sparse(family, pattern)
    whole = result(model, IDS)
    for length in (5, 16, 23):
        close(result(model, IDS[:, :length]), whole[:, :length])
    steps, cache = [], None
    for start, stop in ((0, 6), (6, 7), (7, 12), (12, 13), (13, 26)):  # several tokens at once after kept ones, too
        with torch.no_grad():
            output = model(IDS[:, start:stop], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        steps.append(output.logits)
    close(torch.cat(steps, 1), whole)


@pytest.mark.parametrize("name", ["llama", "bart"])
def test_a_static_cache_gives_the_same_text(name):
    family = FAMILIES[name]
    model = sparse(family)
    inputs = {"input_ids": IDS, "attention_mask": family.inputs()["attention_mask"].flip(1)}
    options = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False}
    expected = model.generate(**inputs, **options)
    assert torch.equal(model.generate(**inputs, **options, cache_implementation="static"), expected)


@pytest.mark.parametrize("name", ["bart", "t5"])
def test_a_decoder_attends_over_a_graph_if_asked(name):
    family = replace(FAMILIES[name], sparse=r"self_attn$|SelfAttention$")
    model, oracle = sparse(family, decoder=True, max_tokens=64), family.as_oracle(hypercube)
    inputs = {**family.inputs(), "decoder_input_ids": IDS[:, :22]}
    close(result(model, **inputs), result(oracle, **inputs))
    del inputs["decoder_input_ids"]
    options = {"max_new_tokens": 18, "min_new_tokens": 18, "num_beams": 2, "do_sample": False}
    assert torch.equal(model.generate(**inputs, **options), oracle.generate(**inputs, **options))


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_gradient_checkpointing_changes_nothing_dropout_included(name):
    family = FAMILIES[name]
    dropout = {"attention_probs_dropout_prob": 0.5} if name == "bert" else {"attention_dropout": 0.5}
    family = replace(family, sizes={**family.sizes, **dropout})
    gradients = []
    for checkpointing in (False, True):
        model = sparse(family).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        torch.manual_seed(5)
        output = model(**family.inputs())
        family.real(output[0]).square().sum().backward()
        gradients.append({path: w.grad for path, w in model.named_parameters() if w.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for path, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][path]), path


def test_dropout_is_applied_in_training_only():
    family = replace(BERT, sizes={**TEXT, "attention_probs_dropout_prob": 0.5, "hidden_dropout_prob": 0.0})
    model = sparse(family)
    plain = result(model, IDS)
    assert torch.equal(plain, result(model, IDS))
    model.train()
    drawn = [result(model, IDS) for _ in range(2)]
    assert not torch.equal(*drawn) and not torch.equal(drawn[0], plain)


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_bfloat16_is_as_near_to_float32_as_dense_attention_is(name):
    family = FAMILIES[name]
    exact = family.real(result(family.as_oracle(hypercube), **family.inputs()))
    found = family.real(result(sparse(family).bfloat16(), **family.inputs())).float()
    dense = family.real(result(family.as_oracle(hypercube).bfloat16(), **family.inputs())).float()
    assert found.dtype == torch.float32
    assert (found - exact).square().mean() < 2 * (dense - exact).square().mean()


@pytest.mark.parametrize("name", ["bert", pytest.param("llama", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
def test_a_compiled_model_is_one_graph_with_the_same_result(name):
    family = replace(FAMILIES[name], sizes={**FAMILIES[name].sizes, "num_hidden_layers": 1})
    torch._dynamo.reset()
    model = sparse(family)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for length in (TOKENS, 15) if name == "llama" else (TOKENS,):
        inputs = {"input_ids": IDS[:, :length]}
        torch.testing.assert_close(result(compiled, **inputs), result(model, **inputs), rtol=1e-5, atol=1e-5)


def test_what_cannot_be_done_over_a_graph_is_refused():
    with pytest.raises(ValueError, match="cannot return attention weights"):
        sparse(BERT)(IDS, output_attentions=True)
    capped = Gemma2ForCausalLM(Gemma2Config(**{**TEXT, **GROUPED, "head_dim": 8}))
    with pytest.raises(ValueError, match=r"layers.0.self_attn of Gemma2ForCausalLM caps its scores \(softcap\)"):
        nip.sparsify(capped)
    unknowing = BERT.make("nip")
    with pytest.raises(ValueError, match=r"has no graph\. Load the model with"):
        unknowing(IDS)
    with pytest.raises(ValueError, match=r"SelfAttention is causal.* pass max_tokens to nip\.sparsify"):
        sparse(FAMILIES["t5"], decoder=True)
    with pytest.raises(ValueError, match="built for 20 tokens, and the input has 26"):
        sparse(LLAMA, max_tokens=20)(IDS)


def test_queries_and_keys_of_different_tokens_are_refused():
    module = torch.nn.Module()
    module.is_causal = False
    setattr(module, SITE, Site("pooling", "self", 3, LayerGraph("hypercube", 4)))
    q, k = torch.randn(1, 2, 4, 8), torch.randn(1, 2, 9, 8)
    with pytest.raises(ValueError, match=r"pooling has 4 queries and 9 keys.*layers=\{3: None\}"):
        attention_function(module, q, k, k, Mask(False, None))


@pytest.mark.parametrize("name", ["softcap", "s_aux", "cu_seq_lens_q"])
def test_what_a_layer_asks_beyond_a_graph_is_refused_where_it_asks(name):
    model = sparse(BERT)
    module = model.get_submodule("encoder.layer.0.attention.self")
    q = torch.randn(1, 4, 8, 8)
    with pytest.raises(ValueError, match=r"encoder\.layer\.0\.attention\.self .*, which nip does not support"):
        attention_function(module, q, q, q, None, **{name: torch.ones(2)})
