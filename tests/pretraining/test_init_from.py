"""Initial weights from other models."""

import dataclasses
import json

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertModel

import nip
from nip.finetuning.masked_lm import task as masked_lm
from nip.pretraining import init_from
from nip.pretraining.export import load_model
from nip.pretraining.run import pretrain
from nip.pretraining.settings import Settings
from nip.training.checkpoint import read_tensors


@pytest.fixture
def settings():
    small = {
        "layers": 1,
        "width": 16,
        "heads": 2,
        "inner_width": 32,
        "block_size": 8,
        "batch_size": 8,
        "eval_samples": 4,
    }
    return Settings(size="tiny", lengths=((16, 1.0),), max_steps=2, track="none", **small)


def initial_weights(monkeypatch, settings, corpus, out):
    """The initial weights of a run."""

    def stop(run, task):
        seen.update(
            {name: weight.detach().clone() for name, weight in run.state.unwrapped_model.model.named_parameters()}
        )
        raise KeyboardInterrupt

    seen = {}
    with monkeypatch.context() as patched:
        patched.setattr("nip.pretraining.run.train", stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain(settings, corpus, out)
    return seen


@pytest.mark.parametrize("architecture", ["bert", "roberta-prelayernorm", "modernbert"])
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_the_weights_of_an_earlier_run(settings, corpora, tmp_path, monkeypatch, architecture, norm):
    """With twice its length: positions equal those of nip.extend_positions, other weights are unchanged."""
    settings = dataclasses.replace(settings, architecture=architecture, norm=norm)
    pretrain(settings, corpora["packed"], tmp_path / "one")
    longer = dataclasses.replace(settings, lengths=((32, 1.0),), init_from=str(tmp_path / "one"), seed=7)
    found = initial_weights(monkeypatch, longer, corpora["packed"], tmp_path / "two")
    before = load_model(tmp_path / "one")
    if architecture != "modernbert":
        nip.extend_positions(before, 32)
    weights = dict(before.named_parameters())
    assert weights.keys() == found.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, found[name]), name


def test_a_plain_checkpoint_with_more_positions(settings, corpora, tmp_path, monkeypatch):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    size = json.loads((corpora["packed"] / "manifest.json").read_text())["tokenizer"]["vocabulary"]["size"]
    rows = -(-size // 8) * 8
    plain = BertForMaskedLM(BertConfig(vocab_size=rows, max_position_embeddings=64, **sizes))
    plain.save_pretrained(tmp_path / "plain")
    found = initial_weights(
        monkeypatch,
        dataclasses.replace(settings, init_from=str(tmp_path / "plain")),
        corpora["packed"],
        tmp_path / "run",
    )
    for name, weight in plain.named_parameters():
        assert torch.equal(weight[:16] if "position_embeddings" in name else weight, found[name]), name


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"hidden_size": 8}, "has the shape"),
        ({"vocab_size": 20}, "has 20 token ids, the corpus's tokenizer"),
    ],
)
def test_models_of_other_sizes_are_refused(settings, corpora, tmp_path, config, says):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(**{"vocab_size": 160, **sizes, **config})).save_pretrained(tmp_path / "plain")
    with pytest.raises(ValueError, match=f"--init-from: .*{says}"):
        pretrain(dataclasses.replace(settings, init_from=str(tmp_path / "plain")), corpora["packed"], tmp_path / "run")


def test_the_next_sentence_head(settings, corpora, tmp_path, monkeypatch, capsys):
    """It is loaded if the model has one; otherwise a message names it."""
    settings = dataclasses.replace(settings, lengths=((32, 1.0),))
    pretrain(settings, corpora["pairs"], tmp_path / "without")
    pairs = dataclasses.replace(settings, next_sentence=True, seed=3)
    pretrain(pairs, corpora["pairs"], tmp_path / "with")
    capsys.readouterr()
    again = dataclasses.replace(pairs, seed=4, init_from=str(tmp_path / "with"))
    found = initial_weights(monkeypatch, again, corpora["pairs"], tmp_path / "two")
    assert "next sentences" not in capsys.readouterr().err
    weights = dict(load_model(tmp_path / "with").named_parameters())
    assert weights.keys() == found.keys()
    for name in ("cls.seq_relationship.weight", "bert.pooler.dense.weight"):
        assert torch.equal(weights[name], found[name]), name
    anew = dataclasses.replace(pairs, init_from=str(tmp_path / "without"))
    initial_weights(monkeypatch, anew, corpora["pairs"], tmp_path / "three")
    assert "without has no weights for next sentences: bert.pooler.dense.weight, " in capsys.readouterr().err


def test_models_that_cannot_be_read(settings, corpora, tmp_path, monkeypatch):
    """With the default tracker: the corrected command can use the folder."""
    settings = dataclasses.replace(settings, track="tensorboard")
    pretrain(settings, corpora["packed"], tmp_path / "one")
    full = (tmp_path / "one" / "model.safetensors").read_bytes()
    (tmp_path / "one" / "model.safetensors").write_bytes(full[:100])
    begun = dataclasses.replace(settings, init_from=str(tmp_path / "one"))
    with pytest.raises(ValueError, match=r"--init-from: .*one cannot be read: ") as caught:
        pretrain(begun, corpora["packed"], tmp_path / "two")
    assert "\n" not in str(caught.value)

    def no_network(name, **_):
        raise OSError("We cannot connect to the hub.\nCheck your connection.")

    with monkeypatch.context() as patched:
        patched.setattr(init_from.AutoConfig, "from_pretrained", no_network)
        nobody = dataclasses.replace(settings, init_from="nobody/nothing")
        with pytest.raises(ValueError, match=r"nobody/nothing cannot be read: We cannot connect to the hub\.$"):
            pretrain(nobody, corpora["packed"], tmp_path / "two")
    (tmp_path / "one" / "model.safetensors").write_bytes(full)
    assert pretrain(begun, corpora["packed"], tmp_path / "two")["steps"] == 2


def test_a_model_of_another_family_is_refused(settings, corpora, tmp_path):
    pretrain(settings, corpora["packed"], tmp_path / "one")
    other = dataclasses.replace(settings, architecture="modernbert", init_from=str(tmp_path / "one"))
    with pytest.raises(ValueError, match="is a bert, the run's model a modernbert"):
        pretrain(other, corpora["packed"], tmp_path / "two")


def test_other_tokens_and_norms_are_refused(settings, corpora, tmp_path):
    pretrain(settings, corpora["packed"], tmp_path / "one")
    other = dataclasses.replace(settings, init_from=str(tmp_path / "one"), norm="rms")
    with pytest.raises(ValueError, match="has --norm layer, the run rms"):
        pretrain(other, corpora["packed"], tmp_path / "two")
    described = json.loads((tmp_path / "one" / "tokenizer.json").read_text())
    words = described["model"]["vocab"]
    one, two = list(words)[-2:]
    words[one], words[two] = words[two], words[one]
    (tmp_path / "one" / "tokenizer.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"--init-from: the tokenizer .* is not the one that the shards"):
        pretrain(dataclasses.replace(other, norm="layer"), corpora["packed"], tmp_path / "three")
    with pytest.raises(ValueError, match="--init-from: there is no folder"):
        pretrain(dataclasses.replace(other, init_from=str(tmp_path / "gone")), corpora["packed"], tmp_path / "four")


def test_a_resumed_run_does_not_need_the_other_model(settings, corpora, tmp_path, monkeypatch):
    """The other model is needed for the initial weights only."""
    pretrain(settings, corpora["packed"], tmp_path / "one")
    started = dataclasses.replace(settings, init_from=str(tmp_path / "one"), max_steps=3)
    result = pretrain(started, corpora["packed"], tmp_path / "two")
    (tmp_path / "one" / "config.json").unlink()
    (tmp_path / "two" / "config.json").unlink()
    again = pretrain(started, corpora["packed"], tmp_path / "two")
    assert again["test_loss"] == result["test_loss"]


def test_transformers_loads_the_run_folder(settings, corpora, tmp_path):
    """As an encoder without head, with and without the graph."""
    pretrain(settings, corpora["packed"], tmp_path / "run")
    plain = BertModel.from_pretrained(tmp_path / "run")
    graph = nip.from_pretrained(tmp_path / "run")
    state = read_tensors(tmp_path / "run/checkpoint/state.safetensors")[0]
    for model in (plain, graph):
        weight = model.embeddings.word_embeddings.weight
        assert torch.equal(weight, state["weights.model.bert.embeddings.word_embeddings.weight"])


@pytest.mark.slow
def test_a_run_from_a_model_finetuned_with_nip_mlm(settings, corpora, tmp_path):
    """A run folder is finetuned, and the result initializes another run."""
    pretrain(settings, corpora["packed"], tmp_path / "run")
    (tmp_path / "text.txt").write_text("the sparse graph of attention joins blocks\n" * 40)
    words = ["--model_name_or_path", tmp_path / "run", "--train_file", tmp_path / "text.txt", "--max_seq_length", 16]
    words += ["--validation_file", tmp_path / "text.txt", "--do_train", "--do_eval", "--max_steps", 2]
    masked_lm.main([str(word) for word in (*words, "--output_dir", tmp_path / "mlm")], program="nip mlm")
    again = dataclasses.replace(settings, init_from=str(tmp_path / "mlm"))
    assert pretrain(again, corpora["packed"], tmp_path / "again")["steps"] == 2
