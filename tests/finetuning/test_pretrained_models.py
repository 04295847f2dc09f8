"""Models of ``nip pretrain`` are finetuned by ``nip glue`` and ``nip mlm``: weights, norms, graph and tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

import nip
from finetuning_files import SPECIAL, WORDS, write_tokenizer
from nip.data.corpus import Vocabulary
from nip.finetuning.glue import task as glue
from nip.finetuning.masked_lm import task as masked_lm
from nip.pretraining.export import load_model, save_model
from nip.pretraining.model import ModelSettings, build_model
from nip.pretraining.settings import ARCHITECTURES

KINDS = [*((architecture, "layer") for architecture in ARCHITECTURES), ("bert", "rms"), ("roberta-prelayernorm", "rms")]


@pytest.fixture
def pretrained(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    architecture, norm = request.param
    settings = ModelSettings(
        2, 32, 2, 32, architecture=architecture, norm=norm, max_position_embeddings=64, hidden_dropout_prob=0.0
    )
    vocabulary = Vocabulary(len(SPECIAL) + len(WORDS), 0, 2, 3, 4, (0, 1, 2, 3, 4))
    model = build_model(settings, vocabulary, "bigbird", block_size=4, num_random_blocks=2)
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    save_model(model, tokenizer, tmp_path / "pretrained", max_tokens=64)
    return tmp_path / "pretrained"


@pytest.mark.parametrize("pretrained", KINDS, indirect=True, ids="-".join)
def test_glue_finetunes_its_weights(pretrained: Path, mrpc: Path, tmp_path: Path):
    words = f"--model_name_or_path {pretrained} --data_dir {mrpc} --task_name mrpc --do_train --do_eval --do_predict"
    options = f"--max_seq_length 32 --max_steps 2 --learning_rate 0 --weight_decay 0 --output_dir {tmp_path / 'out'}"
    result = glue.main([*words.split(), *options.split()])
    assert result["n_test"] == 12
    found = nip.from_pretrained(tmp_path / "out", AutoModelForSequenceClassification)
    expected = load_model(pretrained)
    assert found.config.nip == expected.config.nip and found.config.nip["default"]["parameters"]
    ours = expected.base_model.state_dict()
    kept = {name: weight for name, weight in found.base_model.state_dict().items() if not name.startswith("pooler")}
    assert kept.keys() == ours.keys() and all(torch.equal(weight, ours[name]) for name, weight in kept.items())


@pytest.mark.parametrize("pretrained", KINDS, indirect=True, ids="-".join)
def test_masked_lm_finetunes_and_saves_it(pretrained: Path, text: Path, tmp_path: Path):
    words = f"--model_name_or_path {pretrained} --train_file {text} --validation_file {text} --do_train --do_eval"
    options = f"--max_seq_length 16 --max_steps 2 --learning_rate 0 --weight_decay 0 --output_dir {tmp_path / 'out'}"
    masked_lm.main([*words.split(), *options.split()])
    found = nip.from_pretrained(tmp_path / "out", AutoModelForMaskedLM)
    expected = load_model(pretrained)
    assert found.config.nip == expected.config.nip
    ids = torch.arange(5, 21)[None]
    assert torch.equal(found.eval()(ids).logits, expected.eval()(ids).logits)
    assert torch.equal(load_model(tmp_path / "out").eval()(ids).logits, found(ids).logits)
