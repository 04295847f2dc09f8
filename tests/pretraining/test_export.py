import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

import nip
from nip.data.corpus import open_corpus
from nip.pretraining.export import load_model, save_model
from nip.pretraining.model import ModelSettings, build_model
from nip.pretraining.settings import ARCHITECTURES, NORMS

SMALL = ModelSettings(2, 16, 2, 32, max_position_embeddings=32, hidden_dropout_prob=0, attention_probs_dropout_prob=0)
IDS = torch.randint(5, 150, (2, 32), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def corpus(corpora):
    return open_corpus(corpora["packed"])


def saved(corpus, folder, **settings):
    model = build_model(replace(SMALL, **settings), corpus.vocabulary, block_size=4).eval()
    with torch.no_grad():  # so that a lost norm shows
        for name, weight in model.named_parameters():
            if "norm" in name.lower():
                weight.add_(torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)))
    save_model(model, corpus.tokenizer, folder, max_tokens=32)
    return model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("norm", NORMS)
def test_a_saved_model_loads_bit_identically(corpus, tmp_path, architecture, norm):
    model = saved(corpus, tmp_path / "model", architecture=architecture, norm=norm)
    again = load_model(tmp_path / "model").eval()
    assert type(again) is type(model) and again.config.nip == model.config.nip
    assert torch.equal(model(IDS).logits, again(IDS).logits)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_transformers_loads_it(corpus, tmp_path, architecture):
    model = saved(corpus, tmp_path, architecture=architecture)
    plain = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    ours = model.state_dict()
    assert plain.state_dict().keys() == ours.keys()
    assert all(torch.equal(weight, ours[name]) for name, weight in plain.state_dict().items())
    AutoModel.from_pretrained(tmp_path)(IDS)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rms_norm_is_kept_with_other_heads_and_graphs(corpus, tmp_path, architecture):
    model = saved(corpus, tmp_path, architecture=architecture, norm="rms")
    classifier = nip.from_pretrained(tmp_path, AutoModelForSequenceClassification, num_labels=3).eval()
    hidden = model.base_model(IDS).last_hidden_state
    torch.testing.assert_close(classifier.base_model(IDS).last_hidden_state, hidden, rtol=0, atol=0)
    other = nip.sparsify(AutoModelForMaskedLM.from_pretrained(tmp_path), "softmax", block_size=4).eval()
    model = nip.sparsify(model, "softmax", block_size=4)
    assert torch.equal(other(IDS).logits, model(IDS).logits) and model.config.nip["norm"] == "rms"


def test_the_next_sentence_head_is_saved(corpus, tmp_path):
    model = saved(corpus, tmp_path, next_sentence=True)
    again = load_model(tmp_path).eval()
    assert torch.equal(model(IDS).seq_relationship_logits, again(IDS).seq_relationship_logits)


@pytest.mark.parametrize(
    ("architecture", "types"), [("bert", True), ("roberta-prelayernorm", True), ("modernbert", False)]
)
def test_the_tokenizer_returns_the_inputs_of_the_model(corpus, tmp_path, architecture, types):
    model = saved(corpus, tmp_path, architecture=architecture)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    inputs = tokenizer("the sparse graph", "of attention", return_tensors="pt")
    assert tokenizer.model_max_length == 32 and ("token_type_ids" in inputs) == types
    assert model(**inputs).logits.shape[1] == inputs["input_ids"].shape[1]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_other_weights_can_be_saved(corpus, tmp_path, architecture):
    settings = replace(SMALL, architecture=architecture)
    model = build_model(settings, corpus.vocabulary, block_size=4, seed=1)
    others = build_model(settings, corpus.vocabulary, block_size=4, seed=2)
    copies = {name: weight.clone() for name, weight in others.state_dict().items()}  # as from a GPU
    save_model(model, corpus.tokenizer, tmp_path / "copies", max_tokens=32, weights=copies)
    again = load_model(tmp_path / "copies").state_dict()
    assert all(torch.equal(weight, again[name]) for name, weight in copies.items())
    save_model(others, corpus.tokenizer, tmp_path / "own", max_tokens=32)
    files = [load_file(tmp_path / folder / "model.safetensors") for folder in ("copies", "own")]
    assert files[0].keys() == files[1].keys()  # tied weights once


def test_a_full_disk_leaves_no_complete_model(corpus, tmp_path, monkeypatch):
    def fill(*args, **kwargs):  # safetensors does not raise an OSError
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(transformers.modeling_utils, "safe_save_file", fill)
    with pytest.raises(OSError, match=r"the model cannot be written: .* No space left on device"):
        saved(corpus, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_files_have_the_usual_mode_and_no_progress_bar_is_printed(corpus, tmp_path, capfd):
    (tmp_path / "ordinary").touch()
    saved(corpus, tmp_path / "model")
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "model").iterdir()}
    assert set(modes.values()) == {(tmp_path / "ordinary").stat().st_mode} and len(modes) >= 4
    assert capfd.readouterr().err == ""


def test_the_configuration_is_written_last_and_temporary_files_are_removed(corpus, tmp_path, monkeypatch):
    moved, move = [], Path.replace

    def failing(path, target):
        if path.name == "config.json":
            raise OSError(28, "No space left on device")
        moved.append(path.name)
        return move(path, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OSError, match="No space left"):
        saved(corpus, tmp_path)
    assert {"model.safetensors", "tokenizer.json"} <= set(moved)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(moved)
    with pytest.raises(ValueError, match=r"contains no complete model: there is no config\.json"):
        load_model(tmp_path)
    monkeypatch.undo()
    saved(corpus, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["nip"]["default"]["pattern"] == "hypercube"
    load_model(tmp_path)
