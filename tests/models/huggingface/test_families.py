"""Models of many families: `softmax` equals dense attention, a sparse graph equals dense attention with a mask.

Four families are always tested, the others with `make test-full`.
"""

import copy

import pytest
import torch

import nip
from huggingface_families import BLOCK, FAMILIES, hypercube
from nip.models.huggingface.sparsify import attention_layers

ALWAYS = {"bert", "vit", "t5", "llama"}
GENERATING = [name for name, family in FAMILIES.items() if family.kind in {"seq2seq", "decoder"}]


def some_always(names):
    return [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.slow) for name in names]


def result(family, model, inputs):
    output = model(**inputs)
    return family.real(output.logits if hasattr(output, "logits") else output.last_hidden_state)


def result_and_gradients(family, model):
    out = result(family, model, family.inputs())
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    (out * weights).sum().backward()
    return out.detach(), {name: w.grad for name, w in model.named_parameters() if w.grad is not None}


def assert_close(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=2e-4, atol=2e-4)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        tolerance = 1e-3 * gradient.abs().max().item() + 1e-4
        difference = (found[1][name] - gradient).abs().max().item()
        assert difference <= tolerance, f"{name}: {difference} beyond {tolerance}"


@pytest.mark.parametrize("name", some_always(FAMILIES))
def test_result_and_gradients_are_those_of_dense_attention_with_the_graph_as_a_mask(name):
    family = FAMILIES[name]
    dense = result_and_gradients(family, family.make())
    softmax = nip.sparsify(family.make(), "softmax", block_size=BLOCK)
    assert_close(result_and_gradients(family, softmax), dense)
    sparse = nip.sparsify(family.make(), "hypercube", block_size=BLOCK)
    found = result_and_gradients(family, sparse)
    assert_close(found, result_and_gradients(family, family.as_oracle(hypercube)))
    assert (found[0] - dense[0]).abs().max() > 0.3, "the graph makes no difference that a test could see"
    assert all(site.calls for site in attention_layers(sparse) if site.graph is not None)


@pytest.mark.parametrize("name", some_always(GENERATING))
@pytest.mark.parametrize("beams", [1, 3])
def test_generated_text_is_that_of_dense_attention_with_the_graph_as_a_mask(name, beams):
    family = FAMILIES[name]
    inputs = {key: value for key, value in family.inputs().items() if key != "decoder_input_ids"}
    if family.kind == "decoder":
        inputs["attention_mask"] = inputs["attention_mask"].flip(1)  # prompts are padded on the left
    options = {"max_new_tokens": 14, "min_new_tokens": 14, "num_beams": beams, "do_sample": False}
    options |= {"output_scores": True, "return_dict_in_generate": True}
    sparse = nip.sparsify(family.make(), "hypercube", block_size=BLOCK)
    found, expected = sparse.generate(**inputs, **options), family.as_oracle(hypercube).generate(**inputs, **options)
    assert torch.equal(found.sequences, expected.sequences)
    for a, b in zip(found.scores, expected.scores, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("name", some_always(["bert", "vit", "bart", "t5", "gpt2", "llama", "modernbert"]))
def test_a_model_keeps_its_graph_when_it_is_copied(name):
    family = FAMILIES[name]
    model = nip.sparsify(family.make(), block_size=BLOCK)
    expected = result(family, model, family.inputs())
    found = result(family, copy.deepcopy(model), family.inputs())
    assert torch.equal(found, expected)
