"""Longer tables of positions: the rows that they are made of, and models that read longer inputs with them."""

import pytest
import torch

import nip
from huggingface_families import FAMILIES
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


@pytest.mark.parametrize(
    ("name", "reason"),
    [("llama", "rotary"), ("modernbert", "rotary"), ("t5", "relative"), ("pegasus", "resize_position_embeddings"),
     ("vit", "nothing to extend")],
)  # fmt: skip
def test_a_model_without_a_table_is_refused(name, reason):
    with pytest.raises(ValueError, match=f"has no table of learned positions: .*{reason}"):
        nip.extend_positions(FAMILIES[name].make(), LONG)


@pytest.mark.parametrize(("n", "method", "message"), [(0, "reflect", "'n' parameter"), (LONG, "mirror", "'method'")])
def test_wrong_arguments_are_refused(n, method, message):
    with pytest.raises(ValueError, match=message):
        nip.extend_positions(FAMILIES["bert"].make(), n, method)
