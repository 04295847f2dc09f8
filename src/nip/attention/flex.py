"""torch's FlexAttention over the tiles of a layout: on a GPU forward and backward, on a CPU forward only.

FlexAttention skips tiles of 128 × 128 tokens. The remaining tiles follow from the layout's list of blocks; a partially
attended tile is masked by a bit for each pair of blocks, causality, padding and segments.
"""

from __future__ import annotations

import importlib.util
import operator
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention
from torch.nn.functional import pad

from nip.attention.arguments import Options
from nip.attention.derivatives import refuse_mapped
from nip.attention.layout import BlockLayout, layout_of
from nip.attention.tiles import TILE, bitmap, table, table_bytes, tiling

# FlexAttention stores integers for every pair of tiles, and the mask a bit for every pair of blocks: 24 MiB at 131,072
# tokens in blocks of 16. Above this limit use gather, whose memory is proportional to the attended blocks.
MOST_TABLE_BYTES = 2**30

SMALLEST_HEAD_DIM = 16  # of the GPU's matrix units: narrower heads are padded with zeros

# Each combination of dtype, heads, head_dim and masks is compiled once; torch's default limit is eight.
MOST_COMPILED = 256


class Tables(NamedTuple):
    """The mask of a layout as tensors on one device: counts and indices as returned by `nip.attention.tiles.table`."""

    kv_count: Tensor
    kv_indices: Tensor
    q_count: Tensor
    q_indices: Tensor
    full_kv_count: Tensor | None
    full_kv_indices: Tensor | None
    full_q_count: Tensor | None
    full_q_indices: Tensor | None
    bits: Tensor
    block_size: Tensor
    n_tokens: Tensor


@lru_cache(maxsize=1)
def _cpu_missing() -> str | None:
    compiler = os.environ.get("CXX", "g++")
    if sys.platform != "linux":
        return f"torch compiles FlexAttention for a CPU on Linux only, and this is {sys.platform}"
    if torch.backends.cpu.get_cpu_capability() not in {"AVX2", "AVX512"}:
        return "torch compiles FlexAttention for processors with AVX2 only"
    if shutil.which(compiler) is None:
        return f"torch compiles FlexAttention on first use, and there is no {compiler}: install g++"
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.exists():
        return f"torch compiles FlexAttention on first use, and {header} is missing: install python3-dev"
    return None


@lru_cache(maxsize=1)
def _cuda_missing() -> str | None:
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    if importlib.util.find_spec("triton") is None:
        return "torch compiles FlexAttention with triton, which is not installed: pip install triton"
    return None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def missing(device: str | None = None) -> str | None:
    """Why FlexAttention cannot run on this type of device ("cpu" or "cuda"; None: on either), or None if it can."""
    if device == "cuda":
        return _cuda_missing()
    if device == "cpu" or _cuda_missing() is not None:
        return _cpu_missing()
    return None


def build() -> str:
    """The device on which FlexAttention runs, to be appended to the backend's description."""
    if _cuda_missing() is None:
        return f", here on {torch.cuda.get_device_name()}"
    return f", here on the CPU without gradients and only if requested by name ({_cuda_missing()})"


def refuses(q: Tensor, options: Options) -> str | None:
    """Why FlexAttention cannot compute this call; None if it can."""
    device = q.device.type
    if device not in {"cpu", "cuda"}:
        return f"it runs on a CPU or a CUDA device, not on {device}"
    reason: str | None = missing(device)
    if reason is not None:
        return reason
    if q.dtype == torch.float64:
        return "it does not support float64"
    if options.dropout_p > 0:
        return "it does not support dropout"
    if device == "cpu" and options.needs_grad:
        return "on a CPU it has no backward pass (use torch.no_grad() if none is needed)"
    if device == "cpu" and options.return_lse:
        return "on a CPU it does not return the log-sum-exp"
    return None


def attend_flex(q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, options: Options) -> tuple[Tensor, Tensor | None]:
    """Softmax attention over the tiles of the layout.

    Half-precision inputs are multiplied in their dtype and accumulated in float32, and probabilities are rounded to the
    input precision, as in other fused attention. A kernel is compiled for each batch size, number of heads, head_dim,
    dtype, kind of masks, block size and length, rounded up to a power of two (with a bias: for each length).

    Parameters
    ----------
    q, k, v, layout, options
        As for `nip.attention.reference.attend_reference`.

    Returns
    -------
    out, lse
        As for `nip.attention.reference.attend_reference`.

    Raises
    ------
    ValueError
        If the tables of the layout would take more than a gibibyte, or compilation fails.

    Notes
    -----
    Time O(attended tiles · 128² · head_dim). Memory in addition to inputs and results:
    `nip.attention.tiles.table_bytes`, cached for the most recent layouts, and a copy of inputs whose length is not a
    power of two.

    References
    ----------
    .. [1] Flex Attention: A Programming Model for Generating Optimized Attention Kernels, arXiv 2412.05496.
    """
    refuse_mapped("flex", "tensors", q, k, v, options.key_padding_mask, options.segment_ids, options.bias)
    tokens, width = layout.n_tokens, q.shape[-1]
    fill = 0, max(0, SMALLEST_HEAD_DIM - width), 0, filled(tokens) - tokens
    padded = [pad(x, fill) if any(fill) else x for x in (q, k, v)]
    if q.device.type == "cpu" and not options.needs_grad:
        # torch rejects inputs that require gradients, even where gradients are disabled
        padded = [x.detach() for x in padded]
    call: Any = flex_attention if torch.compiler.is_compiling() else _compiled()
    with torch.autocast(q.device.type, enabled=False):
        out, aux = call(
            *padded,
            score_mod=None if options.bias is None else _biased(options.bias, tokens),
            block_mask=block_mask(layout, options, q.device),
            scale=options.scale,
            enable_gqa=operator.index(q.shape[1]) != operator.index(k.shape[1]),
            kernel_options={"BACKEND": "TRITON"},  # FLASH, which torch may select, misreads masks of simple functions
            return_aux=AuxRequest(lse=options.return_lse),
        )
    return out[:, :, :tokens, :width], aux.lse[:, :, :tokens] if options.return_lse else None


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Any]:
    # Static shapes: with dynamic ones torch 2.13 generates C++ for a CPU that does not compile, and kernels for a GPU
    # that check every bound.
    compiled: Callable[..., Any] = torch.compile(flex_attention, fullgraph=True, dynamic=False)

    def call(*tensors: Tensor, **keywords: Any) -> Any:
        try:
            with torch._dynamo.config.patch(recompile_limit=MOST_COMPILED, accumulated_recompile_limit=MOST_COMPILED):
                return compiled(*tensors, **keywords)
        except torch._inductor.exc.InductorError as error:
            first = str(error).strip().splitlines()[0]
            raise ValueError(f"The attention backend 'flex' could not be compiled: {first}") from error

    return call


def filled(n_tokens: int) -> int:
    """The padded length: 1, 2, 4, 8, … tiles, so that few kernels serve all lengths. Empty tiles cost nothing."""
    tiles = -(-n_tokens // TILE)
    return TILE << (tiles - 1).bit_length()


def block_mask(layout: BlockLayout, options: Options, device: torch.device) -> BlockMask:
    """Build FlexAttention's mask of the allowed pairs, for sequences padded to the length `filled`.

    Queries beyond the end of the sequence may attend to anything: their results are dropped.

    Parameters
    ----------
    layout : BlockLayout
    options : Options
        Only its token masks are used.
    device : torch.device

    Returns
    -------
    BlockMask

    Raises
    ------
    ValueError
        If the tables of the layout would take more than a gibibyte.
    """
    real, segments = options.key_padding_mask, options.segment_ids
    length = filled(layout.n_tokens)
    fill = length - layout.n_tokens
    if real is not None:
        real = pad(real, (0, fill))
    if segments is not None:
        segments = pad(segments, (0, fill))
    tables = _tables(layout.key, device, allows_full=real is None and segments is None)
    return BlockMask(
        (length, length),
        tables.kv_count, tables.kv_indices, tables.full_kv_count, tables.full_kv_indices,
        tables.q_count, tables.q_indices, tables.full_q_count, tables.full_q_indices,
        (TILE, TILE),
        _attended(tables, real, segments, is_causal=layout.causal),
    )  # fmt: skip


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _tables(key: int, device: torch.device, *, allows_full: bool) -> Tables:
    return _cached_tables(layout_of(key), device, allows_full)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # tensors made in inference mode could not be used in training later
def _cached_tables(layout: BlockLayout, device: torch.device, allows_full: bool) -> Tables:
    size = table_bytes(layout, filled(layout.n_tokens))
    if size > MOST_TABLE_BYTES:
        raise ValueError(
            f"The attention backend 'flex' needs tables of {size / 2**30:.1f} GiB for {layout.n_tokens} tokens in "
            f"{layout.n} blocks. Use larger blocks, or backend='gather'."
        )
    found, length = tiling(layout), filled(layout.n_tokens)
    full = found.full if allows_full else found.full & False
    # By query (kv_…), then by key (q_…), both for the masked tiles; then the same for the full ones.
    tables: list[Tensor | None] = []
    for chosen in (~full, full):
        rows, columns = found.rows[chosen], found.columns[chosen]
        for pair in (table(rows, columns, length // TILE), table(columns, rows, length // TILE)):
            tables += [torch.from_numpy(x)[None, None].to(device) for x in pair]
    if not allows_full:
        tables[4:] = [None] * 4
    numbers = (torch.tensor(x, dtype=torch.int32, device=device) for x in (layout.block_size, layout.n_tokens))
    bits = torch.from_numpy(bitmap(layout, length)).to(device)
    return Tables(*tables, bits, *numbers)  # type: ignore[arg-type, call-arg]


def _attended(
    tables: Tables, real: Tensor | None, segments: Tensor | None, *, is_causal: bool
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The mask inside a tile. Integers are passed as tensors: Python integers would be compiled in as constants."""
    bits, block_size, n_tokens = tables.bits, tables.block_size, tables.n_tokens

    def attended(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        i, j = query // block_size, key // block_size
        allowed = ((bits[i, j >> 3] >> (j & 7)) & 1) == 1
        allowed = allowed & (key < n_tokens if real is None else real[batch, key])
        if is_causal:
            allowed = allowed & (key <= query)
        if segments is not None:
            allowed = allowed & (segments[batch, query] == segments[batch, key])
        return allowed

    return attended


def _biased(bias: Tensor, tokens: int) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The score plus the bias; positions beyond the end read the bias of the last token."""
    if bias.dtype == torch.float64:
        bias = bias.float()
    last = torch.tensor(tokens - 1, dtype=torch.int32, device=bias.device)
    only = bias[0] if len(bias) == 1 else None

    def biased(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        query, key = torch.minimum(query, last), torch.minimum(key, last)
        return score + (bias[batch, head, query, key] if only is None else only[head, query, key])

    return biased
