"""Models, tokenizers and configurations, checked against each other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, GPT2Config, RobertaConfig, RobertaModel, T5Config

from finetuning_files import write_tokenizer
from nip.finetuning.loading import load_config, load_tokenizer, positions_of, saved_graph, sequence_length


def command(model: str | None = None, *, given: set[str] = frozenset(), **attention: Any) -> Any:
    named = {"config_name": None, "tokenizer_name": None, "cache_dir": None, "model_revision": "main"}
    settled = {"extend_positions": None, **attention}
    return SimpleNamespace(
        model=SimpleNamespace(model_name_or_path=model, **named), attention=SimpleNamespace(**settled), given=given
    )


def test_positions_are_those_that_a_model_can_read():
    assert positions_of(BertConfig(max_position_embeddings=40)) == 40
    assert positions_of(GPT2Config(n_positions=30)) == 30
    assert positions_of(T5Config()) is None
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = RobertaConfig(vocab_size=9, max_position_embeddings=12, pad_token_id=1, **sizes)
    model, most = RobertaModel(config), positions_of(config)
    model(torch.full((1, most), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(torch.full((1, most + 1), 5))


@pytest.mark.parametrize(
    ("wanted", "extend", "expected"),
    [(None, None, 48), (None, "reflect", 64), (48, None, 48), (30, None, 30), (96, "reflect", 96)],
)
def test_the_length_fits_model_and_tokenizer(wanted: int | None, extend: str | None, expected: int, tmp_path: Path):
    tokenizer = AutoTokenizer.from_pretrained(write_tokenizer(tmp_path))  # reads 64 tokens
    config = BertConfig(max_position_embeddings=48)
    found = sequence_length(command("m", extend_positions=extend), config, tokenizer, wanted=wanted, default=128)
    assert found == expected
    assert tokenizer.model_max_length >= found


def test_lengths_that_cannot_be_are_refused(tmp_path: Path):
    tokenizer = AutoTokenizer.from_pretrained(write_tokenizer(tmp_path))
    config = BertConfig(max_position_embeddings=48)
    with pytest.raises(ValueError, match="49 is longer than the 48 positions of m: give --extend_positions reflect"):
        sequence_length(command("m"), config, tokenizer, wanted=49, default=128)
    with pytest.raises(ValueError, match="must be at least 1"):
        sequence_length(command("m"), config, tokenizer, wanted=0, default=128)


def test_models_that_are_not_there(tmp_path: Path):
    for name, sentence in (
        (str(tmp_path), "has no config.json that can be read"),
        (str(tmp_path / "none"), "there is no folder"),
        ("nobodys/model", "the hub gave no config.json under that name"),
        (None, "Name a model"),
    ):
        with pytest.raises(ValueError, match=sentence) as refused:
            load_config(command(name))
        assert "\n" not in str(refused.value)


def test_a_tokenizer_may_know_fewer_tokens_than_the_model_but_not_more(tmp_path: Path):
    folder = str(write_tokenizer(tmp_path))
    tokenizer = load_tokenizer(command(folder), BertConfig(vocab_size=100))
    with pytest.raises(ValueError, match=r"knows 26 tokens, but the model's table has 25 rows"):
        load_tokenizer(command(folder), BertConfig(vocab_size=len(tokenizer) - 1))


def test_the_models_own_graph_is_taken_where_no_other_is_named():
    graph = {"pattern": "local", "block_size": 4, "parameters": {}}
    config = SimpleNamespace(nip={"default": graph})
    assert saved_graph(command(), config) == graph
    assert saved_graph(command(), SimpleNamespace()) is None
    for flag in ("attention", "attention_layers", "graph", "param", "block_size"):
        assert saved_graph(command(given={flag}), config) is None
