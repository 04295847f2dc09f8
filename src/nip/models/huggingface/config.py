"""The `nip` entry of a Hugging Face model's configuration: which graph each layer attends over.

The entry is a JSON object that is saved and loaded with the model's configuration. Graphs are built from it on demand
for each input length and cached.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from nip.graphs import Pattern, corner, pattern, pattern_parameters
from nip.graphs.pattern import check_int, python_number

ENTRY = "nip"
"""Name of the entry in a model's configuration."""
VERSION = 1
CUSTOM = "custom"
CORNER, OWN = "corner", "own"
LENGTHS = (CORNER, OWN)

GRAPHS_KEPT = 128
"""Size of each cache of graphs; the least recently used graph is dropped first."""

Spec = str | Pattern | Mapping[str, Any] | None
"""A layer's graph as a user passes it: a pattern's name, a graph, a name with parameters, or None for dense."""


@dataclass(frozen=True)
class LayerGraph:
    """The graph of a layer: a named pattern, which is built for every length, or one custom graph.

    Parameters
    ----------
    name : str
        A pattern's name, or "custom".
    block_size : int, default=16
        Tokens per vertex.
    parameters : mapping, default={}
        The pattern's parameters.
    custom : Pattern, optional
        The custom graph. Shorter inputs use its corner; longer inputs raise an error.
    """

    name: str
    block_size: int = 16
    parameters: Mapping[str, Any] = field(default_factory=dict)
    custom: Pattern | None = None

    def graph(self, n_tokens: int, max_tokens: int | None = None) -> Pattern:
        """Return the graph on ⌈n_tokens / block_size⌉ vertices.

        Parameters
        ----------
        n_tokens : int
            Input length in tokens.
        max_tokens : int, optional
            Return the corner of the graph for this length instead of the graph for `n_tokens`, so that the keys of a
            token do not change as a text grows.

        Returns
        -------
        Pattern

        Raises
        ------
        ValueError
            If the input is longer than `max_tokens` or the custom graph, or the pattern has no graph of this size.
        """
        n = -(-n_tokens // self.block_size)
        if self.custom is not None:
            if n > self.custom.n:
                raise ValueError(
                    f"The model's custom graph has {self.custom.n} blocks of {self.block_size} tokens. "
                    f"An input of {n_tokens} tokens needs {n}."
                )
            return _corner(self.custom, n)
        parameters = tuple(sorted(self.parameters.items()))
        if max_tokens is None:
            return _named(self.name, n, parameters)
        if n_tokens > max_tokens:
            raise ValueError(
                f"The causal graph of this model is built for {max_tokens} tokens, and the input has {n_tokens}. "
                "Pass a larger max_tokens to nip.sparsify."
            )
        if self.name == "softmax":  # its corners are complete graphs too: avoids n² edges for the maximum length
            return _named(self.name, n, parameters)
        return _corner(_named(self.name, -(-max_tokens // self.block_size), parameters), n)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; a custom graph is identified by its checksum."""
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
    """The graphs of all layers of a model: the content of the `nip` entry.

    Parameters
    ----------
    default : LayerGraph or None
        The graph of the layers that `layers` does not name; None leaves their attention dense.
    layers : mapping or sequence, optional
        Graphs by layer index, or a sequence that is repeated from the first layer to the last.
    backend : str, default="auto"
        The backend of `nip.attend`.
    max_tokens : int, optional
        The input length in tokens for which causal graphs are built.
    decoder : bool, default=False
        Whether the decoder self-attention of an encoder–decoder runs over graphs.
    lengths : {"corner", "own"}, default="corner"
        Whether inputs shorter than `max_tokens` use the corner of its graph, or each padded length has its own graph.
        None in models saved before there was a choice: ``own``.
    pad_to : int, optional
        Pad inputs to a multiple of this number of tokens.
    """

    default: LayerGraph | None
    layers: Mapping[int, LayerGraph | None] | Sequence[LayerGraph | None] | None = None
    backend: str = "auto"
    max_tokens: int | None = None
    decoder: bool = False
    lengths: str | None = CORNER
    pad_to: int | None = None

    def of_layer(self, index: int) -> LayerGraph | None:
        """Return the graph of the layer with this index; None if the layer stays dense."""
        if self.layers is None:
            return self.default
        if isinstance(self.layers, Mapping):
            return self.layers.get(index, self.default)
        return self.layers[index % len(self.layers)]

    def names(self, index: int) -> bool:
        """Whether `layers` names the layer with this index."""
        return self.layers is not None and (not isinstance(self.layers, Mapping) or index in self.layers)

    def files(self) -> dict[str, Pattern]:
        """Return the custom graphs by the name of the file that stores them in the model's folder."""
        layers = self.layers.values() if isinstance(self.layers, Mapping) else self.layers or []
        custom = [graph.custom for graph in (self.default, *layers) if graph is not None and graph.custom is not None]
        unique = {graph.checksum: graph for graph in custom}.values()
        return {"pattern.npz" if i == 1 else f"pattern-{i}.npz": graph for i, graph in enumerate(unique, 1)}

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration's entry as JSON values."""
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
            "lengths": self.lengths,
        }
        if self.pad_to is not None:
            record["pad_to"] = self.pad_to
        files = self.files()
        if files:
            record["files"] = {graph.checksum: file for file, graph in files.items()}
        return record


def read_graph_config(record: Any, open_graph: Callable[[str], Pattern]) -> GraphConfig:
    """Parse the output of `GraphConfig.to_dict`.

    Parameters
    ----------
    record : object
        The `nip` entry of a model's configuration.
    open_graph : callable
        Loads a custom graph, given its file name in the model's folder.

    Returns
    -------
    GraphConfig

    Raises
    ------
    ValueError
        If the entry is invalid or of another version, or the checksum of a custom graph differs.
    """
    if not isinstance(record, Mapping) or record.get("version") != VERSION:
        raise ValueError(
            f"The configuration's entry {ENTRY!r} must be of version {VERSION}, as written by nip.sparsify. "
            f"Got {record!r} instead."
        )
    customs = {}
    for checksum, file in record.get("files", {}).items():
        graph = open_graph(file)
        if graph.checksum != checksum:
            raise ValueError(f"{file} is not the graph that the model's configuration names: the checksums differ.")
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
        shared = record["backend"], record["max_tokens"], record["decoder"]
        return GraphConfig(default, layers, *shared, record.get("lengths"), record.get("pad_to"))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"The configuration's entry {ENTRY!r} is incomplete: {json.dumps(record)}") from error


def layer_graph(spec: Spec, block_size: int, parameters: Mapping[str, Any] | None = None) -> LayerGraph | None:
    """Convert a user's specification of a layer's graph.

    Parameters
    ----------
    spec : str, Pattern, mapping or None
        A pattern's name, a graph, a mapping with the key `pattern` and optionally `block_size` and parameters, or None
        for dense attention.
    block_size : int
        Tokens per vertex, unless the mapping sets it.
    parameters : mapping, optional
        The pattern's parameters; those in the mapping take precedence.

    Returns
    -------
    LayerGraph or None

    Raises
    ------
    ValueError
        If the specification, the block size or a parameter is invalid.

    Examples
    --------
    >>> layer_graph({"pattern": "random", "num_random_blocks": 2}, 16).graph(100)
    <Pattern random, n=7, num_random_blocks=2, seed=0, symmetric=False; mean degree 2>
    """
    parameters = {name: python_number(value) for name, value in (parameters or {}).items()}
    if spec is None or spec == "dense":
        return None
    if isinstance(spec, Mapping):
        rest = {**parameters, **spec}
        if "pattern" not in rest:
            raise ValueError(f"A mapping for a layer's graph must have the key 'pattern'. Got {dict(spec)!r} instead.")
        return layer_graph(rest.pop("pattern"), rest.pop("block_size", block_size), rest)
    block_size = check_int("block_size", block_size, "sparsify", minimum=1)
    if isinstance(spec, Pattern):
        if parameters:
            raise ValueError(f"A Pattern takes no parameters. Got {', '.join(parameters)}.")
        return LayerGraph(CUSTOM, block_size, custom=spec)
    if not isinstance(spec, str):
        raise ValueError(
            "A layer's graph must be a pattern's name, a Pattern, a mapping with the key 'pattern', or None for dense "
            f"attention. Got {spec!r} instead."
        )
    known = pattern_parameters(spec)
    checked = pattern(spec, 64, **parameters).parameters  # raises on unknown parameters and invalid values
    # The pattern's own values where it records them: JSON does not store numpy's.
    own = {k: checked.get(k, v) for k, v in parameters.items() if k in known or k == "causal"}
    return LayerGraph(spec, block_size, own)
