"""`attend`: checks the arguments of attention and selects the backend."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, overload

import torch
from torch import Tensor

from nip.attention import flex, native
from nip.attention.arguments import Options, check_arguments, check_tensors
from nip.attention.dense import attend_dense
from nip.attention.derivatives import first_derivatives_only
from nip.attention.gather import attend_gather
from nip.attention.layout import BlockLayout, block_layout, layout_of
from nip.attention.reference import attend_reference
from nip.attention.tiles import tiling
from nip.graphs import Pattern
from nip.graphs.pattern import pattern_of

Run = Callable[[Tensor, Tensor, Tensor, BlockLayout, Options], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class Backend:
    """A backend of `attend`, and whether it is available on this machine."""

    name: str
    available: bool
    reason: str
    """What it computes, or why it is not available."""


@dataclass(frozen=True)
class Implementation:
    """The functions that implement a backend."""

    run: Run
    purpose: str
    missing: Callable[[], str | None] = lambda: None
    """Why it cannot run on this machine; None if it can."""
    refuses: Callable[[Tensor, Options], str | None] = lambda q, options: None
    """Why it cannot compute this call; None if it can."""
    build: Callable[[], str] = lambda: ""
    """Details of the installed build, appended to the purpose."""


def _dense_refuses(q: Tensor, options: Options) -> str | None:
    if options.return_lse:
        return "torch's attention does not return the log-sum-exp"
    if options.bias is not None:
        return "torch's attention is undefined for rows in which the bias masks every key"
    return None


# The grouping of rows depends on the values of the masks, so torch.compile breaks the graph here.
_gather: Run = torch.compiler.disable(attend_gather)  # type: ignore[no-untyped-call]

BACKENDS: dict[str, Implementation] = {
    "native": Implementation(
        native.attend_native, "compiled CPU kernel, float32 and below", native.missing, native.refuses, native.build
    ),
    "flex": Implementation(
        flex.attend_flex, "torch's FlexAttention, tiles of 128 tokens", flex.missing, flex.refuses, flex.build
    ),
    "gather": Implementation(_gather, "plain torch on any device, attended blocks only"),
    "dense": Implementation(attend_dense, "torch's dense attention with the pattern as a mask", refuses=_dense_refuses),
    "reference": Implementation(attend_reference, "all scores materialized: the oracle of the others"),
}
"""In the order in which ``backend="auto"`` prefers them for a sparse pattern."""


def backends() -> list[Backend]:
    """List all backends, with whether each is available on this machine and why.

    Examples
    --------
    >>> [backend.name for backend in backends()]
    ['native', 'flex', 'gather', 'dense', 'reference']
    """
    missing = {name: implementation.missing() for name, implementation in BACKENDS.items()}
    return [
        Backend(name, missing[name] is None, missing[name] or implementation.purpose + implementation.build())
        for name, implementation in BACKENDS.items()
    ]


@overload
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    block_size: int = ...,
    key_padding_mask: Tensor | None = ...,
    segment_ids: Tensor | None = ...,
    bias: Tensor | None = ...,
    causal: bool = ...,
    scale: float | None = ...,
    dropout_p: float = ...,
    return_lse: Literal[False] = ...,
    backend: str = ...,
) -> Tensor: ...
@overload
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    block_size: int = ...,
    key_padding_mask: Tensor | None = ...,
    segment_ids: Tensor | None = ...,
    bias: Tensor | None = ...,
    causal: bool = ...,
    scale: float | None = ...,
    dropout_p: float = ...,
    *,
    return_lse: Literal[True],
    backend: str = ...,
) -> tuple[Tensor, Tensor]: ...
def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    block_size: int = 16,
    key_padding_mask: Tensor | None = None,
    segment_ids: Tensor | None = None,
    bias: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout_p: float = 0.0,
    return_lse: bool = False,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax attention in which each block of tokens attends to its neighbours in the pattern and to itself.

    A query with no allowed key (all are padding or belong to other documents) gets zeros and no gradient. A padding
    query still attends to the real keys of its row, as in torch; ignore its result.

    Under autocast q, k and v are cast to its dtype, as in torch's own attention; float64 is kept.

    Parameters
    ----------
    q : Tensor of shape (batch, heads, tokens, head_dim)
        Queries: float16, bfloat16, float32 or float64; softmax is always computed in float32 or better.
    k, v : Tensor of shape (batch, kv_heads, tokens, head_dim)
        Keys and values, of the same dtype and device. ``kv_heads`` divides ``heads``: query head h reads
        h // (heads / kv_heads) (grouped-query attention).
    pattern : Pattern
        A graph on ⌈tokens / block_size⌉ vertices.
    block_size : int, default=16
        Tokens per block; the last block may be shorter.
    key_padding_mask : bool Tensor of shape (batch, tokens), optional
        True where a token is real. Only real tokens are attended to.
    segment_ids : integer Tensor of shape (batch, tokens), optional
        Packed documents: tokens attend only to tokens with the same id.
    bias : Tensor of shape (1 or batch, heads, tokens, tokens), optional
        Added to the scaled scores; only its attended blocks are read and get a gradient.
    causal : bool, default=False
        Attend to the token itself and earlier tokens only. A causal pattern implies it.
    scale : float, optional
        Scores are ``scale · q kᵀ``; default: 1 / √head_dim.
    dropout_p : float in [0, 1), default=0.0
        Dropout probability on the attention probabilities, drawn from torch's generator (`torch.manual_seed`). Pass 0
        in evaluation: attention does not know the model's mode.
    return_lse : bool, default=False
        Also return the natural log-sum-exp of each query's scores.
    backend : str, default="auto"
        A name from `backends`, or "auto": the fastest for this input on this machine. All compute the same pattern;
        `explain` returns the backend that "auto" selects and why.

    Returns
    -------
    Tensor of shape (batch, heads, tokens, head_dim)
        With ``return_lse`` also a Tensor of shape (batch, heads, tokens), −inf for queries with no allowed key;
        float32 for half-precision inputs.

    Raises
    ------
    ValueError
        If shapes, dtypes or devices do not match each other or the pattern, the backend is unknown, not available or
        does not support the arguments.
    TypeError
        If q, k or v is not a dense tensor, or `scale` or `dropout_p` is one.
    NotImplementedError
        In a second derivative or in forward mode, if the backend is not "reference".

    Examples
    --------
    >>> import torch
    >>> from nip.graphs import hypercube
    >>> q, k, v = torch.randn(3, 1, 4, 100, 32).unbind()
    >>> attend(q, k, v, hypercube(7), block_size=16).shape
    torch.Size([1, 4, 100, 32])

    References
    ----------
    .. [1] What Dense Graph Do You Need for Self-Attention?, arXiv 2205.14014, section 4.
    """
    check_tensors(q, k, v)
    q, k, v = _as_autocast(q, k, v)
    options = check_arguments(q, k, v, key_padding_mask, segment_ids, bias, scale, dropout_p, return_lse)
    _check_pattern(pattern)
    # A pattern has a fixed length: operator.index makes torch.compile specialize on the number of tokens.
    layout = _layout(operator.index(pattern.key), block_size, operator.index(q.shape[2]), causal)
    name = _choose(q, layout, options, backend)[0]
    if q.shape[0] == 0 or q.device.type == "meta":
        out, lse = _shapes_only(q, k, v, options)
    else:
        if _differentiates_once(name, q, options):
            q, k, v = first_derivatives_only(name, q, k, v)
        out, lse = BACKENDS[name].run(q, k, v, layout, options)
    if lse is not None:
        return out, lse
    return out


def _check_pattern(pattern: object) -> None:
    if not isinstance(pattern, Pattern):
        raise ValueError(
            "The 'pattern' parameter of attend must be a nip.Pattern; nip.graphs.from_mask makes one of a mask of "
            f"blocks. Got {pattern if isinstance(pattern, str) else type(pattern).__name__!r} instead."
        )


def _shapes_only(q: Tensor, k: Tensor, v: Tensor, options: Options) -> tuple[Tensor, Tensor | None]:
    """The results for no sequences, or without values (device "meta"): their shapes, dtypes and graph of gradients."""
    bias = 0.0 if options.bias is None else options.bias.sum().to(q.dtype)
    out = q + (k.sum() + v.sum() + bias) * 0.0
    return out, out.sum(-1).to(torch.promote_types(q.dtype, torch.float32)) if options.return_lse else None


def _differentiates_once(name: str, q: Tensor, options: Options) -> bool:
    """Whether derivatives of the call other than first ones by reverse mode must be refused."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return False
    # torch's fused kernel, which it uses without dropout on a CPU
    return name in ("native", "gather", "flex") or (
        name == "dense" and q.device.type == "cpu" and not options.dropout_p
    )


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _layout(key: int, block_size: int, n_tokens: int, causal: bool) -> BlockLayout:
    return block_layout(pattern_of(key), block_size, n_tokens, is_causal=causal)


@dataclass(frozen=True)
class Choice:
    """The backend that computes a call, and why."""

    backend: str
    reason: str

    def __str__(self) -> str:
        return f"{self.backend}: {self.reason}"


def explain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    pattern: Pattern,
    block_size: int = 16,
    key_padding_mask: Tensor | None = None,
    segment_ids: Tensor | None = None,
    bias: Tensor | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout_p: float = 0.0,
    return_lse: bool = False,
    backend: str = "auto",
) -> Choice:
    """Return the backend that `attend` selects for the same arguments, and why, without computing anything.

    Parameters
    ----------
    q, k, v, pattern, block_size, key_padding_mask, segment_ids, bias, causal, scale, dropout_p, return_lse, backend
        As for `attend`.

    Returns
    -------
    Choice

    Raises
    ------
    ValueError
        As for `attend`.

    Examples
    --------
    >>> import torch
    >>> from nip.graphs import complete, hypercube
    >>> q, k, v = torch.empty(3, 1, 4, 2048, 32, dtype=torch.float64).unbind()
    >>> explain(q, k, v, hypercube(128)).backend, explain(q, k, v, complete(128)).backend
    ('gather', 'dense')
    """
    check_tensors(q, k, v)
    q, k, v = _as_autocast(q, k, v)
    options = check_arguments(q, k, v, key_padding_mask, segment_ids, bias, scale, dropout_p, return_lse)
    _check_pattern(pattern)
    layout = block_layout(pattern, block_size, q.shape[2], is_causal=causal)
    name, why = _choose(q, layout, options, backend)
    return Choice(name, why(q, layout, options))


Reason = Callable[[Tensor, BlockLayout, Options], str]


def _choose(q: Tensor, layout: BlockLayout, options: Options, backend: str) -> tuple[str, Reason]:
    """The backend's name and a function that words the reason, called only by `explain`: torch.compile traces this."""
    if backend != "auto":
        _check_backend(q, options, backend)
        return backend, _by_name
    can_be_dense = _dense_refuses(q, options) is None
    if can_be_dense and torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():
        return "dense", _dense_for_onnx
    if q.device.type == "cuda" and flex.refuses(q, options) is None:
        if can_be_dense and _dense_on_a_gpu(layout, options):
            return "dense", _dense_in_tiles
        return "flex", _flex_pays
    sparse = "gather" if native.missing() or native.refuses(q, options) else "native"
    if not _dense_is_faster(q, layout, options, sparse):
        return sparse, _sparse_pays
    if can_be_dense:
        return "dense", _dense_pays
    return sparse, _dense_cannot


def _by_name(q: Tensor, layout: BlockLayout, options: Options) -> str:
    return "requested by name"


def _attended(layout: BlockLayout) -> str:
    return f"{layout.density:.0%} of {layout.n} × {layout.n} blocks are attended to"


def _sparse_pays(q: Tensor, layout: BlockLayout, options: Options) -> str:
    return f"{_attended(layout)}, and skipping the others is faster"


def _dense_pays(q: Tensor, layout: BlockLayout, options: Options) -> str:
    return f"{_attended(layout)} by {_rows(q)} rows: skipping the others costs more than it saves"


def _dense_for_onnx(q: Tensor, layout: BlockLayout, options: Options) -> str:
    return "ONNX has operators for dense attention with a mask only"


def _dense_cannot(q: Tensor, layout: BlockLayout, options: Options) -> str:
    return f"{_attended(layout)}; dense attention would be faster, but {_dense_refuses(q, options)}"


def _in_tiles(layout: BlockLayout) -> str:
    tiles = tiling(layout)
    return f"{_attended(layout)}, {tiles.density:.0%} of {tiles.n} × {tiles.n} tiles of 128 tokens"


def _flex_pays(q: Tensor, layout: BlockLayout, options: Options) -> str:
    return f"{_in_tiles(layout)}, and a GPU skips the others (heuristic, not measured)"


def _dense_in_tiles(q: Tensor, layout: BlockLayout, options: Options) -> str:
    return f"{_in_tiles(layout)}: too dense or too short to skip the others (heuristic, not measured)"


# A conservative heuristic, not measured. FlexAttention is known to be slower than dense attention below about a
# thousand tokens, its masked tiles may cost twice a dense one's, and a mask for dense attention takes tokens² bytes.
_GPU_TOKENS_FLEX = 1024
_GPU_COST_OF_A_TILE = 2.0
_GPU_TOKENS_MASKED = 4096


def _dense_on_a_gpu(layout: BlockLayout, options: Options) -> bool:
    needs_mask = (
        not layout.complete
        or options.segment_ids is not None
        or (layout.causal and options.key_padding_mask is not None)
    )
    if layout.n_tokens < _GPU_TOKENS_FLEX or not needs_mask:
        return True
    return layout.n_tokens <= _GPU_TOKENS_MASKED and _GPU_COST_OF_A_TILE * _tile_density(layout.key) >= 1


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _tile_density(key: int) -> float:
    return tiling(layout_of(key)).density


def _rows(q: Tensor) -> int:
    return q.shape[0] * q.shape[1] * q.shape[2]


# Measured for forward and backward together with head_dim 32 and 64 on two cores with AVX-512; only the ratios matter.
_NS_PER_PAIR_DENSE = 4.5
_NS_PER_PAIR_DENSE_DROPOUT = 13.0  # torch then materializes all scores
_NS_PER_PAIR = {"gather": 10.0, "native": 3.5, "portable": 11.0}
_NS_PER_CALL = {"gather": 1.2e6, "native": 2e5, "portable": 2e5}


def _dense_is_faster(q: Tensor, layout: BlockLayout, options: Options, sparse: str) -> bool:
    per_pair = _NS_PER_PAIR_DENSE_DROPOUT if options.dropout_p > 0 else _NS_PER_PAIR_DENSE
    if sparse == "native" and native.instruction_set() == "portable":
        sparse = "portable"
    saved = per_pair - _NS_PER_PAIR[sparse] * layout.density
    # A single comparison of the number of rows, which torch.compile may treat as dynamic.
    return saved * layout.n_tokens * _rows(q) < _NS_PER_CALL[sparse]


def _check_backend(q: Tensor, options: Options, backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"There is no attention backend {backend!r}. The backends are auto, {', '.join(BACKENDS)}.")
    missing = BACKENDS[backend].missing()
    if missing is not None:
        raise ValueError(f"The attention backend {backend!r} is not available: {missing}.")
    refusal = BACKENDS[backend].refuses(q, options)
    if refusal is not None:
        raise ValueError(f"The attention backend {backend!r} cannot compute this: {refusal}. Use backend='auto'.")


def _as_autocast(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Cast to the autocast dtype, as in torch's own attention: all but float64."""
    device = tensors[0].device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(x.to(dtype) if x.is_floating_point() and x.dtype != torch.float64 else x for x in tensors)
