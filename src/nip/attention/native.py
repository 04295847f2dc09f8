"""The C++ kernel (``csrc/``): block-sparse attention on a CPU, forward and backward, in float32 and bfloat16.

The library has a C interface and is loaded with ctypes, so it is independent of the version of torch. There is a build
for each instruction set; the best one that the CPU supports is loaded on first use. ``NIP_NATIVE_ISA`` selects another.
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
from torch.nn.functional import pad

from nip.attention import memory
from nip.attention.arguments import Options
from nip.attention.derivatives import not_differentiable_again
from nip.attention.layout import BlockLayout
from nip.processor import processor_flags

FLAGS = {
    "avx512bf16": {"avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_bf16", "fma"},
    "avx512": {"avx512f", "avx512dq", "avx512bw", "avx512vl", "fma"},
    "avx2": {"avx2", "fma"},
    "portable": set[str](),
}
"""Builds, best first, and the CPU flags (as in /proc/cpuinfo) that each needs."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

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
        ("seed", ctypes.c_uint64),
        *((name, ctypes.c_float) for name in ("scale", "growth")),
        ("dropped", ctypes.c_uint32),
        *((name, ctypes.c_int32) for name in ("causal", "bf16")),
    )


def instruction_sets() -> list[str]:
    """Installed builds that this CPU can run, best first."""
    found = processor_flags()
    return [isa for isa, needed in FLAGS.items() if needed <= found and _path(isa) is not None]


def _path(isa: str) -> Path | None:
    return next(iter(sorted(Path(__file__).parent.glob(f"_native_{isa}.*"))), None)


@lru_cache(maxsize=1)
def _library() -> tuple[str, ctypes.CDLL | None, str | None]:
    """The instruction set and its library, or why there is none."""
    if sys.platform != "linux":
        return "", None, f"it is compiled on Linux only, and this is {sys.platform}"
    wanted = os.environ.get("NIP_NATIVE_ISA")
    installed = [isa for isa in FLAGS if _path(isa) is not None]
    if not installed:
        return "", None, f"it was not compiled when nip was installed; to compile it: {BUILD}"
    usable = instruction_sets()
    if wanted is not None and wanted not in usable:
        return "", None, f"NIP_NATIVE_ISA is {wanted!r}, and this machine supports {', '.join(usable) or 'none'}"
    if not usable:
        return "", None, f"only {', '.join(installed)} was compiled, which this {platform.machine()} lacks; {BUILD}"
    isa = wanted or usable[0]
    path = _path(isa)
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return "", None, f"{path} cannot be loaded ({error}); to rebuild it: {BUILD}"
    for function in (library.nip_attention_forward, library.nip_attention_backward):
        function.argtypes, function.restype = (ctypes.POINTER(_Problem),), ctypes.c_int
    return isa, library, None


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def missing() -> str | None:
    """Why the kernel cannot run on this machine, and the command to build it; None if it can."""
    return _library()[2]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def instruction_set() -> str:
    """The build of the kernel that is loaded, a key of `FLAGS`; empty if there is none."""
    return _library()[0]


def build() -> str:
    """The build of the kernel that is loaded, to be appended to the backend's description."""
    return f", here for {instruction_set()}"


def refuses(q: Tensor, options: Options) -> str | None:
    """Why the kernel cannot compute this call; None if it can."""
    if q.device.type != "cpu":
        return f"it runs on a CPU only, not on {q.device.type}"
    if q.dtype not in DTYPES:
        return f"it does not support {str(q.dtype).removeprefix('torch.')}"
    if options.bias is not None:
        return "it does not support a bias"
    return None


def attend_native(
    q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, options: Options
) -> tuple[Tensor, Tensor | None]:
    """Softmax attention over the blocks of the layout.

    Result and gradients are bit-identical for any number of threads, which is `torch.get_num_threads`. The pairs that
    dropout drops are a function of a seed, drawn from torch's generator, and of the pair of tokens.

    Parameters
    ----------
    q, k, v, layout, options
        As for `nip.attention.reference.attend_reference`.

    Returns
    -------
    out, lse
        As for `nip.attention.reference.attend_reference`.

    Notes
    -----
    Time O(attended blocks · b² · head_dim). Memory in addition to inputs and results: O(attended blocks), some KiB for
    each thread, and a copy of rows that are far longer than the others. Inputs are copied if their last dimension is
    not contiguous or head_dim is not a multiple of 16. The build "avx512bf16" multiplies bfloat16 directly and
    accumulates in float32 (including the gradient of the queries, which each thread stores for its head); elsewhere,
    and for float16 everywhere, the computation is in float32.
    """
    indptr, indices = _tables(layout)
    masks = options.key_padding_mask, options.segment_ids
    seed = torch.randint(2**63 - 1, (), device="cpu") if options.dropout_p > 0 else None
    numbers = layout.block_size, layout.causal, options.scale, options.dropout_p
    inputs = q, k, v, indptr, indices, *masks, seed, *numbers
    out, lse = _Attend.apply(*inputs)  # type: ignore[no-untyped-call]
    return out, lse if options.return_lse else None


def _tables(layout: BlockLayout) -> tuple[Tensor, Tensor]:
    # Not cached (it takes microseconds): tensors first created under torch.export would have no values.
    # On the CPU whatever torch's default device is.
    return tuple(torch.as_tensor(x.astype("int32"), device="cpu") for x in (layout.indptr, layout.indices))  # type: ignore[return-value]


@torch.library.custom_op("nip::attend_blocks", mutates_args=(), device_types="cpu")
def attend_blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    indptr: Tensor,
    indices: Tensor,
    key_padding_mask: Tensor | None,
    segment_ids: Tensor | None,
    seed: Tensor | None,
    block_size: int,
    causal: bool,
    scale: float,
    dropout_p: float,
) -> tuple[Tensor, Tensor]:
    """The torch operator of `attend_native`.

    Parameters
    ----------
    q : Tensor of shape (batch, heads, tokens, head_dim)
    k, v : Tensor of shape (batch, kv_heads, tokens, head_dim)
    indptr, indices : int32 Tensor
        The rows of the layout.
    key_padding_mask, segment_ids : Tensor of shape (batch, tokens), optional
    seed : int64 Tensor of shape (), optional
        The seed of dropout.
    block_size : int
    causal : bool
    scale, dropout_p : float

    Returns
    -------
    out, lse : Tensor
        As for `nip.attention.reference.attend_reference`, contiguous.
    """
    dtype, width = q.dtype, q.shape[-1]
    q, k, v = (_rows(x) for x in (q, k, v))
    out, lse = memory.empty(q.shape, q.dtype), q.new_empty(q.shape[:-1], dtype=torch.float32)
    tensors = {"q": q, "k": k, "v": v, "out": out, "lse": lse}
    problem = _problem(q, k, indptr, indices, seed, block_size, causal, scale, dropout_p)
    _run("nip_attention_forward", problem, tensors, _ids(key_padding_mask, segment_ids))
    return _as_given(out, width, dtype), lse


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
    seed: Tensor | None,
    block_size: int,
    causal: bool,
    scale: float,
    dropout_p: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The backward pass of `attend_blocks`.

    Parameters
    ----------
    dout, dlse : Tensor
        Gradients of `out` and `lse`; dlse is optional.
    out, lse : Tensor
        The results of `attend_blocks`.
    q, k, v, indptr, indices, key_padding_mask, segment_ids, seed, block_size, causal, scale, dropout_p
        As for `attend_blocks`.

    Returns
    -------
    dq, dk, dv : Tensor
        Contiguous, of the shapes of q, k and v.
    """
    dtype, width = q.dtype, q.shape[-1]
    q, k, v, dout = (_rows(x) for x in (q, k, v, dout))
    results = {f"d{name}": memory.empty(x.shape, x.dtype) for name, x in (("q", q), ("k", k), ("v", v))}
    tensors = {"q": q, "k": k, "v": v, "dout": dout, "out": _rows(out).contiguous(), "lse": lse.contiguous()} | results
    if dlse is not None:
        tensors["dlse"] = dlse.contiguous()
    problem = _problem(q, k, indptr, indices, seed, block_size, causal, scale, dropout_p)
    _run("nip_attention_backward", problem, tensors, _ids(key_padding_mask, segment_ids))
    dq, dk, dv = (_as_given(x, width, dtype) for x in results.values())
    return dq, dk, dv


def _ids(key_padding_mask: Tensor | None, segment_ids: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """(batch, tokens) int32 ids of the queries and of the keys: a pair is allowed if they are equal."""
    if segment_ids is not None:
        of_queries = torch.unique(segment_ids, return_inverse=True)[1].to(torch.int32)
    elif key_padding_mask is not None:
        of_queries = torch.zeros(key_padding_mask.shape, dtype=torch.int32, device="cpu")
    else:
        return None
    of_keys = of_queries if key_padding_mask is None else of_queries.where(key_padding_mask, -1)
    return of_queries.contiguous(), of_keys.to(torch.int32).contiguous()


def _rows(x: Tensor) -> Tensor:
    """Make head_dim contiguous and, with zeros, a multiple of 16, as the kernel needs; the results do not change."""
    computed = x.dtype if x.dtype == torch.bfloat16 and instruction_set() == "avx512bf16" else torch.float32
    if x.shape[-1] % 16:
        x = pad(x, (0, -x.shape[-1] % 16))
    x = x.to(computed)
    in_words = computed == torch.float32 or not any(stride % 2 for stride in x.stride()[:3])
    return x if x.stride(-1) == 1 and in_words else x.contiguous()


def _as_given(x: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    return (x if x.shape[-1] == width else x[..., :width].contiguous()).to(dtype)


def _problem(
    q: Tensor,
    k: Tensor,
    indptr: Tensor,
    indices: Tensor,
    seed: Tensor | None,
    block_size: int,
    causal: bool,
    scale: float,
    dropout_p: float,
) -> _Problem:
    return _Problem(
        *q.shape[:2], k.shape[1], *q.shape[2:], block_size, len(indptr) - 1, torch.get_num_threads(),
        indptr=indptr.data_ptr(), indices=indices.data_ptr(),
        seed=0 if seed is None else int(seed), growth=1 / (1 - dropout_p),
        dropped=min(round(dropout_p * 2**32), 2**32 - 1),
        scale=scale, causal=causal, bf16=q.dtype == torch.bfloat16,
    )  # fmt: skip


def _run(function: str, problem: _Problem, tensors: dict[str, Tensor], ids: tuple[Tensor, Tensor] | None) -> None:
    _, library, reason = _library()
    if library is None:
        raise RuntimeError(f"The attention backend 'native' is not available: {reason}.")
    for name, tensor in tensors.items():
        setattr(problem, name, tensor.data_ptr())
        if name in {"q", "k", "v", "dout"}:
            setattr(problem, f"{name}_stride", (ctypes.c_int64 * 3)(*tensor.stride()[:3]))
    if ids is not None:
        problem.query_ids, problem.key_ids = ids[0].data_ptr(), ids[1].data_ptr()
    if getattr(library, function)(ctypes.byref(problem)):
        raise MemoryError("The attention backend 'native' ran out of memory.")


@attend_blocks.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:-1], dtype=torch.float32)


@attend_blocks_backward.register_fake
def _(dout: Tensor, dlse: Tensor | None, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, indptr, indices, key_padding_mask, segment_ids, seed, *ctx.numbers = inputs
    ctx.save_for_backward(q, k, v, *output, indptr, indices, key_padding_mask, segment_ids, seed)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, out, lse, *tables = ctx.saved_tensors  # read once: under checkpointing a second time is an error
    given = q, k, v, dout, dlse
    if dout is None:
        dout = torch.zeros_like(out)
    with torch.no_grad():
        gradients = attend_blocks_backward(dout, dlse, q, k, v, out, lse, *tables, *ctx.numbers)
    return *not_differentiable_again("native", gradients, given), *[None] * 9


class _Attend(torch.autograd.Function):
    """The operator with its derivative in the form that `torch.func` needs.

    With only the registration below, torch rejects `torch.func.grad` and returns zeros for forward-mode derivatives.
    """

    generate_vmap_rule = True
    setup_context = staticmethod(_setup_context)

    @staticmethod
    def forward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        indptr: Tensor,
        indices: Tensor,
        key_padding_mask: Tensor | None,
        segment_ids: Tensor | None,
        seed: Tensor | None,
        block_size: int,
        causal: bool,
        scale: float,
        dropout_p: float,
    ) -> Any:
        # Named one by one: where nothing needs a gradient, torch.compile takes forward for one that has a context if it
        # has not as many parameters as it is passed arguments.
        return attend_blocks(
            q, k, v, indptr, indices, key_padding_mask, segment_ids, seed, block_size, causal, scale, dropout_p
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _backward(ctx, *gradients)


_register: Callable[..., None] = attend_blocks.register_autograd
_register(_backward, setup_context=_setup_context)
