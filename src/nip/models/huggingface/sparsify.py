"""Hugging Face models whose attention runs over a graph, with nothing copied from their code.

`sparsify` gives every self-attention layer of a model a graph; the model's configuration names it, and
`from_pretrained` rebuilds it from there.
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
from nip.models.huggingface.config import ENTRY, LayerGraph, Setting, Spec, layer_graph, read_setting
from nip.models.huggingface.layers import (
    SITE,
    Site,
    attention_layers,
    attention_modules,
    has_window,
    home_made,
    refused,
)
from nip.models.huggingface.norms import NORM, RMS, swap

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
    """Let a Hugging Face model's tokens attend over a graph, in place.

    Weights are not touched. Every self-attention layer attends over the pattern, on top of what the model itself
    forbids (padding, later tokens, other documents). Left as they are: cross attention, the decoder of an
    encoder–decoder, and, in a model that has both, layers with a sliding window.

    Parameters
    ----------
    model : PreTrainedModel
        Any model whose attention transformers lets one replace.
    pattern : str, Pattern, mapping or None, default="hypercube"
        A pattern's name, whose graph is built for every length at hand; or one graph, which inputs of up to n blocks
        use (a shorter one its corner); or ``{"pattern": name, "block_size": …, parameter: …}``; or None: dense.
    block_size : int, default=16
        Tokens of a vertex.
    layers : mapping or sequence, optional
        Other patterns by the layer's number, ``{0: "local", 1: None}``, or a list that is repeated from the first
        layer to the last. None stands for dense attention. Layers that a list or mapping names attend over their
        pattern even where they have a sliding window: where both allow it.
    backend : str, default="auto"
        As `nip.attend` takes it.
    max_tokens : int, optional
        The longest text of a causal model; by default what its configuration says. The graph is laid out for it, and
        shorter texts use its corner, so that what a token attends to does not change while a text is generated.
    decoder : bool, default=False
        The decoder of an encoder–decoder attends over graphs too, its layers numbered from 0 again.
    **parameters
        The pattern's, such as ``seed`` or ``num_random_blocks``.

    Returns
    -------
    PreTrainedModel
        The model itself.

    Raises
    ------
    ValueError
        If the model computes its attention itself (BigBird, Longformer, DeBERTa, …), or an argument is wrong.

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
        for index in layers:
            check_int("layers", index, "sparsify", minimum=0)
        several = {int(index): layer_graph(spec, block_size) for index, spec in layers.items()}
    elif layers is not None:
        if isinstance(layers, str) or not layers:
            raise ValueError(
                f"The 'layers' parameter of sparsify must be a mapping or a list, not empty. Got {layers!r} instead."
            )
        several = [layer_graph(spec, block_size) for spec in layers]
    if backend != "auto" and backend not in BACKENDS:
        raise ValueError(f"There is no attention backend {backend!r}. The backends are auto, {', '.join(BACKENDS)}.")
    if max_tokens is not None:
        check_int("max_tokens", max_tokens, "sparsify", minimum=1)
    return _apply(model, Setting(default, several, backend, max_tokens, decoder))


def from_pretrained(name: str | os.PathLike[str], auto_class: Any = AutoModel, **kwargs: Any) -> Any:
    """Load a model that was saved after `sparsify`, and rebuild the graphs that its configuration names.

    Parameters
    ----------
    name : str or path
        A folder, or a name on the Hugging Face hub.
    auto_class : type, default=AutoModel
        The class whose ``from_pretrained`` loads the weights, such as AutoModelForSequenceClassification.
    **kwargs
        Handed on to it.

    Raises
    ------
    ValueError
        If the model's configuration names no graph, or the graph beside it is another.
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
    """Give a model the graphs that its configuration names, in place; those without a name are read from `name`.

    Parameters
    ----------
    model : PreTrainedModel
        Whatever its weights, such as first ones.
    name : str or path
        The folder, or the name on the hub, that the configuration comes from.
    **kwargs
        ``cache_dir``, ``revision``, ``token``, ``local_files_only``, ``subfolder``, as `from_pretrained` takes them.
    """
    hub = {key: kwargs[key] for key in ("cache_dir", "revision", "token", "local_files_only") if key in kwargs}

    def open_graph(file: str) -> Pattern:
        return Pattern.load(cached_file(name, Path(file).name, subfolder=kwargs.get("subfolder", ""), **hub))

    config: Any = model.config
    return _apply(model, read_setting(getattr(config, ENTRY), open_graph))


def _apply(model: Model, setting: Setting) -> Model:
    if not isinstance(model, PreTrainedModel):
        raise ValueError(f"nip.sparsify takes a model of transformers. Got {type(model).__name__} instead.")
    found = list(attention_modules(model))
    wanted = [entry for entry in found if entry[2] == "self"]
    own = home_made(model)
    if not wanted or own:
        by = f" ({', '.join(own)})" if own else ""
        raise ValueError(
            f"{type(model).__name__} computes its attention itself{by} and does not ask transformers for it, so it "
            "cannot be given a graph."
        )
    for path, module, _ in found:
        reason = refused(module)
        if reason is not None:
            raise ValueError(f"{path} of {type(model).__name__} {reason}: nip cannot attend over a graph so.")
    max_tokens = setting.max_tokens or _longest(model)
    windows = [has_window(module) for _, module, _ in wanted]
    some_windows = any(windows) and not all(windows)
    numbers: dict[str, int] = {}
    sites = []
    for path, module, role in found:
        index = numbers.get(role, 0)
        numbers[role] = index + 1
        sparse = role == "self" or (role == "decoder" and setting.decoder)
        keeps_window = some_windows and has_window(module) and not setting.names(index)
        graph = setting.of_layer(index) if sparse and not keeps_window else None
        sites.append(Site(path, role, index, graph, setting.backend, max_tokens))
    _check_layers(model, setting, numbers)
    for (_, module, _), site in zip(found, sites, strict=True):
        if site.graph is not None and getattr(module, "is_causal", False):
            site.graph_for(1, grows=True)  # refuses a text of unknown length
    model.set_attn_implementation(NAME)
    for (_, module, _), site in zip(found, sites, strict=True):
        # Parts of a model that was put together may hold a configuration that the model itself has since replaced.
        config: Any = module.config
        config._attn_implementation_internal = NAME
        setattr(module, SITE, site)
    if any(getattr(module, "is_causal", False) for _, module, _ in found):
        setting = replace(setting, max_tokens=max_tokens)  # must not follow the configuration when that changes
    record = setting.to_dict()
    if (getattr(model.config, ENTRY, None) or {}).get(NORM) == RMS:
        swap(model)  # transformers has loaded the weights into LayerNorms; a model in memory has none any more
        record[NORM] = RMS
    setattr(model.config, ENTRY, record)
    model.__dict__.pop("save_pretrained", None)
    setattr(model, _CHECKED, False)
    if setting.customs:
        model.save_pretrained = functools.partial(_save_pretrained, model, setting)
    if _check_that_it_ran not in model._forward_hooks.values():
        model.register_forward_hook(_check_that_it_ran)
    return model


def _check_layers(model: PreTrainedModel, setting: Setting, numbers: Mapping[str, int]) -> None:
    highest = max(numbers["self"], numbers.get("decoder", 0) if setting.decoder else 0)
    if isinstance(setting.layers, Mapping):
        beyond = [index for index in setting.layers if index >= highest]
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
    """After the first forward pass: that attention ran over the graphs, and not elsewhere."""
    if torch.compiler.is_compiling() or getattr(model, _CHECKED):
        return
    sparse = [site for site in attention_layers(model) if site.graph is not None]
    if sparse and not any(site.calls for site in sparse):
        raise RuntimeError(
            f"{type(model).__name__} has run without attending over its graph: its attention was computed elsewhere. "
            "Has attn_implementation been set anew?"
        )
    setattr(model, _CHECKED, True)


def _save_pretrained(model: Any, setting: Setting, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
    """As the model's own, and the graphs that have no name beside the weights."""
    saved = type(model).save_pretrained(model, save_directory, *args, **kwargs)
    if kwargs.get("is_main_process", True):
        for file, graph in setting.files().items():
            graph.save(Path(save_directory) / file)
    return saved
