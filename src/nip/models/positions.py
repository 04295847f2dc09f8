"""Extend the position table of a pretrained model to longer inputs.

The NIP paper trains models on 128 tokens and then on 512, with positions extended by reflection. This matches the
Gray-code order of the hypercube, which traverses the smaller cube and then its copy in reverse.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nip.graphs.pattern import check_int
from nip.models.configuration import own_configuration

Model = TypeVar("Model", bound=nn.Module)

_TABLES = {"position_embeddings", "position_embedding", "embed_positions", "wpe", "pos_embed", "position_embed"}
_LENGTHS = ("max_position_embeddings", "n_positions")


def reflected(table: Tensor, n: int) -> Tensor:
    """Append the mirror image until there are `n` rows: [128:256] mirrors [0:128], [256:512] mirrors [0:256].

    Examples
    --------
    >>> reflected(torch.arange(2.0)[:, None], 7).flatten().tolist()
    [0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0]
    """
    while len(table) < n:
        table = torch.cat([table, table.flip(0)])
    return table[:n]


def tiled(table: Tensor, n: int) -> Tensor:
    """Repeat the rows until there are `n`."""
    return table.repeat(-(-n // len(table)), 1)[:n]


def interpolated(table: Tensor, n: int) -> Tensor:
    """Interpolate the rows linearly to `n`; the first and the last stay."""
    stretched = interpolate(table.T[None].float(), size=n, mode="linear", align_corners=True)
    return stretched[0].T.to(table.dtype)


METHODS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "reflect": reflected,
    "tile": tiled,
    "interpolate": interpolated,
}


def extend_positions(model: Model, n: int, method: str = "reflect") -> Model:
    """Extend a model's position tables in place, so that it accepts inputs of `n` tokens.

    Offset rows that no position uses (the first two of RoBERTa and BART) keep their place. Sinusoidal tables (Pegasus,
    Marian) are recomputed, whatever the method. A tokenizer has its own limit: set its ``model_max_length`` too. For a
    causal model, call this before `nip.sparsify`, which builds the graph for the maximum length.

    Parameters
    ----------
    model : PreTrainedModel
        A model with one or more position tables.
    n : int
        New maximum length in tokens, greater than the current one.
    method : str, default="reflect"
        ``reflect``: append the table's mirror image; ``tile``: repeat it; ``interpolate``: interpolate it linearly.

    Returns
    -------
    PreTrainedModel
        The model itself.

    Raises
    ------
    ValueError
        If the model has no position table (rotary or relative positions), the table already has `n` positions, or the
        model's configuration has no entry for the length, so that the saved model could not be loaded.

    References
    ----------
    .. [1] What Dense Graph Do You Need for Self-Attention?, arXiv 2205.14014.
    """
    n = check_int("n", n, "extend_positions", minimum=1)
    if method not in METHODS:
        raise ValueError(
            f"The 'method' parameter of extend_positions must be one of {', '.join(METHODS)}. Got {method!r} instead."
        )
    name = type(model).__name__
    found = [(path, module, child) for path, module in model.named_modules() for child in _tables(module)]
    if not found:
        raise ValueError(f"{name} has no position table: {_why_no_table(model)}")
    lengths = {_usable(getattr(module, child))[0] for _, module, child in found}
    if len(lengths) > 1:
        raise ValueError(f"{name} has position tables of different lengths ({', '.join(map(str, sorted(lengths)))}).")
    length = lengths.pop()
    if n <= length:
        raise ValueError(f"{name} already has {length} positions; extend_positions needs more. Got {n} instead.")
    own_configuration(model)
    entries = {id(config): (config, key) for path, _, _ in found for config, key in _length_entries(model, path)}
    for _, module, child in found:
        _extend(module, child, n, METHODS[method])
    for config, key in entries.values():  # several tables may share one configuration
        setattr(config, key, getattr(config, key) + n - length)
    return model


def is_rotary(config: Any) -> bool:
    """Whether a model uses rotary position embeddings, so that no table limits the input length."""
    kind = getattr(config, "position_embedding_type", None)  # ESM has rope parameters with absolute positions too
    if kind in ("absolute", "rotary"):
        return bool(kind == "rotary")
    return bool(getattr(config, "rope_parameters", None) or getattr(config, "rope_theta", None))


def _tables(module: nn.Module) -> list[str]:
    return [
        name
        for name, child in module.named_children()
        if name in _TABLES
        and isinstance(child, nn.Embedding)
        and ("Sinusoidal" not in type(child).__name__ or hasattr(child, "create_weight"))
    ]


def _length_entries(model: nn.Module, path: str) -> list[tuple[Any, str]]:
    """Return the configurations with the length of the table at `path`, each with the name of the entry.

    Submodels of a composite model have their own configuration and may hold a copy of it.
    """
    parts = path.split(".") if path else []
    found = []
    for end in range(len(parts) + 1):
        config: Any = getattr(model.get_submodule(".".join(parts[:end])), "config", None)
        key = next((key for key in _LENGTHS if isinstance(getattr(config, key, None), int)), None)
        if key is not None:
            found.append((config, key))
    if not found:
        raise ValueError(
            f"The configuration of {type(model).__name__} has no entry for the number of positions "
            f"({' or '.join(_LENGTHS)}), so a longer table could not be loaded again."
        )
    return found


def _usable(table: Any) -> tuple[int, int]:
    """Return the number of positions of a table and the number of unused rows before the first."""
    before = getattr(table, "offset", None)
    if not isinstance(before, int):
        before = 0 if table.padding_idx is None else table.padding_idx + 1
    return table.num_embeddings - before, before


def _extend(module: nn.Module, child: str, n: int, lengthen: Callable[[Tensor, int], Tensor]) -> None:
    table: Any = getattr(module, child)
    _, before = _usable(table)
    with torch.no_grad():
        old = table.weight
        if hasattr(table, "create_weight"):  # sinusoidal
            with torch.device(old.device):  # create_weight names none
                new = type(table)(before + n, table.embedding_dim).create_weight().to(old)
        else:
            new = torch.cat([old[:before], lengthen(old[before:], n)])
        table.weight = nn.Parameter(new.contiguous(), requires_grad=old.requires_grad)
    rows = table.num_embeddings
    table.num_embeddings = len(new)
    for name, buffer in list(module.named_buffers(recurse=False)):
        if buffer.shape == (1, rows) and name in {"position_ids", "token_type_ids"}:
            longer = (
                torch.arange(len(new), device=buffer.device) if name == "position_ids" else buffer.new_zeros(len(new))
            )
            setattr(module, name, longer.expand(1, -1))


def _why_no_table(model: Any) -> str:
    if is_rotary(model.config):
        return "its position embeddings are rotary, and it accepts inputs of any length."
    if getattr(model.config, "relative_attention_num_buckets", None):
        return "its positions are relative, and it accepts inputs of any length."
    if any("Sinusoidal" in type(module).__name__ for module in model.modules()):
        return "its positions are sinusoidal, computed for any length."
    return "there is nothing to extend."


# Families whose position table starts with unused rows, up to and including the row of the padding token's id.
OFFSET_FAMILIES = (
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "data2vec-text", "xmod"),
    *("esm", "ibert", "lilt", "luke", "markuplm", "layoutlmv3"),
)


# Families that compute positions for any length, whatever their configuration says.
UNLIMITED_FAMILIES = ("t5", "mt5", "umt5", "m2m_100", "nllb-moe", "xglm")


def max_positions(config: Any) -> int | None:
    """Return the maximum sequence length in tokens; None if relative or rotary positions leave it unlimited."""
    rows = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if rows is None or is_rotary(config) or getattr(config, "model_type", "") in UNLIMITED_FAMILIES:
        return None
    if config.model_type in OFFSET_FAMILIES:
        return int(rows) - int(config.pad_token_id or 0) - 1
    return int(rows)
