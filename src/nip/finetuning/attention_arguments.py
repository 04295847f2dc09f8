"""Which graph a finetuning command attends over: its flags, read and checked before any long work."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nip import graphs
from nip.attention import BACKENDS
from nip.graphs.pattern import check_int, read_parameters

EXTENSIONS = ("reflect", "tile", "interpolate")


def _flag(says: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": says})


@dataclass
class AttentionArguments:
    """The graph that attention runs over."""

    attention: str = _flag(
        f"The pattern: {', '.join(graphs.PATTERNS)}. softmax is dense attention, the model as it is.", "hypercube"
    )
    block_size: int = _flag("Tokens that a vertex of the graph stands for.", 16)
    param: list[str] = field(
        default_factory=list,
        metadata={"help": "Parameters of the pattern, name=value.", "action": "extend", "metavar": "NAME=VALUE"},
    )
    graph: str | None = _flag("A graph file in place of a named pattern (.npz, .npy, GraphML, edge list).")
    attention_layers: str | None = _flag(
        "Other patterns by layer, comma-separated: names, repeated from the first layer to the last, or NUMBER=NAME."
    )
    backend: str = _flag("Backend of attention, as nip doctor lists them.", "auto")
    extend_positions: str | None = _flag(
        f"Give the model as many positions as the sequences need: {', '.join(EXTENSIONS)}."
    )

    def __post_init__(self) -> None:
        if self.graph is None:
            graphs.pattern_parameters(self.attention)  # says which names there are
        check_int("block_size", self.block_size, "attention", minimum=1)
        if self.backend not in ("auto", *BACKENDS):
            raise ValueError(f"--backend takes one of auto, {', '.join(BACKENDS)}. Got {self.backend!r} instead.")
        if self.extend_positions is not None and self.extend_positions not in EXTENSIONS:
            raise ValueError(
                f"--extend_positions takes one of {', '.join(EXTENSIONS)}. Got {self.extend_positions!r} instead."
            )
        if self.graph is not None and self.param:
            raise ValueError(f"--param belongs to a pattern name; the graph in {self.graph} has no parameters.")
        if self.graph is not None and not Path(self.graph).is_file():
            raise ValueError(f"--graph: there is no file {self.graph}.")
        if self.graph is None:  # an unknown parameter or an impossible value is told now; any size does
            graphs.pattern(self.attention, 128, **self.parameters)
        _ = self.layers

    @property
    def layers(self) -> dict[int, str] | list[str] | None:
        """The patterns of layers, as `nip.sparsify` takes them."""
        return None if self.attention_layers is None else read_layers(self.attention_layers)

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the pattern, read."""
        return read_parameters(self.param)


def read_layers(text: str) -> dict[int, str] | list[str]:
    """The patterns of layers, read: ``local,hypercube`` repeats, ``0=local,3=softmax`` names some.

    Raises
    ------
    ValueError
        If a pattern is unknown, a number is none or named twice, or both forms are mixed.
    """
    parts = [part.strip() for part in text.split(",")]
    pairs = [part.partition("=") for part in parts]
    numbered = {bool(equals) for _, equals, _ in pairs}
    if len(numbered) > 1 or not all(parts):
        raise ValueError(
            f"--attention_layers takes names, or NUMBER=NAME for each, comma-separated. Got {text!r} instead."
        )
    if numbered == {False}:
        for name in parts:
            graphs.pattern_parameters(name)  # says which names there are
        return parts
    layers: dict[int, str] = {}
    for number, _, name in pairs:
        if not number.strip().isdecimal() or int(number) in layers:
            raise ValueError(f"--attention_layers numbers every layer once, from 0. Got {text!r} instead.")
        graphs.pattern_parameters(name.strip())
        layers[int(number)] = name.strip()
    return layers
