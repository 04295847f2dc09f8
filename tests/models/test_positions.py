"""Longer tables of positions: the rows that they are made of, and models that read longer inputs with them."""

import pytest
import torch
from transformers import BertConfig, EncoderDecoderConfig, EncoderDecoderModel

import nip
from huggingface_families import FAMILIES, TEXT
from nip.models.positions import METHODS, interpolated, reflected, tiled

IDS = torch.randint(4, 50, (2, 150), generator=torch.Generator().manual_seed(0))
LONG = 150
TABLES = {
    "bert": "embeddings.position_embeddings",
    "roberta": "embeddings.position_embeddings",
    "distilbert": "embeddings.position_embeddings",
    "electra": "embeddings.position_embeddings",
    "gpt2": "transformer.wpe",
    "opt": "model.decoder.embed_positions",
    "bart": "model.encoder.embed_positions",
}
ROWS_BEFORE = {"roberta": 2, "opt": 2, "bart": 2}


def test_reflection_is_that_of_the_gray_code():
    table = torch.randn(128, 3)
    longer = reflected(table, 512)
    assert torch.equal(longer[:128], table)
    assert torch.equal(longer[128:256], table.flip(0))
    assert torch.equal(longer[256:512], longer[:256].flip(0))
    assert torch.equal(reflected(table, 200), longer[:200])


def test_tiles_and_interpolation():
    table = torch.tensor([[0.0, 10.0], [1.0, 20.0], [2.0, 40.0]])
    assert torch.equal(tiled(table, 7), table[[0, 1, 2, 0, 1, 2, 0]])
    stretched = torch.tensor([[0.0, 10.0], [0.5, 15.0], [1.0, 20.0], [1.5, 30.0], [2.0, 40.0]])
    torch.testing.assert_close(interpolated(table, 5), stretched)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TABLES)
def test_a_model_reads_longer_inputs_and_keeps_its_first_rows(name, method, tmp_path):
    model = FAMILIES[name].make("sdpa")
    before = ROWS_BEFORE.get(name, 0)
    table = model.get_submodule(TABLES[name]).weight.detach().clone()
    usable = len(table) - before
    assert nip.extend_positions(model, LONG, method) is model
    longer = model.get_submodule(TABLES[name])
    assert torch.equal(longer.weight[:before], table[:before])
    assert torch.equal(longer.weight[before:], METHODS[method](table[before:], LONG))
    assert longer.weight.requires_grad and longer.num_embeddings == LONG + before
    positions = model.config.max_position_embeddings
    assert positions == (LONG + 2 if name == "roberta" else LONG)  # RoBERTa counts the rows before, too
    with torch.no_grad():
        out = model(IDS)[0]
        model.save_pretrained(tmp_path)
        again = type(model).from_pretrained(tmp_path).eval()
        assert torch.equal(again(IDS)[0], out)
    with pytest.raises(ValueError, match=f"already has {LONG} positions"):
        nip.extend_positions(model, usable)


def test_both_tables_of_an_encoder_decoder_are_lengthened():
    model = nip.extend_positions(FAMILIES["bart"].make(), LONG)
    with torch.no_grad():
        assert model(IDS, decoder_input_ids=IDS).logits.shape[1] == LONG


@pytest.mark.parametrize("name", ["pegasus", "marian"])
def test_sines_are_computed_further(name, tmp_path):
    model = FAMILIES[name].make("sdpa")
    inputs = {"input_ids": IDS[:, :60], "decoder_input_ids": IDS[:, :9]}
    with torch.no_grad():
        for side in (model.model.encoder, model.model.decoder):  # the family draws all its weights
            side.embed_positions.weight.copy_(side.embed_positions.create_weight())
        before = model(**inputs).logits
        nip.extend_positions(model, LONG)
        table = model.model.encoder.embed_positions
        torch.testing.assert_close(table.weight[LONG - 1, :1], torch.tensor([LONG - 1.0]).sin())
        assert (table.num_embeddings, table.weight.requires_grad) == (LONG, False)
        assert model.config.max_position_embeddings == LONG
        assert torch.equal(model(**inputs).logits, before)
        longer = model(input_ids=IDS, decoder_input_ids=IDS).logits
        model.save_pretrained(tmp_path)
        again = type(model).from_pretrained(tmp_path).eval()
        assert torch.equal(again(input_ids=IDS, decoder_input_ids=IDS).logits, longer)


def test_each_submodel_of_a_composite_model_records_its_length(tmp_path):
    parts = [BertConfig(**{**TEXT, "is_decoder": side, "add_cross_attention": side}) for side in (False, True)]
    model = EncoderDecoderModel(EncoderDecoderConfig.from_encoder_decoder_configs(*parts)).eval()
    nip.extend_positions(model, LONG).save_pretrained(tmp_path)
    again = EncoderDecoderModel.from_pretrained(tmp_path).eval()
    assert [again.config.encoder.max_position_embeddings, again.config.decoder.max_position_embeddings] == [LONG, LONG]
    with torch.no_grad():
        found = [each(input_ids=IDS, decoder_input_ids=IDS).logits for each in (model, again)]
    assert torch.equal(*found)


def test_a_model_whose_configuration_does_not_say_its_length_is_refused_before_it_is_touched():
    model = FAMILIES["bert"].make()
    model.config.__dict__["max_position_embeddings"] = None
    with pytest.raises(ValueError, match="has no entry for the number of positions"):
        nip.extend_positions(model, LONG)
    assert model.embeddings.position_embeddings.num_embeddings == 64


@pytest.mark.parametrize(
    ("name", "reason"),
    [("llama", "rotary"), ("modernbert", "rotary"), ("t5", "relative"), ("m2m-100", "are sinusoidal"),
     ("vit", "nothing to extend")],
)  # fmt: skip
def test_a_model_without_a_table_is_refused(name, reason):
    with pytest.raises(ValueError, match=f"has no position table: .*{reason}"):
        nip.extend_positions(FAMILIES[name].make(), LONG)


@pytest.mark.parametrize(("n", "method", "message"), [(0, "reflect", "'n' parameter"), (LONG, "mirror", "'method'")])
def test_wrong_arguments_are_refused(n, method, message):
    with pytest.raises(ValueError, match=message):
        nip.extend_positions(FAMILIES["bert"].make(), n, method)


@pytest.mark.parametrize("name", ["bert", "bart", "pegasus"])
def test_another_default_device_changes_nothing(name):
    plain, other = (FAMILIES[name].make("sdpa") for _ in range(2))
    other.load_state_dict(plain.state_dict())
    nip.extend_positions(plain, LONG)
    with torch.device("meta"):  # whose tensors have no values
        nip.extend_positions(other, LONG)
    for key, tensor in plain.state_dict().items():
        assert torch.equal(other.state_dict()[key], tensor)
