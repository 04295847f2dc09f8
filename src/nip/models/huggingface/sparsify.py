"""Hugging Face models that attend over graphs.

`sparsify` gives every self-attention layer of a model a graph and stores it in the model's configuration, from which
`from_pretrained` rebuilds it.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.utils import cached_file

from nip.attention import BACKENDS
from nip.graphs import Pattern
from nip.graphs.pattern import check_int
from nip.models.huggingface.attention import NAME
from nip.models.huggingface.config import ENTRY, GraphConfig, LayerGraph, Spec, layer_graph, read_graph_config
from nip.models.huggingface.layers import (
    SITE,
    Site,
    attention_layers,
    attention_modules,
    has_window,
    own_attention_classes,
    unsupported,
)
from nip.models.huggingface.norms import NORM, RMS, replace_layer_norms

__all__ = ["attention_layers", "from_pretrained", "sparsify"]

Model = TypeVar("Model", bound=nn.Module)

_CHECKED = "_nip_checked"
_LENGTHS = ("max_position_embeddings", "n_positions", "max_target_positions")


def sparsify(
    model: Model,
    pattern: Spec = "hypercube",
    *,
    block_size: int = 16,
    layers: Mapping[int, Spec] | Sequence[Spec] | None = None,
    backend: str = "auto",
    max_tokens: int | None = None,
    decoder: bool = False,
    **parameters: Any,
) -> Model:
    """Make a Hugging Face model attend over a graph, in place.

    Weights do not change. Every self-attention layer attends over the pattern, in addition to the model's own masks
    (padding, causality, packed documents). Cross-attention, the decoder of an encoder–decoder and, in models that have
    both, layers with a sliding window stay as they are.

    Parameters
    ----------
    model : PreTrainedModel
        Any model that looks its attention up in transformers' interface.
    pattern : str, Pattern, mapping or None, default="hypercube"
        A pattern's name, whose graph is built for the length of each input; or one graph, of which shorter inputs use
        the corner; or ``{"pattern": name, "block_size": …, parameter: …}``; or None: dense.
    block_size : int, default=16
        Tokens per vertex.
    layers : mapping or sequence, optional
        Other patterns by layer number, ``{0: "local", 1: None}``, or a list that is repeated from the first layer to
        the last. None is dense attention. Layers that are named here and have a sliding window attend to what both
        the pattern and the window allow.
    backend : str, default="auto"
        The backend of `nip.attend`.
    max_tokens : int, optional
        The longest text of a causal model, by default that of its configuration. The graph is built for it and shorter
        texts use its corner, so that what a token attends to does not change during generation.
    decoder : bool, default=False
        The self-attention of an encoder–decoder's decoder attends over graphs, too, its layers numbered from 0 again.
    **parameters
        Of the pattern, such as ``seed`` or ``num_random_blocks``.

    Returns
    -------
    PreTrainedModel
        The model itself.

    Raises
    ------
    ValueError
        If the model computes its attention itself (BigBird, Longformer, DeBERTa, …), or an argument is invalid.

    Examples
    --------
    >>> from transformers import BertConfig, BertModel
    >>> small = dict(hidden_size=32, num_attention_heads=2, intermediate_size=32, num_hidden_layers=2, vocab_size=9)
    >>> model = sparsify(BertModel(BertConfig(**small)), "bigbird", block_size=8, num_random_blocks=2)
    >>> model.config.nip["default"]
    {'pattern': 'bigbird', 'block_size': 8, 'parameters': {'num_random_blocks': 2}}
    """
    default = layer_graph(pattern, block_size, parameters)
    by_layer: Mapping[int, LayerGraph | None] | Sequence[LayerGraph | None] | None = None
    if isinstance(layers, Mapping):
        for index in layers:
            check_int("layers", index, "sparsify", minimum=0)
        by_layer = {int(index): layer_graph(spec, block_size) for index, spec in layers.items()}
    elif layers is not None:
        if isinstance(layers, str) or not layers:
            raise ValueError(
                f"The 'layers' parameter of sparsify must be a mapping or a list, not empty. Got {layers!r} instead."
            )
        by_layer = [layer_graph(spec, block_size) for spec in layers]
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"There is no attention backend {backend!r}. The backends are auto, {', '.join(BACKENDS)}.")
    if max_tokens is not None:
        check_int("max_tokens", max_tokens, "sparsify", minimum=1)
    return _apply(model, GraphConfig(default, by_layer, backend, max_tokens, decoder))


def from_pretrained(name: str | os.PathLike[str], auto_class: Any = AutoModel, **kwargs: Any) -> Any:
    """Load a model that was saved after `sparsify`, with its graphs.

    Parameters
    ----------
    name : str or path
        A folder, or a name on the Hugging Face hub.
    auto_class : type, default=AutoModel
        The class whose ``from_pretrained`` loads the weights, such as AutoModelForSequenceClassification.
    **kwargs
        Passed to it.

    Raises
    ------
    ValueError
        If the model's configuration names no graph, or the checksum of a graph differs.
    """
    if "attn_implementation" in kwargs:
        raise ValueError("nip.from_pretrained sets attn_implementation itself: the graph is its attention.")
    model = auto_class.from_pretrained(name, **kwargs)
    if getattr(model.config, ENTRY, None) is None:
        raise ValueError(
            f"The configuration of {name} names no graph. Load it by {auto_class.__name__}.from_pretrained and give it "
            "to nip.sparsify."
        )
    return rebuild(model, name, **kwargs)


def rebuild(model: Model, name: str | os.PathLike[str], **kwargs: Any) -> Model:
    """Give a model the graphs in its configuration, in place; those without a name are read from `name`.

    Parameters
    ----------
    model : PreTrainedModel
        With any weights.
    name : str or path
        The folder of the configuration, or its name on the hub.
    **kwargs
        ``cache_dir``, ``revision``, ``token``, ``local_files_only``, ``subfolder``, as for `from_pretrained`.

    Returns
    -------
    PreTrainedModel
        The model itself.
    """
    hub = {key: kwargs[key] for key in ("cache_dir", "revision", "token", "local_files_only") if key in kwargs}

    def open_graph(file: str) -> Pattern:
        return Pattern.load(cached_file(name, Path(file).name, subfolder=kwargs.get("subfolder", ""), **hub))

    config: Any = model.config
    return _apply(model, read_graph_config(getattr(config, ENTRY), open_graph))


def _apply(model: Model, graphs: GraphConfig) -> Model:
    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"nip.sparsify takes a model of transformers. Got {type(model).__name__} instead.")
    found = list(attention_modules(model))
    wanted = [entry for entry in found if entry[2] == "self"]
    own = own_attention_classes(model)
    if not wanted or own:
        by = f" ({', '.join(own)})" if own else ""
        raise ValueError(
            f"{type(model).__name__} computes its attention itself{by}, not through transformers' interface, so it "
            "cannot be given a graph."
        )
    for path, module, _ in found:
        reason = unsupported(module)
        if reason is not None:
            raise ValueError(f"{path} of {type(model).__name__} {reason}: nip cannot attend over a graph so.")
    max_tokens = graphs.max_tokens or _longest(model)
    windows = [has_window(module) for _, module, _ in wanted]
    some_windows = any(windows) and not all(windows)
    numbers: dict[str, int] = {}
    sites = []
    for path, module, role in found:
        index = numbers.get(role, 0)
        numbers[role] = index + 1
        sparse = role == "self" or (role == "decoder" and graphs.decoder)
        keeps_window = some_windows and has_window(module) and not graphs.names(index)
        graph = graphs.of_layer(index) if sparse and not keeps_window else None
        sites.append(Site(path, role, index, graph, graphs.backend, max_tokens))
    _check_layers(model, graphs, numbers)
    for (_, module, _), site in zip(found, sites, strict=True):
        if site.graph is not None and getattr(module, "is_causal", False):
            site.graph_for(1, grows=True)  # raises if the maximum length is unknown
    model.set_attn_implementation(NAME)
    for (_, module, _), site in zip(found, sites, strict=True):
        # Submodules of a composite model may have a configuration that the model itself has replaced since.
        config: Any = module.config
        config._attn_implementation_internal = NAME
        setattr(module, SITE, site)
    if any(getattr(module, "is_causal", False) for _, module, _ in found):
        graphs = replace(graphs, max_tokens=max_tokens)  # fixed even if the configuration changes
    record = graphs.to_dict()
    if (getattr(model.config, ENTRY, None) or {}).get(NORM) == RMS:
        replace_layer_norms(model)  # after loading: transformers builds LayerNorms
        record[NORM] = RMS
    setattr(model.config, ENTRY, record)
    model.__dict__.pop("save_pretrained", None)
    setattr(model, _CHECKED, False)
    if graphs.custom_graphs:
        model.save_pretrained = functools.partial(_save_pretrained, model, graphs)
    if _check_that_it_ran not in model._forward_hooks.values():
        model.register_forward_hook(_check_that_it_ran)
    return model


def _check_layers(model: PreTrainedModel, graphs: GraphConfig, numbers: Mapping[str, int]) -> None:
    highest = max(numbers["self"], numbers.get("decoder", 0) if graphs.decoder else 0)
    if isinstance(graphs.layers, Mapping):
        beyond = [index for index in graphs.layers if index >= highest]
        if beyond:
            raise ValueError(
                f"{type(model).__name__} has {highest} self-attention layers, numbered from 0. "
                f"The 'layers' parameter of sparsify names layer {beyond[0]}."
            )


def _longest(model: PreTrainedModel) -> int | None:
    config = model.config.get_text_config()
    for name in _LENGTHS:
        length = getattr(config, name, None)
        if isinstance(length, int) and length > 0:
            return length
    return None


def _check_that_it_ran(model: nn.Module, args: Any, output: Any) -> None:
    """After the first forward pass: raise if attention did not run over the graphs."""
    if torch.compiler.is_compiling() or getattr(model, _CHECKED):
        return
    sparse = [site for site in attention_layers(model) if site.graph is not None]
    if sparse and not any(site.calls for site in sparse):
        raise RuntimeError(
            f"{type(model).__name__} has run without attending over its graph: its attention was computed elsewhere. "
            "Was attn_implementation changed?"
        )
    setattr(model, _CHECKED, True)


def _save_pretrained(model: Any, graphs: GraphConfig, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
    """The model's own, and save the graphs without a name next to the weights."""
    saved = type(model).save_pretrained(model, save_directory, *args, **kwargs)
    if kwargs.get("is_main_process", True):
        for file, graph in graphs.files().items():
            graph.save(Path(save_directory) / file)
    return saved
