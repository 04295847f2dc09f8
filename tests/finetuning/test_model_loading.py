"""Models, tokenizers and configurations, checked against each other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertConfig,
    EsmConfig,
    GPT2Config,
    MarkupLMConfig,
    ModernBertConfig,
    RobertaConfig,
    RobertaModel,
    T5Config,
    XmodConfig,
)

import nip
from finetuning_files import write_tokenizer
from huggingface_families import FAMILIES
from nip.finetuning.arguments import Command, parse
from nip.finetuning.masked_lm.task import MaskedLmArguments
from nip.finetuning.model_loading import (
    load_config,
    load_model,
    load_tokenizer,
    read_fixed_graph,
    saved_graph,
    sequence_length,
)
from nip.models.huggingface.sparsify import attention_layers
from nip.models.positions import max_positions


def command(model: str | None = None, *, given: set[str] = frozenset(), **attention: Any) -> Any:
    named = {"config_name": None, "tokenizer_name": None, "cache_dir": None, "model_revision": "main"}
    settled = {"extend_positions": None, **attention}
    return SimpleNamespace(
        model=SimpleNamespace(model_name_or_path=model, **named), attention=SimpleNamespace(**settled), given=given
    )


def test_positions_of_model_families():
    assert max_positions(BertConfig(max_position_embeddings=40)) == 40
    assert max_positions(GPT2Config(n_positions=30)) == 30
    assert max_positions(T5Config()) is None
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = RobertaConfig(vocab_size=9, max_position_embeddings=12, pad_token_id=1, **sizes)
    model, most = RobertaModel(config), max_positions(config)
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


def test_how_a_graph_file_is_read_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "one.txt").write_text("".join(f"{i + 1} {(i + 1) % 7 + 1}\n" for i in range(7)))
    graph = read_fixed_graph(command(graph=str(tmp_path / "one.txt"), block_size=16), 128)
    assert graph is not None and graph.n == 8
    err = capsys.readouterr().err
    assert err.startswith("nip: ") and "vertex 0 has no edge" in err and err.count("\n") == 1


def test_invalid_lengths_raise(tmp_path: Path):
    tokenizer = AutoTokenizer.from_pretrained(write_tokenizer(tmp_path))
    config = BertConfig(max_position_embeddings=48)
    with pytest.raises(ValueError, match="49 is longer than the 48 positions of m: give --extend_positions reflect"):
        sequence_length(command("m"), config, tokenizer, wanted=49, default=128)
    with pytest.raises(ValueError, match="must be at least 1"):
        sequence_length(command("m"), config, tokenizer, wanted=0, default=128)


def test_rotary_positions_are_unlimited(tmp_path: Path):
    tokenizer = AutoTokenizer.from_pretrained(write_tokenizer(tmp_path))
    config = ModernBertConfig(max_position_embeddings=48)
    assert max_positions(config) is None
    assert sequence_length(command("m"), config, tokenizer, wanted=96, default=128) == 96
    assert sequence_length(command("m"), config, tokenizer, wanted=None, default=128) == 48  # as it was taught


@pytest.mark.parametrize("config", [XmodConfig, MarkupLMConfig, EsmConfig])
def test_padding_rows_are_not_positions(config: Any):
    assert max_positions(config(vocab_size=9, max_position_embeddings=12, pad_token_id=1)) == 10


def mlm(model: str | Path, text: Path, *words: str) -> Command:
    files = ["--train_file", str(text), "--do_train", "--output_dir", "nowhere"]
    named = [] if {"--config_name", "--model_name_or_path"} & {*words} else ["--model_name_or_path", str(model)]
    reader = [] if "--tokenizer_name" in words else ["--tokenizer_name", str(model)]
    return parse([*named, *reader, *files, *words], MaskedLmArguments, program="nip mlm")


def loaded(
    command: Command, seq_len: int = 32, auto: Any = AutoModelForMaskedLM, *, scratch: bool = False
) -> list[Any]:
    config = load_config(command)
    model = load_model(command, auto, config, load_tokenizer(command), seq_len, scratch=scratch)
    return [(site.graph and site.graph.name, site.backend) for site in attention_layers(model) if site.role == "self"]


@pytest.mark.parametrize("scratch", [False, True])
@pytest.mark.parametrize("layers", [False, True])
def test_a_saved_model_keeps_all_its_graphs(scratch: bool, layers: bool, model: Path, text: Path, tmp_path: Path):
    """From its weights or from scratch; also where only some of its layers have one."""
    plain = AutoModelForMaskedLM.from_pretrained(model)
    named = {"pattern": None, "layers": {1: "local"}} if layers else {"pattern": "local"}
    nip.sparsify(plain, **named, block_size=4).save_pretrained(tmp_path)
    expected = [None if layers else "local", "local"]
    words = ["--config_name", str(tmp_path)] if scratch else ["--model_name_or_path", str(tmp_path)]
    command = mlm(model, text, *words)
    assert [name for name, _ in loaded(command, scratch=scratch)] == expected
    command = mlm(model, text, *words, "--backend", "gather")
    assert loaded(command, scratch=scratch) == [(name, "gather") for name in expected]
    command = mlm(model, text, *words, "--attention", "global")
    assert [name for name, _ in loaded(command, scratch=scratch)] == ["global", "global"]


def test_a_pattern_without_a_graph_for_the_length_raises(model: Path, text: Path):
    command = mlm(model, text, "--attention", "generalized_quadrangle", "--block_size", "4")
    with pytest.raises(ValueError, match=r"generalized_quadrangle has no graph for inputs of 32 tokens in blocks of 4"):
        loaded(command)


def test_a_saved_graph_that_is_too_small_raises(model: Path, text: Path, tmp_path: Path):
    plain = AutoModelForMaskedLM.from_pretrained(model)
    nip.sparsify(plain, nip.pattern("hypercube", 4), block_size=4).save_pretrained(tmp_path)
    assert loaded(mlm(tmp_path, text, "--tokenizer_name", str(model)), 16)[0][0] == "custom"
    with pytest.raises(ValueError, match=r"custom has no graph for inputs of 32 tokens in blocks of 4"):
        loaded(mlm(tmp_path, text, "--tokenizer_name", str(model)))


def test_truncated_weights_raise(model: Path, text: Path, tmp_path: Path):
    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="has no weights that can be read"):
        loaded(mlm(tmp_path, text))


@pytest.mark.parametrize("name", ["pegasus", "marian"])
def test_sinusoidal_positions_are_extended_on_request(name: str, model: Path, text: Path, tmp_path: Path):
    FAMILIES[name].make("sdpa").save_pretrained(tmp_path)
    words = ["--tokenizer_name", str(model), "--block_size", "4", "--extend_positions", "reflect"]
    command = mlm(tmp_path, text, *words)
    found = load_model(command, AutoModelForSeq2SeqLM, load_config(command), load_tokenizer(command), 96)
    assert found.config.max_position_embeddings == 96


def test_missing_models_raise(tmp_path: Path):
    for name, sentence in (
        (str(tmp_path), "has no config.json that can be read"),
        (str(tmp_path / "none"), "there is no folder"),
        ("nobodys/model", "the hub has no config.json under that name"),
        (None, "Name a model"),
    ):
        with pytest.raises(ValueError, match=sentence) as unsupported:
            load_config(command(name))
        assert "\n" not in str(unsupported.value)


def test_a_tokenizer_may_have_fewer_tokens_than_the_model_but_not_more(tmp_path: Path):
    folder = str(write_tokenizer(tmp_path))
    tokenizer = load_tokenizer(command(folder), BertConfig(vocab_size=100))
    with pytest.raises(ValueError, match=r"has 26 tokens, but the model's embedding has 25 rows"):
        load_tokenizer(command(folder), BertConfig(vocab_size=len(tokenizer) - 1))


def test_the_embedding_may_lack_the_mask_token_if_nothing_is_masked(tmp_path: Path):
    """As those of facebook/bart-large-cnn do."""
    tokenizer = AutoTokenizer.from_pretrained(write_tokenizer(tmp_path))
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    tokenizer.save_pretrained(tmp_path)
    config = BertConfig(vocab_size=len(tokenizer) - 1)
    assert len(load_tokenizer(command(str(tmp_path)), config)) == len(tokenizer)
    with pytest.raises(ValueError, match="name the model's own tokenizer with --tokenizer_name"):
        load_tokenizer(command(str(tmp_path)), config, masks=True)


def test_the_models_own_graph_is_the_default():
    entry = {"default": {"pattern": "local", "block_size": 4, "parameters": {}}, "layers": None}
    config = SimpleNamespace(nip=entry)
    assert saved_graph(command(), config) == entry
    assert saved_graph(command(), SimpleNamespace(nip={**entry, "default": None})) is not None
    assert saved_graph(command(), SimpleNamespace()) is None
    for flag in ("attention", "attention_layers", "graph", "param", "block_size"):
        assert saved_graph(command(given={flag}), config) is None
