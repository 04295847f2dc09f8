"""What a Hugging Face model asks of its masks, noted once for a forward pass.

Transformers asks the mask function once for every forward pass (and kind of layer), and hands what it returns to the
attention function of every layer. It returns a `Mask`: which tokens are real, whether attention is causal, where the
queries begin. Only a layer that stays dense makes a mask of tokens × tokens of it, once for all such layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import (
    and_masks,
    bidirectional_mask_function,
    causal_mask_function,
    packed_sequence_mask_function,
    prepare_padding_mask,
    sdpa_mask,
)

_PLAIN = (causal_mask_function, bidirectional_mask_function)


@dataclass(eq=False)
class Mask:
    """What one forward pass says about who may attend to whom, beside the graph."""

    causal: bool
    padding: Tensor | None
    """(batch, keys) bool, True where a key is real; None if all are."""
    segments: Tensor | None = None
    """(batch, tokens) integer: packed documents."""
    special: bool = False
    """The model's mask says more than the other fields: a window, or a rule of its own."""
    q_offset: Any = 0
    kv_offset: int = 0
    arguments: dict[str, Any] = field(default_factory=dict, repr=False)
    _dense: list[Tensor | None] = field(default_factory=list, repr=False)
    ndim = 4
    """Generation with a static cache makes masks ahead, and tells made ones from the user's by their dimensions."""

    @property
    def shape(self) -> torch.Size:
        """(batch, tokens) of a mask from `packed`: transformers reads the number of keys from it."""
        assert self.segments is not None
        return self.segments.shape

    def contiguous(self) -> Mask:
        """Itself: generation asks for this of masks that it made ahead."""
        return self

    def dense(self) -> Tensor | None:
        """The mask that torch's dense attention takes, as transformers makes it; made once."""
        if not self._dense:
            self._dense.append(sdpa_mask(**self.arguments))
        return self._dense[0]

    @property
    def follows(self) -> bool:
        """Whether the queries follow on tokens whose keys were kept."""
        return not isinstance(self.q_offset, int) or self.q_offset > 0

    def pairs(self) -> Tensor:
        """(batch, 1, queries, keys) bool: who may attend to whom, written out."""
        skips = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        mask: Tensor = sdpa_mask(**{**self.arguments, **skips})
        return mask


def packed(segment_ids: Tensor) -> Mask:
    """The ``attention_mask`` for a sparsified encoder whose inputs hold several documents each.

    Transformers itself knows packed documents in causal models only.

    Parameters
    ----------
    segment_ids : integer Tensor of shape (batch, tokens)
        Tokens attend to tokens of the same id only. Padding may have an id of its own.

    Examples
    --------
    >>> from nip.models.huggingface.sparsify import sparsify
    >>> from transformers import BertConfig, BertModel
    >>> small = dict(hidden_size=32, num_attention_heads=2, intermediate_size=32, num_hidden_layers=2, vocab_size=9)
    >>> model = sparsify(BertModel(BertConfig(**small)), "hypercube", block_size=2).eval()
    >>> several = packed(torch.tensor([[1, 1, 1, 2, 2, 2]]))
    >>> one = model(torch.tensor([[1, 2, 3, 4, 5, 6]]), attention_mask=several).last_hidden_state[:, :3]
    >>> other = model(torch.tensor([[1, 2, 3, 6, 5, 4]]), attention_mask=several).last_hidden_state[:, :3]
    >>> torch.equal(one, other)
    True
    """
    return Mask(False, None, segment_ids)


def mask_function(
    *,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: Tensor | Mask | None = None,
    local_size: int | None = None,
    **more: Any,
) -> Mask:
    """Note what the model asks of its mask; the parameters are those of transformers' `sdpa_mask`."""
    if isinstance(attention_mask, Mask):
        if attention_mask.arguments or attention_mask.segments is None:
            return attention_mask
        inside = packed_sequence_mask_function(attention_mask.segments)
        arguments = {
            **more, "q_length": q_length, "kv_length": kv_length, "q_offset": q_offset, "kv_offset": kv_offset,
            "mask_function": and_masks(mask_function, inside), "attention_mask": None, "local_size": local_size,
            "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False,
        }  # fmt: skip
        causal, plain = mask_function is causal_mask_function, mask_function in _PLAIN
        return Mask(causal, None, attention_mask.segments, not plain, q_offset, kv_offset, arguments)
    if isinstance(q_offset, Tensor):
        q_offset = q_offset.clone()  # a static cache counts on in place, before attention reads this
    arguments = {
        "q_length": q_length, "kv_length": kv_length, "q_offset": q_offset, "kv_offset": kv_offset,
        "mask_function": mask_function, "attention_mask": attention_mask, "local_size": local_size, **more,
    }  # fmt: skip
    padding = prepare_padding_mask(attention_mask, kv_length, kv_offset)
    if padding is not None:
        padding = padding[:, kv_offset : kv_offset + kv_length]
        if not torch.compiler.is_compiling() and bool(padding.all()):
            padding = None
    segments = _segments(mask_function)
    plain = segments is not None or mask_function in _PLAIN
    causal = segments is not None or mask_function is causal_mask_function
    return Mask(causal, padding, segments, not plain, q_offset, kv_offset, arguments)


def _segments(function: Callable[..., Any]) -> Tensor | None:
    """The packed documents in a causal mask function that transformers put together; None if it is another.

    Transformers finds packed documents by their positions and hands over a function only. What it is made of can be
    read from its closure; one that looks different is not misread, but evaluated pair by pair.
    """
    parts = _closure(function).get("mask_functions")
    if not isinstance(parts, tuple) or len(parts) != 2:
        return None
    segments: Tensor | None = None
    for part in parts:
        inside = _closure(part)
        if set(inside) == {"packed_sequence_mask"}:
            segments = inside["packed_sequence_mask"]
        elif causal_mask_function not in (part, inside.get("mask_function")):  # as it is, or by positions: the same
            return None
    return segments


def _closure(function: Callable[..., Any]) -> dict[str, Any]:
    if not inspect.isfunction(function) or function.__closure__ is None:
        return {}
    return dict(zip(function.__code__.co_freevars, (cell.cell_contents for cell in function.__closure__), strict=True))
