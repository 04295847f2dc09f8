"""The original's checkpoint of a Long Range Arena run, ``TASK_ATTN_output.model``, under the names of `nip.models`.

The weights correspond one to one. Queries, keys and values have separate projections there, the table of token
embeddings has 512 rows, of which the task's ids use the first, and a sparse model carries its layout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from nip.graphs import Pattern, from_mask
from nip.lra.config import RunConfig
from nip.lra.graphs import LAYOUT_LENGTH, run_pattern

_RENAMED = (
    (r"^model\.embeddings\.word_embeddings\.", "tokens."),
    (r"^model\.embeddings\.position_embeddings\.", "positions."),
    (r"^model\.transformer_(\d+)\.norm1\.", r"layers.\1.attention_norm."),
    (r"^model\.transformer_(\d+)\.mha\.(?:attn\.|W_)(?:q|query)\.", r"layers.\1.q."),
    (r"^model\.transformer_(\d+)\.mha\.(?:attn\.|W_)(?:k|key)\.", r"layers.\1.k."),
    (r"^model\.transformer_(\d+)\.mha\.(?:attn\.|W_)(?:v|value)\.", r"layers.\1.v."),
    (r"^model\.transformer_(\d+)\.mha\.ff\.", r"layers.\1.attention_out."),
    (r"^model\.transformer_(\d+)\.norm2\.", r"layers.\1.inner_norm."),
    (r"^model\.transformer_(\d+)\.mlpblock\.0\.", r"layers.\1.up."),
    (r"^model\.transformer_(\d+)\.mlpblock\.3\.", r"layers.\1.down."),
    (r"^model\.norm\.", "norm."),
    (r"^seq_classifer\.mlpblock\.0\.", "hidden."),
    (r"^seq_classifer\.mlpblock\.2\.", "output."),
)
_LAYOUT = re.compile(r"^model\.transformer_\d+\.mha\.attn\.sparse_self_attention\.master_layout$")
_TABLES = ("tokens.weight", "positions.weight")  # whose first rows are used
_SOFTMAX = re.compile(r"\.mha\.W_[qkv]\.")


def read_original_model(path: Path) -> tuple[dict[str, Tensor], Tensor | None, bool]:
    """The weights in a ``.model`` file of the original, under this library's names.

    Parameters
    ----------
    path : Path

    Returns
    -------
    weights : dict of str to Tensor
    layout : Tensor of shape (heads, n, n) or None
        That of the first layer, which the original uses in all layers.
    softmax : bool
        Whether the attention is dense.

    Raises
    ------
    ValueError
        If the file is not a checkpoint of the original's. Nothing in it is executed.
    OSError
        If it cannot be read.
    """
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # pickle.UnpicklingError, and what a damaged zip file raises
        raise ValueError(f"{path} is damaged, or a pickle of more than tensors, which is not loaded.") from error
    there = held.get("model_state_dict") if isinstance(held, dict) else None
    if not isinstance(there, Mapping) or not all(isinstance(value, Tensor) for value in there.values()):
        raise ValueError(f"{path} is not a checkpoint of the original's run_tasks.py: it has no model_state_dict.")
    layouts = [value for name, value in there.items() if _LAYOUT.match(name)]
    weights = {_renamed(name): value.float() for name, value in there.items() if not _LAYOUT.match(name)}
    for layer in sorted({name.split(".")[1] for name in weights if name.startswith("layers.")}):
        for kind in ("weight", "bias"):
            parts = [weights.pop(f"layers.{layer}.{one}.{kind}", None) for one in "qkv"]
            if all(part is not None for part in parts):
                weights[f"layers.{layer}.qkv.{kind}"] = torch.cat([part for part in parts if part is not None])
    return weights, layouts[0] if layouts else None, any(_SOFTMAX.search(name) for name in there)


def fitted(path: Path, weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights for a model: of both tables of embeddings the first rows.

    Parameters
    ----------
    path : Path
        The file, for messages.
    weights : mapping of str to Tensor
        From `read_original_model`.
    own : mapping of str to Tensor
        The model's weights.

    Raises
    ------
    ValueError
        If a weight is missing, unknown, of another shape, NaN or Inf.
    """
    cut = dict(weights)
    for name in _TABLES:
        if name in weights and name in own:
            cut[name] = weights[name][: len(own[name])]
    wrong = [f"lacks {name}" for name in own if name not in weights]
    wrong += [f"has {name}, which the model has not" for name in cut if name not in own]
    wrong += [
        f"has {name} of shape {tuple(weights[name].shape)}, and the model {tuple(own[name].shape)}"
        for name in cut
        if name in own and cut[name].shape != own[name].shape
    ]
    wrong += [f"has NaN or Inf in {name}" for name, value in cut.items() if not value.isfinite().all()]
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise ValueError(f"{path} is of another task, attention or size: it {wrong[0]}{more}.")
    return cut


def original_pattern(path: Path, config: RunConfig, layout: Tensor | None, *, softmax: bool) -> Pattern:
    """The graph that the original's model was trained over: the corner of its layout, else the configuration's.

    Parameters
    ----------
    path : Path
        The file, for messages.
    config : RunConfig
    layout : Tensor of shape (heads, n, n) or None
    softmax : bool

    Raises
    ------
    ValueError
        If the model was trained over another kind of attention, or in other blocks.
    """
    named = run_pattern(config)
    if softmax != (config.model == "softmax"):
        kind = "softmax attention" if softmax else "sparse attention"
        raise ValueError(f"{path} is a model with {kind}; --attention is {config.model}.")
    if layout is None or softmax or config.graph is not None:
        return named
    if layout.ndim != 3 or layout.shape[1] != layout.shape[2] or not layout.shape[1]:
        raise ValueError(f"{path} is damaged: its layout has the shape {tuple(layout.shape)}.")
    block = LAYOUT_LENGTH // layout.shape[1]
    if block != config.block_size:
        raise ValueError(f"{path} has a layout in blocks of {block} tokens; --block-size is {config.block_size}.")
    n = config.n_blocks
    if n > layout.shape[1]:
        return named
    corner = from_mask(layout[0, :n, :n].numpy() != 0, name=config.model)
    return named if corner == named else corner


def _renamed(name: str) -> str:
    for there, here in _RENAMED:
        renamed, changes = re.subn(there, here, name)
        if changes:
            return renamed
    return name
