"""Sparse attention of other libraries on a CPU at the width of a case's pattern, used as documented.

`flex-window`
    `torch.nn.attention.flex_attention`, compiled, with a sliding window of the pattern's mean row width. On a CPU it
    has no backward pass.
`torch-sparse`
    The pattern itself with `torch.sparse`, one head at a time: `sampled_addmm`, `torch.sparse.softmax`, and a product
    with the values. On a CPU `sampled_addmm` supports CSR but not BSR (blocks), softmax needs COO; both share their
    values here without a conversion. The gradient of a product with a sparse matrix is dense: only the forward pass.
`hf-longformer`, `hf-bigbird`
    Self-attention modules of Hugging Face's transformers with random weights, hidden size heads · head_dim: their
    projections to queries, keys and values are timed too. Longformer's window is the power of two nearest to the
    pattern's mean row; BigBird has two global and three neighbouring blocks, and random blocks up to the width of the
    mean row. In evaluation mode, as here, BigBird uses its first block for each random one, which saves the draws; in
    transformers 5 it always materializes all probabilities, tokens × tokens.
`nip-module`
    The counterpart of these two: the same three projections and `nip.attend` over the pattern.
"""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nip.attention import attend
from nip.bench.problem import Problem, heads_of, random_tensors
from nip.bench.rows import Case


@dataclass(frozen=True)
class Peer:
    """An implementation of sparse attention in another library."""

    prepare: Callable[[Case], Problem]
    refuses: Callable[[Case, str], str | None]
    """Why it cannot compute that pass of that case on this machine; None if it can."""
    density: Callable[[Case], float | None]
    """Attended pairs over all pairs; None if more than attention is timed."""


def prepare(name: str, case: Case) -> Problem:
    """Return the peer's forward pass on random inputs, with random weights if it has any, from a fixed seed."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(0)
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta", UserWarning)
        return PEERS[name].prepare(case)


def window(case: Case) -> int:
    """Number of keys on either side of a query for a row of about the pattern's mean width."""
    return min(case.n_tokens - 1, round(case.density * case.n_tokens) // 2)


def _window_density(case: Case) -> float:
    n, w = case.n_tokens, window(case)
    return (n * (2 * w + 1) - w * (w + 1)) / n**2


def _flex_window(case: Case) -> Problem:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    w = window(case)
    q, k, v = heads_of(case)
    # compiled too, so that the mask of tokens² is never materialized
    mask = create_block_mask(
        lambda b, h, i, j: (i - j).abs() <= w, None, None, case.n_tokens, case.n_tokens, "cpu", _compile=True
    )
    torch.compiler.reset()  # after several shapes torch would stop compiling and materialize all scores
    compiled: Any = torch.compile(flex_attention, dynamic=False)
    return Problem(lambda: compiled(q, k, v, block_mask=mask), (q, k, v))


def _flex_refuses(case: Case, direction: str) -> str | None:
    if direction != "forward":
        return "it has no backward pass on a CPU"
    if case.dtype == "float64":
        return "it does not support float64 on a CPU"
    compiler = os.environ.get("CXX") or "g++"
    return None if shutil.which(compiler) else f"it needs a C++ compiler, and {compiler} is not installed"


def _torch_sparse(case: Case) -> Problem:
    q, k, v = heads_of(case)
    n, scale = case.n_tokens, case.head_dim**-0.5
    rows, columns = _token_pairs(case)
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))])
    crow, column = torch.from_numpy(starts), torch.from_numpy(columns)
    both = torch.stack([torch.from_numpy(rows), column])
    ones = torch.ones(len(columns), dtype=q.dtype, device="cpu")
    mask = torch.sparse_csr_tensor(crow, column, ones, (n, n), check_invariants=False, device="cpu")

    def one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = torch.sparse.sampled_addmm(mask, q, k.T, beta=0.0, alpha=scale)
        listed = torch.sparse_coo_tensor(
            both, scores.values(), (n, n), is_coalesced=True, check_invariants=False, device="cpu"
        )
        shares = torch.sparse.softmax(listed, 1).values()
        return torch.sparse_csr_tensor(crow, column, shares, (n, n), check_invariants=False, device="cpu") @ v

    def forward() -> Tensor:
        heads = [one(*each) for each in zip(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), strict=True)]
        return torch.stack(heads).view(q.shape)

    return Problem(forward, (q, k, v))


def _token_pairs(case: Case) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Rows and columns of all attended pairs of tokens, in CSR order."""
    graph, b, n = case.graph(), case.block_size, case.n_tokens
    own = np.arange(graph.n)
    rows = np.concatenate([graph.edge_rows, own]).astype(np.int64)
    columns = np.concatenate([graph.indices, own]).astype(np.int64)
    inside = np.arange(b)
    rows = np.broadcast_to((rows * b)[:, None, None] + inside[:, None], (len(rows), b, b)).ravel()
    columns = np.broadcast_to((columns * b)[:, None, None] + inside, (len(columns), b, b)).ravel()
    real = (rows < n) & (columns < n)
    keys = np.sort(rows[real] * n + columns[real])
    return keys // n, keys % n


def _torch_sparse_refuses(case: Case, direction: str) -> str | None:
    if direction != "forward":
        return "its backward pass materializes dense gradients"
    return None if case.dtype in {"float32", "float64"} else f"it does not support {case.dtype} on a CPU"


def _module(case: Case, module: torch.nn.Module, n: int, forward: Callable[[Tensor], Tensor]) -> Problem:
    """A module on random hidden states of n tokens, with gradients of them and of the weights that it uses."""
    (hidden,) = random_tensors(case, 1, case.batch, n, case.heads * case.head_dim)
    module.to(hidden.dtype).eval()
    weights = [w for name, w in module.named_parameters() if "_global" not in name]
    return Problem(lambda: forward(hidden), (hidden, *weights))


def _longformer_window(case: Case) -> int:
    return max(2, int(2 ** round(math.log2(case.density * case.n_tokens))))


def _longformer(case: Case) -> Problem:
    from transformers import LongformerConfig
    from transformers.models.longformer.modeling_longformer import LongformerSelfAttention

    w = _longformer_window(case)
    n = -(-case.n_tokens // w) * w  # LongformerModel pads to a multiple of the window
    make: Any = LongformerSelfAttention
    module = make(LongformerConfig(**_sizes(case), attention_window=[w]), layer_id=0)
    states = {
        "attention_mask": torch.zeros(case.batch, n, device="cpu"),
        "is_index_masked": torch.zeros(case.batch, n, dtype=torch.bool, device="cpu"),
        "is_index_global_attn": torch.zeros(case.batch, n, dtype=torch.bool, device="cpu"),
        "is_global_attn": False,
    }
    return _module(case, module, n, lambda hidden: module(hidden, **states)[0])


def _random_blocks(case: Case) -> int:
    return max(1, round(case.density * case.n_tokens / case.block_size) - 5)


def _bigbird(case: Case) -> Problem:
    from transformers import BigBirdConfig
    from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention, BigBirdModel

    b = case.block_size
    n = -(-case.n_tokens // b) * b  # BigBirdModel pads to a multiple of the block
    config = BigBirdConfig(
        **_sizes(case), block_size=b, num_random_blocks=_random_blocks(case), max_position_embeddings=max(4096, n)
    )
    make: Any = BigBirdBlockSparseAttention
    module = make(config)
    real = torch.ones(case.batch, n, dtype=getattr(torch, case.dtype), device="cpu")
    blocked, band, from_mask, to_mask = BigBirdModel.create_masks_for_block_sparse_attn(real, b)
    masks = {
        "band_mask": band,
        "from_mask": from_mask,
        "to_mask": to_mask,
        "from_blocked_mask": blocked,
        "to_blocked_mask": blocked,
    }
    return _module(case, module, n, lambda hidden: module(hidden, **masks)[0])


def _sizes(case: Case) -> dict[str, Any]:
    return {
        "hidden_size": case.heads * case.head_dim,
        "num_attention_heads": case.heads,
        "num_hidden_layers": 1,
        "attention_probs_dropout_prob": 0.0,
    }


_MOST_BYTES = 2**32


def _needs_transformers(case: Case, direction: str) -> str | None:
    return None if importlib.util.find_spec("transformers") else "it needs transformers: pip install transformers"


def _bigbird_refuses(case: Case, direction: str) -> str | None:
    probabilities = case.batch * case.heads * case.n_tokens**2 * getattr(torch, case.dtype).itemsize
    if probabilities > _MOST_BYTES:
        return f"it materializes all probabilities, {probabilities / 2**30:,.0f} GiB at {case.n_tokens:,} tokens"
    n_blocks, random = -(-case.n_tokens // case.block_size), _random_blocks(case)
    if n_blocks <= 5 + 2 * random:
        return f"with {random} random blocks it needs more than {5 + 2 * random} blocks"
    return _needs_transformers(case, direction)


class _Projected(torch.nn.Module):
    """Three projections and attention over the pattern."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        width = case.heads * case.head_dim
        self.query, self.key, self.value = (torch.nn.Linear(width, width) for _ in range(3))
        self.case, self.pattern = case, case.graph()

    def forward(self, hidden: Tensor) -> Tensor:
        shape = (*hidden.shape[:2], self.case.heads, self.case.head_dim)
        q, k, v = (linear(hidden).view(shape).transpose(1, 2) for linear in (self.query, self.key, self.value))
        return attend(q, k, v, self.pattern, self.case.block_size).transpose(1, 2).reshape(hidden.shape)


def _nip_module(case: Case) -> Problem:
    module = _Projected(case)
    return _module(case, module, case.n_tokens, module)


PEERS: dict[str, Peer] = {
    "flex-window": Peer(_flex_window, _flex_refuses, _window_density),
    "torch-sparse": Peer(_torch_sparse, _torch_sparse_refuses, lambda case: case.density),
    "hf-longformer": Peer(_longformer, _needs_transformers, lambda case: None),
    "hf-bigbird": Peer(_bigbird, _bigbird_refuses, lambda case: None),
    "nip-module": Peer(_nip_module, lambda case, direction: None, lambda case: None),
}
