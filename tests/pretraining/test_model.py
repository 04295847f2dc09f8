import math
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForMaskedLM

from nip.models.huggingface.sparsify import attention_layers
from nip.pretraining.model import FAMILIES, ModelSettings, build_model

SMALL = ModelSettings(2, 16, 2, 32, max_position_embeddings=32, hidden_dropout_prob=0, attention_probs_dropout_prob=0)


def weights(model):
    return dict(model.named_parameters())


@pytest.mark.parametrize(("size", "parameters"), [("base", 109_514_298), ("large", 335_174_458)])
def test_sizes_have_as_many_weights_as_the_published_models(vocabulary, size, parameters):
    with torch.device("meta"):
        model = build_model(ModelSettings.of_size(size, vocab_size=30522), vocabulary, "softmax")
    assert sum(weight.numel() for weight in model.parameters()) == parameters


@pytest.mark.parametrize("family", FAMILIES)
def test_first_weights_are_the_seeds_alone(vocabulary, family):
    settings = replace(SMALL, family=family)
    before = torch.get_rng_state()
    one, same, other = (weights(build_model(settings, vocabulary, block_size=4, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("family", ["bert", "roberta-prelayernorm"])
def test_what_is_added_to_the_sum_begins_smaller(vocabulary, family):
    plain = weights(build_model(replace(SMALL, family=family, scaled_init=False), vocabulary))
    scaled = weights(build_model(replace(SMALL, family=family), vocabulary))
    ends = {f"{family.replace('-', '_')}.encoder.layer.{i}.{part}.dense.weight"
            for i in range(2) for part in ("attention.output", "output")}  # fmt: skip
    assert ends <= plain.keys()
    for name in plain:
        factor = 1 / math.sqrt(4) if name in ends else 1.0
        assert torch.allclose(scaled[name], plain[name] * factor, rtol=1e-6, atol=0), name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_output_layer_is_the_table_of_embeddings_or_its_own(vocabulary, family):
    tied = build_model(replace(SMALL, family=family), vocabulary)
    assert tied.get_output_embeddings().weight is tied.get_input_embeddings().weight
    untied = build_model(replace(SMALL, family=family, tie_word_embeddings=False), vocabulary)
    assert untied.get_output_embeddings().weight is not untied.get_input_embeddings().weight


@pytest.mark.parametrize("family", FAMILIES)
def test_dense_attention_gives_what_transformers_gives(vocabulary, family):
    model = build_model(replace(SMALL, family=family), vocabulary, "softmax", block_size=4).eval()
    config = type(model.config).from_dict(model.config.to_dict())
    own = AutoModelForMaskedLM.from_config(config, attn_implementation="eager").eval()
    own.load_state_dict(model.state_dict())
    ids = torch.randint(5, 61, (2, 32), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(ids).logits, own(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_attends_over_its_pattern_at_full_length(vocabulary, family):
    model = build_model(
        replace(SMALL, family=family), vocabulary, "bigbird", layers=["local", "bigbird"], block_size=4, seed=3
    )
    model(torch.full((1, 32), 7))
    sites = attention_layers(model)
    assert [site.graph.name for site in sites] == ["local", "bigbird"]
    assert [site.calls for site in sites] == [1, 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_rms_norm_stands_in_for_every_layer_norm(vocabulary, family):
    model = build_model(replace(SMALL, family=family, norm="rms"), vocabulary)
    kinds = [type(module) for module in model.modules() if type(module) in (torch.nn.LayerNorm, torch.nn.RMSNorm)]
    plain = build_model(replace(SMALL, family=family), vocabulary)
    assert kinds == [torch.nn.RMSNorm] * sum(isinstance(module, torch.nn.LayerNorm) for module in plain.modules())
    assert len(kinds) >= 5


def test_the_table_has_rows_for_the_tokenizer(vocabulary):
    assert SMALL.rows(vocabulary) == 64  # of 61
    assert replace(SMALL, vocab_size=61).rows(vocabulary) == 61
    with pytest.raises(ValueError, match=r"at least that of the tokenizer, 61\. Got 60 instead"):
        build_model(replace(SMALL, vocab_size=60), vocabulary)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"num_hidden_layers": 0}, "'num_hidden_layers' parameter of the model must be an integer of at least 1"),
        ({"num_attention_heads": 3}, "must divide its width 16. Got 3"),
        ({"family": "gpt"}, "one of bert, roberta-prelayernorm, modernbert. Got 'gpt'"),
        ({"norm": "batch"}, "one of layer, rms. Got 'batch'"),
        ({"hidden_act": "abrupt"}, "'hidden_act' parameter of the model must be one of"),
        ({"hidden_dropout_prob": 1.0}, r"'hidden_dropout_prob' parameter of the model must be in \[0, 1\)"),
        ({"initializer_range": 0.0}, "'initializer_range' parameter of the model must be above 0"),
        ({"layer_norm_eps": float("nan")}, "'layer_norm_eps' parameter of the model must be above 0"),
        ({"next_sentence": True, "type_vocab_size": 1}, "type_vocab_size of at least 2"),
        ({"next_sentence": True, "family": "modernbert"}, "ModernBERT does not tell"),
        ({"scaled_init": False, "family": "modernbert"}, "ModernBERT always draws"),
    ],
)
def test_bad_settings(wrong, says):
    with pytest.raises(ValueError, match=says):
        replace(SMALL, **wrong)
