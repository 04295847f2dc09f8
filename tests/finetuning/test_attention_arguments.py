"""The flags of the graph."""

from __future__ import annotations

import pytest

from nip.finetuning.attention_arguments import AttentionArguments, read_layers, read_parameters


def test_parameters_are_read_as_json_or_text():
    assert read_parameters(["a=1", "b=true", "c=True", "d=x y"]) == {"a": 1, "b": True, "c": True, "d": "x y"}
    with pytest.raises(ValueError, match="twice"):
        read_parameters(["a=1", "a=2"])


def test_layers_repeat_or_are_numbered():
    assert read_layers("local, hypercube") == ["local", "hypercube"]
    assert read_layers("0=local, 3=softmax") == {0: "local", 3: "softmax"}
    assert AttentionArguments().layers is None
    assert AttentionArguments(attention_layers="random").layers == ["random"]
