"""Which modules of a model compute attention, for whom, and which models cannot be given another."""

import pytest
import torch
import transformers as hf

from huggingface_families import FAMILIES, SEQ2SEQ, T5, TEXT
from nip.models.huggingface.layers import attention_modules
from nip.models.huggingface.sparsify import attention_layers, from_pretrained, sparsify

OWN = {**TEXT, "num_hidden_layers": 1}
REFUSED = {
    "BigBirdModel": OWN,
    "LongformerModel": {**OWN, "attention_window": 4},
    "DebertaModel": OWN,
    "DebertaV2Model": OWN,
    "MPNetModel": OWN,
    "RoFormerModel": {**OWN, "embedding_size": 32},
    "NystromformerModel": OWN,
    "LongT5ForConditionalGeneration": T5,
    "BigBirdPegasusForConditionalGeneration": SEQ2SEQ,
    "LEDForConditionalGeneration": {
        **SEQ2SEQ,
        "attention_window": 4,
        "max_encoder_position_embeddings": 64,
        "max_decoder_position_embeddings": 64,
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_computes_attention_itself_is_refused_by_name(name):
    kind = getattr(hf, name)
    model = kind(kind.config_class(**REFUSED[name]))
    with pytest.raises(ValueError, match=f"{name} computes its attention itself"):
        sparsify(model)
    assert not attention_layers(model) and not hasattr(model.config, "nip")


def roles(model):
    found = {}
    for path, _, role in attention_modules(model):
        found.setdefault(role, []).append(path)
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bert", {"self": ["encoder.layer.0.attention.self", "encoder.layer.1.attention.self"]}),
        (
            "bart",
            {
                "self": [f"model.encoder.layers.{i}.self_attn" for i in (0, 1)],
                "decoder": [f"model.decoder.layers.{i}.self_attn" for i in (0, 1)],
                "cross": [f"model.decoder.layers.{i}.encoder_attn" for i in (0, 1)],
            },
        ),
        (
            "t5",
            {
                "self": [f"encoder.block.{i}.layer.0.SelfAttention" for i in (0, 1)],
                "decoder": [f"decoder.block.{i}.layer.0.SelfAttention" for i in (0, 1)],
                "cross": [f"decoder.block.{i}.layer.1.EncDecAttention" for i in (0, 1)],
            },
        ),
        ("opt", {"self": [f"model.decoder.layers.{i}.self_attn" for i in (0, 1)]}),
    ],
)
def test_roles_of_attention(name, expected):
    assert roles(FAMILIES[name].make()) == expected


def test_roles_in_a_composite_encoder_decoder():
    model = hf.EncoderDecoderModel(
        encoder=hf.BertModel(hf.BertConfig(**OWN)),
        decoder=hf.BertLMHeadModel(hf.BertConfig(**OWN, is_decoder=True, add_cross_attention=True)),
    )
    assert roles(model) == {
        "self": ["encoder.encoder.layer.0.attention.self"],
        "decoder": ["decoder.bert.encoder.layer.0.attention.self"],
        "cross": ["decoder.bert.encoder.layer.0.crossattention.self"],
    }


def test_a_composite_model_attends_over_its_graph_and_keeps_it(tmp_path):
    parts = (
        hf.BertModel(hf.BertConfig(**OWN)),
        hf.BertLMHeadModel(hf.BertConfig(**OWN, is_decoder=True, add_cross_attention=True)),
    )
    model = sparsify(hf.EncoderDecoderModel(encoder=parts[0], decoder=parts[1]), block_size=4).eval()
    inputs = FAMILIES["bart"].inputs()
    with torch.no_grad():
        expected = model(**inputs).logits
        model.save_pretrained(tmp_path)
        found = from_pretrained(tmp_path, hf.EncoderDecoderModel).eval()(**inputs).logits
    assert torch.equal(found, expected)
    assert [site.calls for site in attention_layers(model)] == [1, 0, 0]
