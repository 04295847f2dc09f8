"""Model, tokenizer and configuration of a run, checked against each other before any long work.

A new task calls, in this order::

    config = load_config(command, num_labels=2)
    tokenizer = load_tokenizer(command, config)
    seq_len = sequence_length(command, config, tokenizer, wanted=command.task.max_seq_length, default=384)
    model = load_model(command, AutoModelForQuestionAnswering, config, tokenizer, seq_len)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from nip import graphs
from nip.finetuning.arguments import Command
from nip.models.huggingface.layers import SITE, Site, attention_layers
from nip.models.huggingface.sparsify import rebuild
from nip.models.positions import is_rotary, positions_of

UNLIMITED = 10**9  # tokenizers without a limit say a number far above any


def load_config(command: Command, name: str | None = None, **settings: Any) -> Any:
    """The model's configuration, with what the task sets in it.

    Parameters
    ----------
    command : Command
    name : str, optional
        Default: ``--config_name``, else ``--model_name_or_path``.
    **settings
        Such as ``num_labels``.

    Raises
    ------
    ValueError
        If no model is named, or there is none of that name.
    """
    model = command.model
    flag = "config_name" if model.config_name and name is None else "model_name_or_path"
    source = name or model.config_name or model.model_name_or_path
    if source is None:
        raise ValueError("Name a model: --model_name_or_path with a folder or a name on the hub.")
    return _loaded(AutoConfig, source, flag, "config.json", command, **settings)


def load_tokenizer(command: Command, config: Any = None, *, masks: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer, checked against the model's vocabulary.

    Parameters
    ----------
    command : Command
    config : PretrainedConfig, optional
        Of the model; None: from scratch, as large as the tokenizer.
    masks : bool, default=False
        Whether the task uses the mask token. Where it does not, the model's table may lack that one token, as those of
        BART's models for summaries do.

    Raises
    ------
    ValueError
        If there is none of that name, or it knows more tokens than the model's table has rows.
    """
    model = command.model
    flag = "tokenizer_name" if model.tokenizer_name else "model_name_or_path"
    source = model.tokenizer_name or model.model_name_or_path
    if source is None:
        raise ValueError("Name a tokenizer: --tokenizer_name, or --model_name_or_path with one beside the model.")
    tokenizer: PreTrainedTokenizerBase = _loaded(AutoTokenizer, source, flag, "tokenizer.json", command)
    rows = getattr(config, "vocab_size", None)
    beyond = [] if rows is None else [word for word, number in tokenizer.get_vocab().items() if number >= rows]
    if beyond and (masks or beyond != [tokenizer.mask_token]):
        raise ValueError(
            f"The tokenizer of {source} knows {len(tokenizer):,} tokens, but the model's table has {rows:,} rows: "
            "name the model's own with --tokenizer_name."
        )
    return tokenizer


def sequence_length(
    command: Command, config: Any, tokenizer: PreTrainedTokenizerBase, *, wanted: int | None, default: int
) -> int:
    """How many tokens an input has at most.

    Parameters
    ----------
    command : Command
    config, tokenizer
        Of the model.
    wanted : int or None
        What ``--max_seq_length`` says, None where it was not given.
    default : int
        Taken where it was not given, or as many as the model has positions if that is fewer.

    Raises
    ------
    ValueError
        If the model has fewer positions and they are not to be extended.
    """
    rows = positions_of(config)
    if wanted is None:
        limit = tokenizer.model_max_length if tokenizer.model_max_length < UNLIMITED else default
        taught = config.max_position_embeddings if is_rotary(config) else rows  # longer is possible, but must be asked
        known = [default, limit] if taught is None or command.attention.extend_positions else [default, limit, taught]
        return min(known)
    if wanted < 1:
        raise ValueError(f"--max_seq_length must be at least 1. Got {wanted} instead.")
    if rows is not None and wanted > rows and command.attention.extend_positions is None:
        raise ValueError(
            f"--max_seq_length {wanted:,} is longer than the {rows:,} positions of "
            f"{command.model.model_name_or_path or 'the model'}: give --extend_positions reflect, or at most {rows:,}."
        )
    tokenizer.model_max_length = max(wanted, tokenizer.model_max_length)  # it is saved with the model
    return wanted


def fixed_graph(command: Command, seq_len: int) -> graphs.Pattern | None:
    """The graph that ``--graph`` names; None where a pattern is named, which has a graph for every length.

    Raises
    ------
    ValueError
        If the graph was built for another length.
    """
    attention = command.attention
    if attention.graph is None:
        return None
    graph = graphs.read_graph(Path(attention.graph))
    n = -(-seq_len // attention.block_size)
    if graph.n != n:
        raise ValueError(
            f"{attention.graph} is a graph on {graph.n} vertices; {seq_len:,} tokens in blocks of "
            f"{attention.block_size} need {n}."
        )
    return graph


def load_model(
    command: Command,
    auto_class: Any,
    config: Any,
    tokenizer: PreTrainedTokenizerBase,
    seq_len: int,
    *,
    scratch: bool = False,
) -> PreTrainedModel:
    """The model with its attention over the command's graph; the same for the same seed.

    Parameters
    ----------
    command : Command
    auto_class : type
        Such as ``AutoModelForSequenceClassification``.
    config, tokenizer
        As `load_config` and `load_tokenizer` give them.
    seq_len : int
        As `sequence_length` gives it: positions are extended to it where the command says so.
    scratch : bool, default=False
        First weights drawn by the configuration, instead of those that are saved.

    Raises
    ------
    ValueError
        If the weights cannot be loaded, the model cannot attend over a graph, or the pattern has none for that length.
    """
    import nip

    set_seed(command.training.seed)
    attention = command.attention
    graph = fixed_graph(command, seq_len)
    source = str(command.model.model_name_or_path)
    saved = saved_graph(command, config) is not None
    if scratch:
        model: PreTrainedModel = auto_class.from_config(config)
        if saved:
            model = rebuild(model, str(command.model.config_name), **_place(command))
    else:
        ignore = command.model.ignore_mismatched_sizes
        loader = _Rebuilt(auto_class) if saved else auto_class
        weights = {"config": config, "ignore_mismatched_sizes": ignore}
        model = _loaded(loader, source, "model_name_or_path", "weights", command, **weights)
    rows = positions_of(model.config)
    if attention.extend_positions is not None and rows is not None and seq_len > rows:
        nip.extend_positions(model, seq_len, method=attention.extend_positions)
    if not saved:
        pattern: Any = attention.attention if graph is None else graph
        taught = getattr(model.config, "max_position_embeddings", None) if is_rotary(model.config) else None
        nip.sparsify(
            model,
            pattern,
            block_size=attention.block_size,
            layers=attention.layers,
            backend=attention.backend,
            max_tokens=seq_len if taught is not None and seq_len > taught else None,
            **attention.parameters,
        )
    elif "backend" in command.given:
        set_backend(model, attention.backend)
    check_graphs(model, seq_len)
    return model


def set_backend(model: PreTrainedModel, backend: str) -> None:
    """Let a model that has its graphs attend over them by another backend, and its configuration say so."""
    for site in attention_layers(model):
        site.backend = backend
    config: Any = model.config
    config.nip = {**config.nip, "backend": backend}


def check_graphs(model: PreTrainedModel, seq_len: int) -> None:
    """Refuse a model one of whose layers has no graph for inputs of `seq_len` tokens.

    Raises
    ------
    ValueError
        Such as where a geometry has none so small, or a graph of one's own is smaller.
    """
    for module in model.modules():
        site: Site | None = getattr(module, SITE, None)
        if site is None or site.graph is None or site.role != "self":
            continue
        try:
            site.graph_for(seq_len, grows=bool(getattr(module, "is_causal", False)))
        except ValueError as error:
            raise ValueError(
                f"{site.graph.name} has no graph for inputs of {seq_len:,} tokens in blocks of "
                f"{site.graph.block_size}: {error}"
            ) from error


def saved_graph(command: Command, config: Any) -> Mapping[str, Any] | None:
    """The graphs that the model's configuration names, where the command names no other.

    Returns
    -------
    mapping or None
        The configuration's entry, as `nip.sparsify` wrote it.
    """
    if command.given & {"attention", "attention_layers", "graph", "param", "block_size"}:
        return None
    entry = getattr(config, "nip", None)
    return entry if isinstance(entry, Mapping) else None


class _Rebuilt:
    """Loads as `nip.from_pretrained` does, under the name that `_loaded` calls."""

    def __init__(self, auto_class: Any) -> None:
        self.auto_class = auto_class

    def from_pretrained(self, source: str, **settings: Any) -> Any:
        """The model with the graph that its configuration names."""
        import nip

        return nip.from_pretrained(source, self.auto_class, **settings)


def _loaded(loader: Any, source: str, flag: str, what: str, command: Command, **settings: Any) -> Any:
    local = Path(source).is_dir()
    if not local and (Path(source).is_absolute() or source.startswith((".", "~")) or source.count("/") > 1):
        raise ValueError(f"--{flag}: there is no folder {source}.")
    try:
        return loader.from_pretrained(source, **_place(command), **settings)
    except RuntimeError as error:  # of shapes that do not fit
        raise ValueError(f"--{flag}: the weights of {source} do not fit the model: {_first_line(error)}") from error
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        where = (
            f"the folder {source} has no {what} that can be read"
            if local
            else (f"there is no folder {source}, and the hub gave no {what} under that name")
        )
        raise ValueError(f"--{flag}: {where} ({_first_line(error)})") from error


def _place(command: Command) -> dict[str, Any]:
    return {"cache_dir": command.model.cache_dir, "revision": command.model.model_revision}


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.split(os.linesep)[0].rstrip(".:")
