"""The graphs of a Hugging Face model's layers, as stored in the entry `nip` of its configuration.

The entry is a JSON object, saved and loaded with the model. Graphs are built for the length of each input and cached.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from nip.graphs import Pattern, corner, pattern, pattern_parameters
from nip.graphs.pattern import check_int

ENTRY = "nip"
"""Name of the entry in the model's configuration."""
VERSION = 1
CUSTOM = "custom"

GRAPHS_KEPT = 128
"""Size of the cache of graphs; the least recently used one is dropped."""

Spec = str | Pattern | Mapping[str, Any] | None
"""A layer's graph: a pattern's name, a graph, a mapping with a name and parameters, or None for dense."""


@dataclass(frozen=True)
class LayerGraph:
    """A pattern, which has a graph for every length, or a single graph of one length.

    Parameters
    ----------
    name : str
        A pattern's name, or "custom".
    block_size : int
        Tokens per vertex.
    parameters : mapping
        The pattern's parameters.
    custom : Pattern, optional
        The graph without a name. Shorter inputs use its corner; longer ones raise.
    """

    name: str
    block_size: int = 16
    parameters: Mapping[str, Any] = field(default_factory=dict)
    custom: Pattern | None = None

    def graph(self, n_tokens: int, max_tokens: int | None = None) -> Pattern:
        """The graph on ⌈n_tokens / block_size⌉ vertices.

        Parameters
        ----------
        n_tokens : int
        max_tokens : int, optional
            Take the corner of the graph for this many tokens instead of the graph for `n_tokens`, so that what a token
            attends to does not change as a text grows.

        Raises
        ------
        ValueError
            If the input is longer than `max_tokens` or than the custom graph, or the pattern has no graph of that size.
        """
        n = -(-n_tokens // self.block_size)
        if self.custom is not None:
            if n > self.custom.n:
                raise ValueError(
                    f"The model's own graph has {self.custom.n} blocks of {self.block_size} tokens. "
                    f"An input of {n_tokens} tokens needs {n}."
                )
            return _corner(self.custom, n)
        parameters = tuple(sorted(self.parameters.items()))
        if max_tokens is None:
            return _named(self.name, n, parameters)
        if n_tokens > max_tokens:
            raise ValueError(
                f"The causal graph of this model was built for {max_tokens} tokens, and the input has {n_tokens}. "
                "Give nip.sparsify a larger max_tokens."
            )
        if self.name == "softmax":  # its corners are dense, too: no need to store n² edges of the longest input
            return _named(self.name, n, parameters)
        return _corner(_named(self.name, -(-max_tokens // self.block_size), parameters), n)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; of a custom graph the checksum."""
        record: dict[str, Any] = {"pattern": self.name, "block_size": self.block_size}
        if self.custom is not None:
            return {**record, "n": self.custom.n, "checksum": self.custom.checksum}
        return {**record, "parameters": dict(self.parameters)}


@lru_cache(maxsize=GRAPHS_KEPT)
def _named(name: str, n: int, parameters: tuple[tuple[str, Any], ...]) -> Pattern:
    return pattern(name, n, **dict(parameters))


@lru_cache(maxsize=GRAPHS_KEPT)
def _corner(graph: Pattern, n: int) -> Pattern:
    return graph if n == graph.n else corner(graph, n)


@dataclass(frozen=True)
class GraphConfig:
    """The graphs of a model's layers.

    Parameters
    ----------
    default : LayerGraph or None
        The graph of the layers that `layers` does not name; None leaves them dense.
    layers : mapping of int, or sequence, optional
        Graphs by layer number, or repeated from the first layer to the last.
    backend : str
        The backend of `nip.attend`.
    max_tokens : int, optional
        The longest input that causal graphs are built for.
    decoder : bool
        Whether the self-attention of an encoder–decoder's decoder has graphs, too.
    """

    default: LayerGraph | None
    layers: Mapping[int, LayerGraph | None] | Sequence[LayerGraph | None] | None = None
    backend: str = "auto"
    max_tokens: int | None = None
    decoder: bool = False

    def of_layer(self, index: int) -> LayerGraph | None:
        """The graph of layer `index`; None if it stays dense."""
        if self.layers is None:
            return self.default
        if isinstance(self.layers, Mapping):
            return self.layers.get(index, self.default)
        return self.layers[index % len(self.layers)]

    def names(self, index: int) -> bool:
        """Whether `layers` names layer `index`."""
        return self.layers is not None and (not isinstance(self.layers, Mapping) or index in self.layers)

    @property
    def graphs(self) -> list[LayerGraph]:
        """All graphs."""
        layers = self.layers.values() if isinstance(self.layers, Mapping) else self.layers or ()
        return [graph for graph in (self.default, *layers) if graph is not None]

    @property
    def custom_graphs(self) -> dict[str, Pattern]:
        """The graphs without a name, by checksum."""
        return {graph.custom.checksum: graph.custom for graph in self.graphs if graph.custom is not None}

    def files(self) -> dict[str, Pattern]:
        """The graphs without a name, by the file next to the weights that stores them."""
        names = ["pattern.npz", *(f"pattern-{i}.npz" for i in range(2, len(self.custom_graphs) + 1))]
        return dict(zip(names, self.custom_graphs.values(), strict=False))

    def to_dict(self) -> dict[str, Any]:
        """The configuration's entry, as JSON values."""
        if self.layers is None:
            layers: Any = None
        elif isinstance(self.layers, Mapping):
            layers = {str(index): graph and graph.to_dict() for index, graph in self.layers.items()}
        else:
            layers = [graph and graph.to_dict() for graph in self.layers]
        record: dict[str, Any] = {
            "version": VERSION,
            "default": self.default and self.default.to_dict(),
            "layers": layers,
            "backend": self.backend,
            "max_tokens": self.max_tokens,
            "decoder": self.decoder,
        }
        files = self.files()
        if files:
            record["files"] = {graph.checksum: file for file, graph in files.items()}
        return record


def read_graph_config(record: Any, open_graph: Callable[[str], Pattern]) -> GraphConfig:
    """The inverse of `GraphConfig.to_dict`.

    Parameters
    ----------
    record : object
        The entry `nip` of a configuration.
    open_graph : callable
        Reads the graph in a file of that name next to the weights.

    Raises
    ------
    ValueError
        If the entry is malformed or of another version, or a graph's checksum differs.
    """
    if not isinstance(record, Mapping) or record.get("version") != VERSION:
        raise ValueError(
            f"The configuration's entry {ENTRY!r} must be one that nip.sparsify of version {VERSION} wrote. "
            f"Got {record!r} instead."
        )
    customs = {}
    for checksum, file in record.get("files", {}).items():
        graph = open_graph(file)
        if graph.checksum != checksum:
            raise ValueError(f"{file} is not the graph that the model's configuration names: its checksum differs.")
        customs[checksum] = graph

    def layer(spec: Any) -> LayerGraph | None:
        if spec is None:
            return None
        if spec["pattern"] == CUSTOM:
            return LayerGraph(CUSTOM, spec["block_size"], custom=customs[spec["checksum"]])
        return layer_graph(spec["pattern"], spec["block_size"], spec["parameters"])

    try:
        layers = record["layers"]
        if isinstance(layers, Mapping):
            layers = {int(index): layer(spec) for index, spec in layers.items()}
        elif layers is not None:
            layers = [layer(spec) for spec in layers]
        default = layer(record["default"])
        return GraphConfig(default, layers, record["backend"], record["max_tokens"], record["decoder"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"The configuration's entry {ENTRY!r} is incomplete: {json.dumps(record)}") from error


def layer_graph(spec: Spec, block_size: int, parameters: Mapping[str, Any] | None = None) -> LayerGraph | None:
    """The graph of a layer as a user specifies it.

    Parameters
    ----------
    spec : str, Pattern, mapping or None
        A mapping has the key `pattern`, and may have `block_size` and parameters.
    block_size : int
        Tokens per vertex.
    parameters : mapping, optional
        Of the pattern.

    Raises
    ------
    ValueError
        If the pattern or a parameter is unknown, or a value is out of range.

    Examples
    --------
    >>> layer_graph({"pattern": "random", "num_random_blocks": 2}, 16).graph(100)
    <Pattern random, n=7, num_random_blocks=2, seed=0, symmetric=False; mean degree 2>
    """
    parameters = dict(parameters or {})
    if spec is None or spec == "dense":
        return None
    if isinstance(spec, Mapping):
        rest = {**parameters, **spec}
        if "pattern" not in rest:
            raise ValueError(f"A layer's graph given as a mapping must name its 'pattern'. Got {dict(spec)!r} instead.")
        return layer_graph(rest.pop("pattern"), rest.pop("block_size", block_size), rest)
    check_int("block_size", block_size, "sparsify", minimum=1)
    if isinstance(spec, Pattern):
        if parameters:
            raise ValueError(f"A Pattern takes no parameters. Got {', '.join(parameters)}.")
        return LayerGraph(CUSTOM, int(block_size), custom=spec)
    if not isinstance(spec, str):
        raise ValueError(
            "A layer's graph must be a pattern's name, a Pattern, a mapping that names its 'pattern', or None for "
            f"dense attention. Got {spec!r} instead."
        )
    known = pattern_parameters(spec)
    pattern(spec, 64, **parameters)  # raises on unknown parameters and values out of range
    return LayerGraph(spec, int(block_size), {k: v for k, v in parameters.items() if k in known or k == "causal"})
