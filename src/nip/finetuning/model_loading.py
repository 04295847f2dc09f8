"""Model, tokenizer and configuration of a run, checked against each other.

A task calls, in this order::

    config = load_config(command, num_labels=2)
    tokenizer = load_tokenizer(command, config)
    seq_len = sequence_length(command, config, tokenizer, wanted=command.task.max_seq_length, default=384)
    model = load_model(command, AutoModelForQuestionAnswering, config, tokenizer, seq_len)
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from nip import graphs
from nip.finetuning.arguments import Command, print_notice
from nip.models.huggingface.fit import check_weights_fit
from nip.models.huggingface.layers import SITE, Site, attention_layers
from nip.models.huggingface.original_bert import converted_config, is_original, load_original
from nip.models.huggingface.sparsify import rebuild
from nip.models.positions import is_rotary, max_positions

UNLIMITED = 10**9  # tokenizers without a limit have a far larger one


def load_config(command: Command, **settings: Any) -> Any:
    """The model's configuration.

    Parameters
    ----------
    command : Command
    **settings
        The task's, such as ``num_labels``.

    Raises
    ------
    ValueError
        If no model is named, or it cannot be loaded.
    """
    model = command.model
    flag = "config_name" if model.config_name else "model_name_or_path"
    source = model.config_name or model.model_name_or_path
    if source is None:
        raise ValueError("Name a model: --model_name_or_path with a folder or a name on the hub.")
    if is_original(source):
        config = _load(lambda source, **_: converted_config(source), source, flag, "config.json", command)
        for name, value in settings.items():
            setattr(config, name, value)
        return config
    return _load(AutoConfig.from_pretrained, source, flag, "config.json", command, **settings)


def load_tokenizer(command: Command, config: Any = None, *, masks: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer, checked against the model's vocabulary.

    Parameters
    ----------
    command : Command
    config : PretrainedConfig, optional
        The model's; None for a model from scratch, which gets the tokenizer's vocabulary.
    masks : bool, default=False
        Whether the task uses the mask token. If not, the model's embedding may lack it, as that of BART models for
        summarization does.

    Raises
    ------
    ValueError
        If it cannot be loaded, or has more tokens than the model's embedding has rows.
    """
    model = command.model
    flag = "tokenizer_name" if model.tokenizer_name else "model_name_or_path"
    source = model.tokenizer_name or model.model_name_or_path
    if source is None:
        raise ValueError("Name a tokenizer: --tokenizer_name, or --model_name_or_path of a model with one.")
    tokenizer: PreTrainedTokenizerBase = _load(AutoTokenizer.from_pretrained, source, flag, "tokenizer.json", command)
    rows = getattr(config, "vocab_size", None)
    beyond = [] if rows is None else [token for token, id in tokenizer.get_vocab().items() if id >= rows]
    if beyond and (masks or beyond != [tokenizer.mask_token]):
        raise ValueError(
            f"The tokenizer of {source} has {len(tokenizer):,} tokens, but the model's embedding has {rows:,} rows: "
            "name the model's own tokenizer with --tokenizer_name."
        )
    return tokenizer


def sequence_length(
    command: Command, config: Any, tokenizer: PreTrainedTokenizerBase, *, wanted: int | None, default: int
) -> int:
    """The maximum number of tokens of an input.

    Parameters
    ----------
    command : Command
    config, tokenizer
        The model's.
    wanted : int or None
        ``--max_seq_length``; None if it was not given.
    default : int
        Used if it was not given, unless model or tokenizer allow fewer.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        If the model has fewer positions and they are not extended.
    """
    rows = max_positions(config)
    if wanted is None:
        limit = tokenizer.model_max_length if tokenizer.model_max_length < UNLIMITED else default
        # beyond the length of pretraining only if asked
        trained = config.max_position_embeddings if is_rotary(config) else rows
        limits = [default, limit]
        return min(limits if trained is None or command.attention.extend_positions else [*limits, trained])
    if wanted < 1:
        raise ValueError(f"--max_seq_length must be at least 1. Got {wanted} instead.")
    if rows is not None and wanted > rows and command.attention.extend_positions is None:
        raise ValueError(
            f"--max_seq_length {wanted:,} is longer than the {rows:,} positions of "
            f"{command.model.model_name_or_path or 'the model'}: give --extend_positions reflect, or at most {rows:,}."
        )
    tokenizer.model_max_length = max(wanted, tokenizer.model_max_length)  # it is saved with the model
    return wanted


def read_fixed_graph(command: Command, seq_len: int) -> graphs.Pattern | None:
    """The graph in the file ``--graph``; None if a pattern is named, which has a graph for every length.

    Raises
    ------
    ValueError
        If the graph is for another length.
    """
    attention = command.attention
    if attention.graph is None:
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", graphs.GraphFileWarning)
        graph = graphs.read_graph(Path(attention.graph))
    for warning in caught:
        print_notice(str(warning.message))
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
    """The model, attending over the command's graph; the same for the same seed.

    Parameters
    ----------
    command : Command
    auto_class : type
        Such as ``AutoModelForSequenceClassification``.
    config, tokenizer
        As `load_config` and `load_tokenizer` return them.
    seq_len : int
        As `sequence_length` returns it; with ``--extend_positions`` the position embeddings are extended to it.
    scratch : bool, default=False
        Initialize the weights instead of loading them.

    Returns
    -------
    PreTrainedModel

    Raises
    ------
    ValueError
        If the weights cannot be loaded, the model cannot attend over a graph, or the pattern has none for that length.
    """
    import nip

    set_seed(command.training.seed)
    attention = command.attention
    graph = read_fixed_graph(command, seq_len)
    source = str(command.model.model_name_or_path)
    saved = saved_graph(command, config) is not None
    if scratch:
        model: PreTrainedModel = auto_class.from_config(config)
        if saved:
            model = rebuild(model, str(command.model.config_name), **_hub_options(command))
    else:
        from_pretrained = partial(nip.from_pretrained, auto_class=auto_class) if saved else auto_class.from_pretrained
        if is_original(source):
            from_pretrained = partial(load_original, auto_class=auto_class)
            print_notice(f"{source} is a checkpoint of the original code; it is converted to a {config.model_type}")
        settings = {"config": config, "ignore_mismatched_sizes": command.model.ignore_mismatched_sizes}
        model, info = _load(
            from_pretrained, source, "model_name_or_path", "weights", command, output_loading_info=True, **settings
        )
        new = check_weights_fit(model, info, source, new_head=command.training.do_train)
        if new:
            print_notice(f"{source} has no {', '.join(new)}: this head is new, and trained")
    rows = max_positions(model.config)
    if attention.extend_positions is not None and rows is not None and seq_len > rows:
        nip.extend_positions(model, seq_len, method=attention.extend_positions)
    if not saved:
        pattern: Any = attention.attention if graph is None else graph
        if not command.training.do_train and not command.given & {"attention", "attention_layers", "graph"}:
            pattern = "softmax"  # as it was trained
            print_notice(f"{source} names no graph: it attends densely; --attention names another graph")
        nip.sparsify(
            model,
            pattern,
            block_size=attention.block_size,
            layers=attention.layers,
            backend=attention.backend,
            max_tokens=seq_len,  # full degrees at the length of this task; shorter batches use the corner
            **attention.parameters,
        )
    elif "backend" in command.given:
        set_backend(model, attention.backend)
    check_graphs(model, seq_len)
    return model


def set_backend(model: PreTrainedModel, backend: str) -> None:
    """Set the attention backend of a model that has graphs, and note it in its configuration."""
    for site in attention_layers(model):
        site.backend = backend
    config: Any = model.config
    config.nip = {**config.nip, "backend": backend}


def check_graphs(model: PreTrainedModel, seq_len: int) -> None:
    """Check that every layer has a graph for inputs of `seq_len` tokens.

    Raises
    ------
    ValueError
        If a pattern has none of that size, or a graph from a file is smaller.
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
    """The graphs in the model's configuration, as `nip.sparsify` wrote them; None if the command names others."""
    if command.given & {"attention", "attention_layers", "graph", "param", "block_size"}:
        return None
    entry = getattr(config, "nip", None)
    return entry if isinstance(entry, Mapping) and "default" in entry else None  # else only a norm is recorded there


def _load(
    from_pretrained: Callable[..., Any], source: str, flag: str, what: str, command: Command, **settings: Any
) -> Any:
    """`from_pretrained`, with errors that name the flag."""
    local = Path(source).is_dir()
    if not local and (Path(source).is_absolute() or source.startswith((".", "~")) or source.count("/") > 1):
        raise ValueError(f"--{flag}: there is no folder {source}.")
    try:
        return from_pretrained(source, **_hub_options(command), **settings)
    except RuntimeError as error:  # shapes differ
        raise ValueError(f"--{flag}: the weights of {source} do not fit the model: {_first_line(error)}") from error
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        where = (
            f"the folder {source} has no {what} that can be read"
            if local
            else f"there is no folder {source}, and the hub has no {what} under that name"
        )
        raise ValueError(f"--{flag}: {where} ({_first_line(error)})") from error


def _hub_options(command: Command) -> dict[str, Any]:
    # False, not None: transformers would ask on standard input whether code that comes with a model may run.
    options = {"cache_dir": command.model.cache_dir, "revision": command.model.model_revision}
    return {**options, "trust_remote_code": False}


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.split(os.linesep)[0].rstrip(".:")
