"""The flags of the graph."""

from __future__ import annotations

from nip.finetuning.attention_arguments import AttentionArguments, read_layers


def test_layers_repeat_or_are_numbered():
    assert read_layers("local, hypercube") == ["local", "hypercube"]
    assert read_layers("0=local, 3=softmax") == {0: "local", 3: "softmax"}
    assert AttentionArguments().layers is None
    assert AttentionArguments(attention_layers="random").layers == ["random"]
