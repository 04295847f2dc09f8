import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nip.lra import RunConfig, recipe
from nip.lra.config import check_same_config, read_config, read_settings
from nip.lra.model import encoder_config

BASE = recipe("listops")


def differences(there, here):
    """What the refusal of a command lists."""
    try:
        check_same_config("run", there, here)
    except ValueError as error:
        return str(error).removeprefix("run holds another run: ").partition(". Name another")[0].split("; ")
    return []


@given(
    seed=st.integers(0, 2**40),
    rate=st.floats(1e-8, 10),
    steps=st.integers(1, 10**6),
    parameters=st.dictionaries(st.text(max_size=5), st.integers() | st.booleans(), max_size=3),
)
def test_a_configuration_is_read_as_written(tmp_path_factory, seed, rate, steps, parameters):
    config = dataclasses.replace(BASE, seed=seed, learning_rate=rate, max_steps=steps, parameters=parameters)
    path = tmp_path_factory.getbasetemp() / "config.json"
    path.write_text(config.to_json())
    assert read_config(path) == config


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("batch_size", 0, "'batch_size' parameter of a run must be an integer of at least 1. Got 0 instead"),
        ("seed", -1, "'seed' parameter of a run must be an integer of at least 0"),
        ("max_steps", 2.5, "'max_steps' parameter of a run must be an integer"),
        ("max_steps", None, "'max_steps' parameter of a run must be an integer"),
        ("learning_rate", 0, "'learning_rate' parameter of a run must be a number above 0"),
        ("learning_rate", float("nan"), "'learning_rate' parameter of a run must be a number above 0"),
        ("learning_rate", "1e-3", "'learning_rate' parameter of a run must be a number above 0"),
        ("warmup", 1.5, r"'warmup' parameter of a run must be a number in \(0, 1\]"),
        ("weight_decay", -1, "'weight_decay' parameter of a run must be a number at least 0"),
        ("dropout", 1, r"'dropout' parameter of a run must be a number in \[0, 1\)"),
        ("protocol", "dirty", "'protocol' parameter of a run must be one of original, clean. Got 'dirty'"),
        ("recipe", "stew", "'recipe' parameter of a run must be one of original"),
        ("schedule", "none", "'schedule' parameter of a run must be one of original, modern, constant"),
        ("layers", 0, "'layers' parameter of a run must be an integer of at least 1"),
        ("pretrain_steps", -1, "'pretrain_steps' parameter of a run must be an integer of at least 0"),
        ("patience", 0, "'patience' parameter of a run must be an integer of at least 1"),
        ("ema", 1, r"'ema' parameter of a run must be a number in \(0, 1\)"),
        ("mask_share", 0.0, r"'mask_share' parameter of a run must be a number in \(0, 1\)"),
        ("pretrain_learning_rate", -1, "'pretrain_learning_rate' parameter of a run must be a number above 0"),
        ("gradient_checkpointing", 1, "'gradient_checkpointing' parameter of a run must be true or false"),
        ("head_width", 0, "'head_width' parameter of a run must be an integer of at least 1"),
        ("token_std", 0, "'token_std' parameter of a run must be a number above 0"),
        ("beta2", 1, r"'beta2' parameter of a run must be a number in \(0, 1\)"),
        ("cut", 0, "'cut' parameter of a run must be an integer of at least 1"),
        ("precision", "fp8", "'precision' parameter of a run must be one of fp32, bf16"),
        ("model", 3, "'model' parameter of a run must be text"),
        ("parameters", [1], "'parameters' parameter of a run must be a mapping"),
        ("seq_len", 4096, "4096 tokens is longer than the position table of 2048 rows"),
        ("gradient_accumulation", 33, "batch of 32 examples cannot be cut into 33 micro-batches"),
    ],
)
def test_impossible_settings_are_refused(field, value, says):
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(BASE, **{field: value})


def test_the_originals_protocol_needs_a_number_of_batches():
    with pytest.raises(ValueError, match="eval_steps must be given"):
        dataclasses.replace(BASE, protocol="original")


def test_only_the_modern_recipe_pretrains_with_all_its_settings():
    modern = dataclasses.replace(BASE, recipe="modern")
    with pytest.raises(ValueError, match="needs the clean protocol"):
        dataclasses.replace(modern, protocol="original", eval_steps=1)
    with pytest.raises(ValueError, match=r"positions must be seq_len, 1024\. Got 2048"):
        dataclasses.replace(modern, seq_len=1024)
    with pytest.raises(ValueError, match=r"Only the modern recipe pretrains\. The recipe is 'original'"):
        dataclasses.replace(BASE, pretrain_steps=1)
    with pytest.raises(ValueError, match="which has no mask_share"):
        dataclasses.replace(BASE, mask_share=0.3)
    with pytest.raises(ValueError, match="which has no pretrain_learning_rate"):
        dataclasses.replace(BASE, pretrain_learning_rate=0.01)
    with pytest.raises(ValueError, match="Pretraining needs pretrain_learning_rate"):
        dataclasses.replace(modern, pretrain_steps=1)
    with pytest.raises(ValueError, match="Pretraining needs mask_share"):
        dataclasses.replace(modern, pretrain_steps=1, pretrain_learning_rate=0.1)


def test_files_that_are_not_configurations(tmp_path):
    path = tmp_path / "config.json"
    for content, says in (
        ("width: 64", "config.json is not valid JSON: Expecting value"),
        ("[]", "config.json must hold a JSON object. Got list"),
        ('{"learning_rat": 1}', "config.json names learning_rat, which no run has"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=says):
            read_settings(path)
    values = json.loads(BASE.to_json())
    path.write_text(json.dumps({name: value for name, value in values.items() if name != "seed"}))
    with pytest.raises(ValueError, match=r"config.json lacks seed\."):
        read_config(path)
    sizes = ("layers", "repeats", "width", "heads", "head_dim", "inner_width")
    modern = ("pretrain_steps", "pretrain_learning_rate", "mask_share", "ema", "patience", "gradient_checkpointing")
    absent = ("recipe", "cut", "protocol_version", *sizes, *modern)
    path.write_text(json.dumps({name: value for name, value in values.items() if name not in absent}))
    assert read_config(path) == dataclasses.replace(BASE, protocol_version=1)
    path.write_text(json.dumps({**values, "dropout": 7}))
    with pytest.raises(ValueError, match=r"config\.json: The 'dropout' parameter"):
        read_config(path)


def test_every_field_makes_a_difference_but_a_larger_number_of_steps():
    there = dataclasses.replace(BASE, checksum="a", data="b", graph=None)
    assert differences(there, there) == []
    assert differences(there, dataclasses.replace(there, max_steps=6000)) == []
    others = {
        "task": "text", "seq_len": 1024, "positions": 4096, "batch_size": 8, "learning_rate": 0.5, "warmup": 0.5,
        "weight_decay": 0.5, "dropout": 0.5, "max_steps": 10, "eval_every": 7, "eval_steps": 7,
        "attention_dropout": 0.5, "model": "local", "parameters": {"seed": 1}, "block_size": 32, "seed": 1,
        "gradient_accumulation": 2, "precision": "bf16", "backend": "dense", "checksum": "x", "data": "x", "cut": 100,
        "schedule": "constant",
        "layers": 3, "repeats": 1, "width": 32, "heads": 2, "head_dim": 8, "inner_width": 64,
        "ema": 0.9, "patience": 3, "gradient_checkpointing": True,
        "head_width": None, "token_std": 0.5, "beta2": 0.999,
    }  # fmt: skip
    derived = {"graph", "protocol", "recipe", "pretrain_steps", "pretrain_learning_rate", "mask_share"}
    from_folder = {"protocol_version"}
    assert set(others) | derived | from_folder == {field.name for field in dataclasses.fields(RunConfig)}
    assert differences(there, dataclasses.replace(there, protocol_version=1)) == []
    for name, value in others.items():
        (said,) = differences(there, dataclasses.replace(there, **{name: value}))
        if name not in ("checksum", "data"):
            assert said == f"{name} is {getattr(there, name)!r} there and {value!r} here"
    assert differences(there, dataclasses.replace(there, protocol="original", eval_steps=1))
    modern = dataclasses.replace(there, recipe="modern")
    assert differences(there, modern) == ["recipe is 'original' there and 'modern' here"]
    pretrained = dataclasses.replace(modern, mask_share=0.1, pretrain_learning_rate=1e-3, pretrain_steps=5)
    more = dataclasses.replace(pretrained, pretrain_steps=6)
    assert differences(pretrained, more) == ["pretrain_steps is 5 there and 6 here"]
    for name, value in {"mask_share": 0.3, "pretrain_learning_rate": 0.5}.items():
        (said,) = differences(pretrained, dataclasses.replace(pretrained, **{name: value}))
        assert said == f"{name} is {getattr(pretrained, name)!r} there and {value!r} here"
    assert differences(there, dataclasses.replace(there, checksum="x")) == ["the graph is another one"]
    assert differences(there, dataclasses.replace(there, data="x")) == ["the data is another set"]


@pytest.mark.parametrize(
    ("settings", "here"),
    [
        ({"protocol": "original", "model": "hypercube"}, 0.0),
        ({"protocol": "original", "model": "softmax"}, 0.1),
        ({"protocol": "original", "model": "softmax", "graph": "a.npz"}, 0.0),
        ({"protocol": "original", "model": "hypercube", "protocol_version": 1}, 0.1),
        ({"protocol": "clean", "model": "hypercube"}, 0.1),
        ({"protocol": "clean", "model": "softmax"}, 0.1),
    ],
)
def test_under_the_originals_protocol_only_softmax_drops_attention_weights(settings, here):
    config = dataclasses.replace(recipe("retrieval", "original"), **settings)
    assert config.attention_dropout == 0.1
    assert encoder_config(config).attention_dropout == config.attention_dropout_here == here


def test_names_of_folders():
    assert BASE.name == "listops-hypercube-seed42"
    assert dataclasses.replace(BASE, model="local+random", seed=7).name == "listops-local+random-seed7"
    assert dataclasses.replace(BASE, recipe="modern").name == "listops-hypercube-modern-seed42"
    assert "/" not in dataclasses.replace(BASE, model="../../etc").name
