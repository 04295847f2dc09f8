"""A longer table of positions for a pretrained model, made from the one that it has.

The NIP paper's models are trained on 128 tokens and then on 512, their positions extended by reflection: the Gray-code
order of the hypercube visits a larger cube by going through the smaller one and then through it backwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from nip.graphs.pattern import check_int

Model = TypeVar("Model", bound=nn.Module)

_TABLES = {"position_embeddings", "position_embedding", "embed_positions", "wpe", "pos_embed", "position_embed"}
_LENGTHS = ("max_position_embeddings", "n_positions")


def reflected(table: Tensor, n: int) -> Tensor:
    """Double the rows by their mirror image until there are `n`: [128:256] mirrors [0:128], [256:512] mirrors [0:256].

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
    """Stretch the rows to `n`, linearly between neighbours; the first and the last stay."""
    stretched = interpolate(table.T[None].float(), size=n, mode="linear", align_corners=True)
    return stretched[0].T.to(table.dtype)


METHODS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "reflect": reflected,
    "tile": tiled,
    "interpolate": interpolated,
}


def extend_positions(model: Model, n: int, method: str = "reflect") -> Model:
    """Lengthen a model's table of positions in place, so that it reads inputs of `n` tokens.

    Rows that stand for no position (RoBERTa's and BART's first two) stay where they are. A table of sines (Pegasus,
    Marian) is computed further, whatever the method. A tokenizer keeps its own limit: set its ``model_max_length`` too.
    For a causal model, call this before `nip.sparsify`, which lays out the graph for the longest input.

    Parameters
    ----------
    model : PreTrainedModel
        With one or more tables of positions.
    n : int
        Tokens of the longest input, more than so far.
    method : str, default="reflect"
        ``reflect``: double the table by its mirror image; ``tile``: repeat it; ``interpolate``: stretch it.

    Returns
    -------
    PreTrainedModel
        The model itself.

    Raises
    ------
    ValueError
        If the model has no such table (rotary or relative positions), it is already as long, or the model's
        configuration does not say how long it is, so that a longer one could not be loaded again.

    References
    ----------
    .. [1] What Dense Graph Do You Need for Self-Attention?, arXiv 2205.14014.
    """
    check_int("n", n, "extend_positions", minimum=1)
    if method not in METHODS:
        raise ValueError(
            f"The 'method' parameter of extend_positions must be one of {', '.join(METHODS)}. Got {method!r} instead."
        )
    name = type(model).__name__
    found = [(path, module, child) for path, module in model.named_modules() for child in _tables(module)]
    if not found:
        raise ValueError(f"{name} has no table of learned positions: {_instead(model)}")
    lengths = {_usable(getattr(module, child))[0] for _, module, child in found}
    if len(lengths) > 1:
        raise ValueError(f"{name} has tables of {', '.join(map(str, sorted(lengths)))} positions: extend them by hand.")
    length = lengths.pop()
    if n <= length:
        raise ValueError(f"{name} already has {length} positions; extend_positions needs more. Got {n} instead.")
    said = {id(config): (config, key) for path, _, _ in found for config, key in _said(model, path)}
    for _, module, child in found:
        _extend(module, child, n, METHODS[method])
    for config, key in said.values():  # tables may share one
        setattr(config, key, getattr(config, key) + n - length)
    return model


def is_rotary(config: Any) -> bool:
    """Whether a model rotates queries and keys by position, so that no table limits its inputs."""
    kind = getattr(config, "position_embedding_type", None)  # ESM's has an angle either way
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


def _said(model: nn.Module, path: str) -> list[tuple[Any, str]]:
    """The configurations that say how long the table of the module at `path` is, with their entries.

    A part of a model that was put together has one of its own, and a part may hold a copy.
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
            f"The configuration of {type(model).__name__} does not say how many positions there are, as "
            f"{' or '.join(_LENGTHS)}: extend them by hand."
        )
    return found


def _usable(table: Any) -> tuple[int, int]:
    """How many positions a table has, and how many rows stand before the first."""
    before = getattr(table, "offset", None)
    if not isinstance(before, int):
        before = 0 if table.padding_idx is None else table.padding_idx + 1
    return table.num_embeddings - before, before


def _extend(module: nn.Module, child: str, n: int, lengthen: Callable[[Tensor, int], Tensor]) -> None:
    table: Any = getattr(module, child)
    _, before = _usable(table)
    with torch.no_grad():
        old = table.weight
        if hasattr(table, "create_weight"):  # sines
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


def _instead(model: Any) -> str:
    config = model.config
    if is_rotary(config):
        return "it rotates queries and keys by position (rotary), and reads inputs of any length."
    if getattr(config, "relative_attention_num_buckets", None):
        return "its positions are relative, and it reads inputs of any length."
    if any("Sinusoidal" in type(module).__name__ for module in model.modules()):
        return "they are sines, computed as far as an input reaches."
    return "there is nothing to extend."


# Families whose position table begins with rows that no token uses: up to the padding token's own.
OFFSET_FAMILIES = (
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "data2vec-text", "xmod"),
    *("esm", "ibert", "lilt", "luke", "markuplm", "layoutlmv3"),
)


# Families that compute positions as far as an input reaches, whatever their configuration says.
UNLIMITED_FAMILIES = ("t5", "mt5", "umt5", "m2m_100", "nllb-moe", "xglm")


def positions_of(config: Any) -> int | None:
    """How many tokens a sequence may have; None where positions are relative or rotary, so that nothing limits it."""
    rows = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if rows is None or is_rotary(config) or getattr(config, "model_type", "") in UNLIMITED_FAMILIES:
        return None
    if config.model_type in OFFSET_FAMILIES:
        return int(rows) - int(config.pad_token_id or 0) - 1
    return int(rows)
