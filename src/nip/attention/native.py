"""The kernel in C++ (``csrc/``): block-sparse attention on a CPU, float32, forward and backward.

The library is plain C and opened with ctypes, so it is tied to no version of torch. There is one build of it for each
instruction set; the best that the processor has is taken when it is first needed. ``NIP_NATIVE_ISA`` names another one.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from nip.attention.layout import BlockLayout
from nip.attention.options import Options

FLAGS = {
    "avx512": {"avx512f", "avx512dq", "avx512bw", "avx512vl", "fma"},
    "avx2": {"avx2", "fma"},
    "portable": set[str](),
}
"""Builds, best first, and what the processor must have for each, as /proc/cpuinfo spells it."""

BUILD = "pip install --force-reinstall --no-deps nip, or make env in a checkout, with g++ installed"


class _Problem(ctypes.Structure):
    """NipAttention in csrc/block_sparse.cpp."""

    _fields_ = (
        *(
            (name, ctypes.c_int64)
            for name in ("batch", "heads", "kv_heads", "tokens", "head_dim", "block", "n", "threads")
        ),
        *((f"{name}_stride", ctypes.c_int64 * 3) for name in ("q", "k", "v", "dout")),
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "dout", "dlse", "out", "lse", "dq", "dk", "dv")),
        *((name, ctypes.c_void_p) for name in ("indptr", "indices", "query_ids", "key_ids")),
        ("scale", ctypes.c_float),
        ("causal", ctypes.c_int32),
    )


def instruction_sets() -> list[str]:
    """Builds that this processor can run and that are installed, best first."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    found = {flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split()}
    return [isa for isa, needed in FLAGS.items() if needed <= found and _path(isa) is not None]


def _path(isa: str) -> Path | None:
    return next(iter(sorted(Path(__file__).parent.glob(f"_native_{isa}.*"))), None)


@lru_cache(maxsize=1)
def _library() -> tuple[str, ctypes.CDLL | None, str | None]:
    """The instruction set, its library, and why there is none."""
    if sys.platform != "linux":
        return "", None, f"it is compiled on Linux only, and this is {sys.platform}"
    wanted = os.environ.get("NIP_NATIVE_ISA")
    installed = [isa for isa in FLAGS if _path(isa) is not None]
    if not installed:
        return "", None, f"it was not compiled when nip was installed; to compile it: {BUILD}"
    usable = instruction_sets()
    if wanted is not None and wanted not in usable:
        return "", None, f"NIP_NATIVE_ISA is {wanted!r}, and this machine can use {', '.join(usable) or 'none'}"
    if not usable:
        return "", None, f"only {', '.join(installed)} was compiled, which this {platform.machine()} lacks; {BUILD}"
    isa = wanted or usable[0]
    path = _path(isa)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return "", None, f"{path} cannot be opened ({error}); to compile it anew: {BUILD}"
    for function in (library.nip_attention_forward, library.nip_attention_backward):
        function.argtypes, function.restype = (ctypes.POINTER(_Problem),), ctypes.c_int
    return isa, library, None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def missing() -> str | None:
    """Why the kernel cannot be used on this machine, and what to type; None if it can."""
    return _library()[2]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def instruction_set() -> str:
    """The build of the kernel that runs here, a name among `FLAGS`; empty if none does."""
    return _library()[0]


def build() -> str:
    """Which build of the kernel runs here, for a person."""
    return f", here for {instruction_set()}"


def refuses(q: Tensor, options: Options) -> str | None:
    """Why the kernel cannot compute this call; None if it can."""
    if q.device.type != "cpu":
        return f"it runs on a CPU only, not on {q.device.type}"
    if q.dtype != torch.float32:
        return f"it computes float32 only, not {str(q.dtype).removeprefix('torch.')}"
    if options.bias is not None:
        return "it adds no bias"
    if options.dropout_p > 0:
        return "it has no dropout"
    return None


def attend_native(
    q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, options: Options
) -> tuple[Tensor, Tensor | None]:
    """Softmax attention over the blocks of the layout; parameters and result as `nip.attention.dispatch.attend`.

    Result and gradients are the same bit for bit for any number of threads, which is `torch.get_num_threads`.

    Notes
    -----
    Time O(attended blocks · b² · head_dim). Memory beside inputs and results: O(attended blocks), some KiB for each
    thread, and a copy of rows that are far longer than the others. A last dimension that is not contiguous is copied,
    and so is everything if head_dim is no multiple of 16.
    """
    indptr, indices = _tables(layout)
    masks = options.key_padding_mask, options.segment_ids
    inputs = q, k, v, indptr, indices, *masks, layout.block_size, layout.causal, options.scale
    out, lse = _Attend.apply(*inputs)  # type: ignore[no-untyped-call]
    return out, lse if options.return_lse else None


def _tables(layout: BlockLayout) -> tuple[Tensor, Tensor]:
    # Anew for every call, in microseconds: if torch.export saw them first, kept ones would have no values.
    return torch.tensor(layout.indptr, dtype=torch.int32), torch.tensor(layout.indices, dtype=torch.int32)


@torch.library.custom_op("nip::attend_blocks", mutates_args=(), device_types="cpu")
def attend_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    indptr: Tensor,
    indices: Tensor,
    key_padding_mask: Tensor | None,
    segment_ids: Tensor | None,
    block_size: int,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The operator behind `attend_native`: (out, log-sum-exp), contiguous."""
    ids = _ids(q, key_padding_mask, segment_ids)
    width = q.shape[-1]
    q, k, v = (_rows(x) for x in (q, k, v))
    out, lse = q.new_empty(q.shape), q.new_empty(q.shape[:-1])
    tensors = {"q": q, "k": k, "v": v, "out": out, "lse": lse}
    _call("nip_attention_forward", tensors, indptr, indices, ids, block_size, causal, scale)
    return _cut(out, width), lse


@torch.library.custom_op("nip::attend_blocks_backward", mutates_args=(), device_types="cpu")
def attend_blocks_backward(
    dout: Tensor,
    dlse: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    indptr: Tensor,
    indices: Tensor,
    key_padding_mask: Tensor | None,
    segment_ids: Tensor | None,
    block_size: int,
    causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """(dq, dk, dv), contiguous."""
    ids = _ids(q, key_padding_mask, segment_ids)
    width = q.shape[-1]
    q, k, v, dout = (_rows(x) for x in (q, k, v, dout))
    out = _rows(out).contiguous()
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    tensors = {"q": q, "k": k, "v": v, "dout": dout, "out": out, "lse": lse.contiguous(), "dq": dq, "dk": dk, "dv": dv}
    if dlse is not None:
        tensors["dlse"] = dlse.contiguous()
    _call("nip_attention_backward", tensors, indptr, indices, ids, block_size, causal, scale)
    return _cut(dq, width), _cut(dk, width), _cut(dv, width)


def _ids(q: Tensor, key_padding_mask: Tensor | None, segment_ids: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """(batch, tokens) int32 of the queries and of the keys: a pair counts if they are equal."""
    if segment_ids is not None:
        of_queries = torch.unique(segment_ids, return_inverse=True)[1].to(torch.int32)
    elif key_padding_mask is not None:
        of_queries = torch.zeros(key_padding_mask.shape, dtype=torch.int32)
    else:
        return None
    of_keys = of_queries if key_padding_mask is None else of_queries.where(key_padding_mask, -1)
    return of_queries.contiguous(), of_keys.to(torch.int32).contiguous()


def _rows(x: Tensor) -> Tensor:
    """The kernel wants head_dim contiguous and a multiple of 16: zeros change neither scores nor results."""
    if x.shape[-1] % 16:
        return pad(x, (0, -x.shape[-1] % 16)).contiguous()
    return x if x.stride(-1) == 1 else x.contiguous()


def _cut(x: Tensor, width: int) -> Tensor:
    return x if x.shape[-1] == width else x[..., :width].contiguous()


def _call(
    function: str,
    tensors: dict[str, Tensor],
    indptr: Tensor,
    indices: Tensor,
    ids: tuple[Tensor, Tensor] | None,
    block_size: int,
    causal: bool,
    scale: float,
) -> None:
    _, library, reason = _library()
    if library is None:
        raise RuntimeError(f"The attention backend 'native' is not available: {reason}.")
    q, k = tensors["q"], tensors["k"]
    problem = _Problem(
        *q.shape[:2], k.shape[1], *q.shape[2:], block_size, len(indptr) - 1, torch.get_num_threads(),
        scale=scale, causal=causal, indptr=indptr.data_ptr(), indices=indices.data_ptr(),
    )  # fmt: skip
    for name, tensor in tensors.items():
        setattr(problem, name, tensor.data_ptr())
        if name in {"q", "k", "v", "dout"}:
            setattr(problem, f"{name}_stride", (ctypes.c_int64 * 3)(*tensor.stride()[:3]))
    if ids is not None:
        problem.query_ids, problem.key_ids = ids[0].data_ptr(), ids[1].data_ptr()
    if getattr(library, function)(ctypes.byref(problem)):
        raise MemoryError("The attention backend 'native' found too little memory.")


@attend_blocks.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:-1])


@attend_blocks_backward.register_fake
def _(dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, indptr, indices, key_padding_mask, segment_ids, *ctx.numbers = inputs
    ctx.save_for_backward(q, k, v, *output, indptr, indices, key_padding_mask, segment_ids)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, out, lse, *tables = ctx.saved_tensors
    if dout is None:
        dout = torch.zeros_like(out)
    gradients = attend_blocks_backward(dout, dlse, q, k, v, out, lse, *tables, *ctx.numbers)
    return *gradients, *[None] * 7


class _Attend(torch.autograd.Function):
    """The operator with its derivative as `torch.func` takes it.

    With the one registered below alone, torch refuses `torch.func.grad` and gives zeros for forward-mode derivatives.
    """

    generate_vmap_rule = True
    setup_context = staticmethod(_setup_context)

    @staticmethod
    def forward(*inputs: Any) -> Any:
        return attend_blocks(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _backward(ctx, *gradients)


_register: Callable[..., None] = attend_blocks.register_autograd
_register(_backward, setup_context=_setup_context)
