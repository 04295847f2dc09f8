"""The mask function of sparsified Hugging Face models: a compact `Mask` in place of one of tokens × tokens.

Transformers calls the mask function once per forward pass (and kind of layer), and passes its result to the attention
function of every layer. A `Mask` says which tokens are real, whether attention is causal, and where the queries start.
Only layers that stay dense expand it to tokens × tokens, once for all of them.
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
    """Which pairs of tokens may attend in one forward pass, in addition to the graph."""

    causal: bool
    padding: Tensor | None
    """(batch, keys) bool, True at real keys; None if all are."""
    segments: Tensor | None = None
    """(batch, tokens) integer: the document of each token in packed inputs."""
    special: bool = False
    """The model's mask has more than the other fields: a sliding window, or a rule of its own."""
    q_offset: Any = 0
    kv_offset: int = 0
    arguments: dict[str, Any] = field(default_factory=dict, repr=False)
    _dense: list[Tensor | None] = field(default_factory=list, repr=False)
    ndim = 4
    """Generation with a static cache recognizes prepared masks by their number of dimensions."""

    @property
    def shape(self) -> torch.Size:
        """(batch, tokens) of a mask from `packed`, from which transformers takes the number of keys."""
        assert self.segments is not None
        return self.segments.shape

    def contiguous(self) -> Mask:
        """Itself: generation calls this on prepared masks."""
        return self

    def dense(self) -> Tensor | None:
        """The mask of dense attention, as transformers makes it; made once."""
        if not self._dense:
            self._dense.append(sdpa_mask(**self.arguments))
        return self._dense[0]

    @property
    def has_cache(self) -> bool:
        """Whether there are cached keys before the queries."""
        return not isinstance(self.q_offset, int) or self.q_offset > 0

    def pairs(self) -> Tensor:
        """The mask as a tensor of shape (batch, 1, queries, keys), bool."""
        skips = {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
        mask: Tensor = sdpa_mask(**{**self.arguments, **skips})
        return mask


def packed(segment_ids: Tensor) -> Mask:
    """The ``attention_mask`` of a sparsified encoder for inputs of several packed documents.

    Transformers itself supports packed documents in causal models only.

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
    """The mask of a forward pass; the parameters are those of transformers' `sdpa_mask`."""
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
        q_offset = q_offset.clone()  # a static cache increments it in place, before attention reads it
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
    """The documents of a causal mask function for packed inputs; None of any other mask function.

    Transformers finds packed documents by their positions and passes a composed function only, whose components are in
    its closure. A function that is composed otherwise is evaluated for every pair of tokens.
    """
    components = _closure(function).get("mask_functions")
    if not isinstance(components, tuple) or len(components) != 2:
        return None
    segments: Tensor | None = None
    for component in components:
        inside = _closure(component)
        if set(inside) == {"packed_sequence_mask"}:
            segments = inside["packed_sequence_mask"]
        elif causal_mask_function not in (component, inside.get("mask_function")):  # itself, or by positions
            return None
    return segments


def _closure(function: Callable[..., Any]) -> dict[str, Any]:
    if not inspect.isfunction(function) or function.__closure__ is None:
        return {}
    return dict(zip(function.__code__.co_freevars, (cell.cell_contents for cell in function.__closure__), strict=True))
