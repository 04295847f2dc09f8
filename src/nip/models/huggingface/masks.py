"""The mask function registered with transformers: it describes a mask instead of building it.

Transformers calls the mask function once per forward pass (and layer type) and passes the result to the attention
function of every layer. Here the result is a `Mask`: which tokens are real, whether attention is causal, and the offset
of the queries. Only dense layers expand it to tokens × tokens, once for all of them.
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
    """The masking of one forward pass, which is combined with the graph."""

    causal: bool
    padding: Tensor | None
    """bool of shape (batch, keys), True at real keys; None if all keys are real."""
    segments: Tensor | None = None
    """Integers of shape (batch, tokens): the document of every token, for packed documents."""
    special: bool = False
    """Whether the model's mask has rules that the other fields cannot express, such as a sliding window."""
    q_offset: Any = 0
    kv_offset: int = 0
    arguments: dict[str, Any] = field(default_factory=dict, repr=False)
    _dense: list[Tensor | None] = field(default_factory=list, repr=False)
    ndim = 4
    """Generation with a static cache builds masks in advance and recognizes them by four dimensions."""

    @property
    def shape(self) -> torch.Size:
        """The shape (batch, tokens) of a mask from `packed`, from which transformers reads the number of keys."""
        assert self.segments is not None
        return self.segments.shape

    def contiguous(self) -> Mask:
        """Return the mask itself; generation calls this on masks that it built in advance."""
        return self

    def dense(self) -> Tensor | None:
        """Return the mask for torch's dense attention, built by transformers and cached."""
        if not self._dense:
            self._dense.append(sdpa_mask(**self.arguments))
        return self._dense[0]

    @property
    def has_cache(self) -> bool:
        """Whether the queries continue a text whose earlier keys are cached."""
        return not isinstance(self.q_offset, int) or self.q_offset > 0

    def pairs(self) -> Tensor:
        """Expand the mask: bool of shape (batch, 1, queries, keys), True where a query may attend to a key."""
        skips = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        mask: Tensor = sdpa_mask(**{**self.arguments, **skips})
        return mask


def packed(segment_ids: Tensor) -> Mask:
    """Return the ``attention_mask`` for a sparsified encoder whose inputs contain several documents each.

    Transformers itself supports packed documents in causal models only.

    Parameters
    ----------
    segment_ids : integer Tensor of shape (batch, tokens)
        Tokens attend only to tokens with the same id. Padding may have its own id.

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
    """Return the model's mask as a `Mask`; the parameters are those of transformers' `sdpa_mask`."""
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
        q_offset = q_offset.clone()  # a static cache increments it in place before attention reads it
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
    """Return the segment ids of packed documents in a causal mask function of transformers; None for other functions.

    Transformers detects packed documents by their positions and passes only a composed function. Its closure contains
    the components. A function with other components is evaluated for every pair instead.
    """
    components = _closure_variables(function).get("mask_functions")
    if not isinstance(components, tuple) or len(components) != 2:
        return None
    segments: Tensor | None = None
    for component in components:
        inside = _closure_variables(component)
        if set(inside) == {"packed_sequence_mask"}:
            segments = inside["packed_sequence_mask"]
        elif causal_mask_function not in (component, inside.get("mask_function")):  # plain or by positions: equivalent
            return None
    return segments


def _closure_variables(function: Callable[..., Any]) -> dict[str, Any]:
    if not inspect.isfunction(function) or function.__closure__ is None:
        return {}
    return dict(zip(function.__code__.co_freevars, (cell.cell_contents for cell in function.__closure__), strict=True))
