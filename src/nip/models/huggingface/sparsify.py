"""Replace the self-attention of a Hugging Face model by attention over a graph, without copying its code.

`sparsify` assigns a graph to every self-attention layer and records it in the model's configuration; `from_pretrained`
rebuilds the graphs from there.
"""

from __future__ import annotations

import functools
import os
import warnings
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
from nip.models.configuration import own_configuration
from nip.models.huggingface.attention import NAME
from nip.models.huggingface.config import (
    CORNER,
    ENTRY,
    LENGTHS,
    OWN,
    GraphConfig,
    LayerGraph,
    Spec,
    layer_graph,
    read_graph_config,
)
from nip.models.huggingface.layers import (
    SITE,
    Site,
    attention_layers,
    attention_modules,
    has_window,
    own_attention_classes,
    unsupported,
)
from nip.models.huggingface.norms import NORM, RMS, replace_layer_norms, uses_rms_norm

__all__ = ["attention_layers", "from_pretrained", "rebuild", "sparsify"]

Model = TypeVar("Model", bound=nn.Module)

_LENGTHS = ("max_position_embeddings", "n_positions", "max_target_positions")


def sparsify(
    model: Model,
    pattern: Spec = "hypercube",
    *,
    block_size: int = 16,
    layers: Mapping[int, Spec] | Sequence[Spec] | None = None,
    backend: str = "auto",
    max_tokens: int | None = None,
    lengths: str = CORNER,
    pad_to: int | None = None,
    decoder: bool = False,
    **parameters: Any,
) -> Model:
    """Replace the self-attention of a Hugging Face model by attention over a graph, in place.

    Weights stay unchanged. Every self-attention layer attends over the pattern, combined with the model's own masks
    (padding, causal, packed documents). Unchanged are cross-attention, the decoder of an encoder–decoder, and the
    sliding-window layers of a model that also has full-attention layers.

    Parameters
    ----------
    model : PreTrainedModel
        Any model that looks up its attention function in transformers.
    pattern : str, Pattern, mapping or None, default="hypercube"
        A pattern's name, whose graph is built for every input length; or one graph of n blocks for inputs of up to n
        blocks (shorter ones use its corner); or ``{"pattern": name, "block_size": …, parameter: …}``; or None for
        dense attention.
    block_size : int, default=16
        Tokens per vertex.
    layers : mapping or sequence, optional
        Other patterns by layer index, ``{0: "local", 1: None}``, or a list that is repeated from the first layer to the
        last. None means dense attention. A sliding-window layer that is named here attends where both its window and
        its pattern allow it.
    backend : str, default="auto"
        The backend of `nip.attend`.
    max_tokens : int, optional
        Maximum text length in tokens; by default that of the model's configuration. The graph is built for this length,
        and shorter texts use its corner, so that the keys of a token change neither during generation nor with the
        length to which a batch is padded.
    lengths : {"corner", "own"}, default="corner"
        ``own``: a graph of an encoder for each padded length, as in models of earlier versions: full degrees at every
        length, but the embedding of a text then depends on the longest text of its batch. An encoder without a maximum
        length, and inputs beyond it, always get a graph of their own.
    pad_to : int, optional
        Inputs of an encoder are padded to a multiple of this number of tokens inside attention, so that a compiled
        model is compiled for few lengths only.
    decoder : bool, default=False
        Also replace the decoder self-attention of an encoder–decoder. Its layers are numbered from 0.
    **parameters
        Parameters of the pattern, such as ``seed`` or ``num_random_blocks``.

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
    several: Mapping[int, LayerGraph | None] | Sequence[LayerGraph | None] | None = None
    if isinstance(layers, Mapping):
        several = {
            check_int("layers", index, "sparsify", minimum=0): layer_graph(spec, block_size)
            for index, spec in layers.items()
        }
    elif layers is not None:
        if isinstance(layers, str) or not layers:
            raise ValueError(
                f"The 'layers' parameter of sparsify must be a mapping or a nonempty list. Got {layers!r} instead."
            )
        several = [layer_graph(spec, block_size) for spec in layers]
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"There is no attention backend {backend!r}. The backends are auto, {', '.join(BACKENDS)}.")
    if max_tokens is not None:
        max_tokens = check_int("max_tokens", max_tokens, "sparsify", minimum=1)
    if lengths not in LENGTHS:
        raise ValueError(f"The 'lengths' parameter of sparsify must be one of {', '.join(LENGTHS)}. Got {lengths!r}.")
    if pad_to is not None:
        pad_to = check_int("pad_to", pad_to, "sparsify", minimum=1)
    return _apply(model, GraphConfig(default, several, backend, max_tokens, decoder, lengths, pad_to))


def from_pretrained(name: str | os.PathLike[str], auto_class: Any = AutoModel, **kwargs: Any) -> Any:
    """Load a model that was saved after `sparsify`, and rebuild the graphs from its configuration.

    Parameters
    ----------
    name : str or path
        A folder, or a model name on the Hugging Face Hub.
    auto_class : type, default=AutoModel
        The class whose ``from_pretrained`` loads the weights, such as AutoModelForSequenceClassification.
    **kwargs
        Passed to that ``from_pretrained``.

    Returns
    -------
    PreTrainedModel
        With ``output_loading_info=True`` a tuple of it and what transformers says about its weights.

    Raises
    ------
    ValueError
        If the model's configuration has no graphs, or the checksum of a saved graph differs.
    """
    if "attn_implementation" in kwargs:
        raise ValueError("nip.from_pretrained sets attn_implementation itself: leave the argument out.")
    kwargs.setdefault("trust_remote_code", False)  # None would ask on standard input
    loaded = auto_class.from_pretrained(name, **kwargs)
    model, *info = loaded if kwargs.get("output_loading_info") else (loaded,)
    if not any(_entry(part) for part in _parts(model)):
        if getattr(model, "_hf_peft_config_loaded", False):
            raise ValueError(
                f"{name} is an adapter, and the model it belongs to, {model.name_or_path}, names no graph. Adapters "
                "contain none: make that model sparse with nip.sparsify, as the adapter was trained, and load "
                "the adapter into it with PeftModel.from_pretrained."
            )
        raise ValueError(
            f"The configuration of {name} names no graph. Load the model with {auto_class.__name__}.from_pretrained "
            "and pass it to nip.sparsify."
        )
    rebuilt = rebuild(model, name, **kwargs)
    return (rebuilt, *info) if info else rebuilt


def rebuild(model: Model, name: str | os.PathLike[str], **kwargs: Any) -> Model:
    """Rebuild the graphs in a model's configuration, in place; custom graphs are loaded from `name`.

    Parameters
    ----------
    model : PreTrainedModel
        A model with any weights, also untrained ones.
    name : str or path
        The folder or the model name on the Hub that the configuration comes from.
    **kwargs
        ``cache_dir``, ``revision``, ``token``, ``local_files_only`` and ``subfolder``, as for `from_pretrained`; others
        are ignored.

    Returns
    -------
    PreTrainedModel
        The model itself.

    Raises
    ------
    ValueError
        If the entry is invalid, or the checksum of a saved graph differs.
    """
    hub = {key: kwargs[key] for key in ("cache_dir", "revision", "token", "local_files_only") if key in kwargs}

    def open_graph(file: str) -> Pattern:
        try:
            found = cached_file(name, Path(file).name, subfolder=kwargs.get("subfolder", ""), **hub)
        except OSError as error:
            raise ValueError(
                f"{name} has no {file}, the graph of the model. A graph of your own is saved by the model that was "
                "made sparse: of a part, save the part too, and copy the file from its folder."
            ) from error
        return Pattern.load(found)

    # Of a model that was put together, perhaps only a part has graphs.
    for part in [part for part in _parts(model) if _entry(part)]:
        _apply(part, read_graph_config(_entry(part), open_graph))
    return model


def _parts(model: Any) -> list[Any]:
    """The model, or the submodels with configurations of their own if its own names no graph."""
    if _entry(model):
        return [model]
    found: dict[int, Any] = {}
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            found.setdefault(id(module.config), module)
    return list(found.values())


def _entry(model: Any) -> Any:
    entry = getattr(model.config, ENTRY, None)
    return entry if isinstance(entry, Mapping) and "default" in entry else None


def _apply(model: Model, graphs: GraphConfig) -> Model:
    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"nip.sparsify takes a model of transformers. Got {type(model).__name__} instead.")
    found = list(attention_modules(model))
    wanted = [entry for entry in found if entry[2] == "self"]
    custom = own_attention_classes(model)
    if not wanted or custom:
        classes = f" ({', '.join(custom)})" if custom else ""
        raise ValueError(
            f"{type(model).__name__} computes its attention itself{classes} instead of through transformers' attention "
            "interface, so nip cannot replace it."
        )
    for path, module, _ in found:
        feature = unsupported(module)
        if feature is not None:
            raise ValueError(f"{path} of {type(model).__name__} {feature}, which nip does not support.")
    own_configuration(model)
    if graphs.lengths is None:
        graphs = replace(graphs, lengths=OWN)
        if any(role == "self" and not getattr(module, "is_causal", False) for _, module, role in found):
            warnings.warn(
                f"{type(model).__name__} was saved by an earlier version of nip: its graph is that of the length to "
                "which a batch is padded, so that a text depends on its batch. nip.sparsify, whose lengths='corner' is "
                "the default, makes texts independent.",
                stacklevel=4,
            )
    if getattr(model.config, "output_attentions", False):
        raise ValueError(
            f"Attention over a graph returns no attention weights: set output_attentions of {type(model).__name__}'s "
            "configuration to False."
        )
    max_tokens = graphs.max_tokens or _max_length(model)
    windows = [has_window(module) for _, module, _ in wanted]
    some_windows = any(windows) and not all(windows)
    n_layers: dict[str, int] = {}
    sites = []
    for path, module, role in found:
        index = n_layers.get(role, 0)
        n_layers[role] = index + 1
        sparse = role == "self" or (role == "decoder" and graphs.decoder)
        keeps_window = some_windows and has_window(module) and not graphs.names(index)
        graph = graphs.of_layer(index) if sparse and not keeps_window else None
        corner = graphs.lengths == CORNER
        sites.append(Site(path, role, index, graph, graphs.backend, max_tokens, corner, graphs.pad_to))
    highest = max(n_layers["self"], n_layers.get("decoder", 0) if graphs.decoder else 0)
    beyond = [index for index in graphs.layers if index >= highest] if isinstance(graphs.layers, Mapping) else []
    if beyond:
        raise ValueError(
            f"{type(model).__name__} has {highest} self-attention layers, numbered from 0. "
            f"The 'layers' parameter of sparsify names layer {beyond[0]}."
        )
    for (_, module, _), site in zip(found, sites, strict=True):
        if site.graph is not None and getattr(module, "is_causal", False):
            site.graph_for(1, grows=True)  # raises if the maximum length is unknown
    model.set_attn_implementation(NAME)
    for (_, module, _), site in zip(found, sites, strict=True):
        # A submodel of a composite model may hold a configuration that the model has since replaced by a copy.
        config: Any = module.config
        config._attn_implementation_internal = NAME
        setattr(module, SITE, site)
    if graphs.lengths == CORNER or any(getattr(module, "is_causal", False) for _, module, _ in found):
        graphs = replace(graphs, max_tokens=max_tokens)  # must stay the same if the configuration changes later
    record = graphs.to_dict()
    if uses_rms_norm(model.config):
        replace_layer_norms(model)  # transformers loads the weights into LayerNorms
        record[NORM] = RMS
    setattr(model.config, ENTRY, record)
    files = graphs.files()
    for part in [part for part in model.modules() if isinstance(part, PreTrainedModel)]:
        part.__dict__.pop("save_pretrained", None)
        if attention_layers(part):  # saved alone, it keeps its graphs too
            part.save_pretrained = functools.partial(_save_pretrained, part, files)
    if _check_attention not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_check_attention)
    return model


def _max_length(model: PreTrainedModel) -> int | None:
    config = model.config.get_text_config()
    for name in _LENGTHS:
        length = getattr(config, name, None)
        if isinstance(length, int) and length > 0:
            return length
    return None


def _check_attention(model: nn.Module, args: Any) -> None:
    """Forward hook: check that no layer with a graph has been switched to another attention since."""
    if torch.compiler.is_compiling():
        return
    for module in model.modules():
        site = getattr(module, SITE, None)
        config: Any = getattr(module, "config", None)
        if site is not None and site.graph is not None and config._attn_implementation != NAME:
            raise RuntimeError(
                f"{site.path} of {type(model).__name__} would run without its graph: attn_implementation was changed "
                f"to {config._attn_implementation!r} after nip.sparsify. Call set_attn_implementation({NAME!r})."
            )


def _save_pretrained(model: Any, files: dict[str, Pattern], save_directory: Any, *args: Any, **kwargs: Any) -> Any:
    """Call the model's own ``save_pretrained`` and save the custom graphs in the same folder.

    Raises
    ------
    ValueError
        If the configuration cannot be written as JSON; nothing is written then, neither weights nor configuration.
    """
    try:
        model.config.to_json_string()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{type(model).__name__} cannot be saved: its configuration is not JSON ({error}).") from error
    saved = type(model).save_pretrained(model, save_directory, *args, **kwargs)
    if kwargs.get("is_main_process", True):
        for file, graph in files.items():
            graph.save(Path(save_directory) / file)
    return saved
