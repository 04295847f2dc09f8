"""Block-sparse attention in plain torch, on any device: only attended blocks are computed or stored.

Rows that attend to the same number of blocks are computed together: their blocks of keys and values are gathered into
panels, followed by batched matrix products. Rows are processed in chunks that fit the CPU caches, in reused buffers, so
memory stays far below that of all scores; the backward pass recomputes the scores instead of storing them.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from nip.attention.arguments import Options
from nip.attention.derivatives import not_differentiable_again, refuse_mapped
from nip.attention.grouping import Mask, RowGroup, block_mask, group_rows
from nip.attention.layout import BlockLayout
from nip.attention.tables import Buffers, bias_blocks, from_bias_blocks, from_table, to_table

# Bytes of one panel of keys: a chunk should fit the CPU caches and still amortize the cost of a call; a GPU needs
# larger chunks. A row that needs more than this is a separate chunk.
PANEL_BYTES = {"cpu": 2 * 2**20, "other": 64 * 2**20}


def attend_gather(
    q: Tensor, k: Tensor, v: Tensor, layout: BlockLayout, options: Options
) -> tuple[Tensor, Tensor | None]:
    """Softmax attention over the blocks of the layout.

    Half-precision inputs are computed in float32. On a CPU the result and the gradients are bit-identical on every run
    with the same number of threads; on a GPU the gradients are if torch's deterministic algorithms are enabled.

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
    Time O(attended blocks · b² · head_dim). Memory in addition to inputs, result and gradients: O(b · (b + head_dim))
    for each attended block of one chunk of rows, which is a fixed number of bytes or one row, whichever is larger.
    """
    seed = 0
    if options.dropout_p > 0:
        # A seed from torch's generator, from which the backward pass repeats the draws of the forward pass.
        drawn = torch.randint(2**63 - 1, (), device="cpu")
        refuse_mapped("gather", "draws of dropout", drawn)
        seed = int(drawn.item())
    refuse_mapped("gather", "masks", options.key_padding_mask, options.segment_ids)
    mask = block_mask(layout, options, q.device)
    groups = group_rows(layout, options, mask, q.shape[0], q.shape[1], k.shape[1], q.device)
    call = _Call(layout, options, mask, groups, seed)
    out, lse = _Gather.apply(q, k, v, options.bias, call)  # type: ignore[no-untyped-call]
    return out, lse


@dataclass(frozen=True, eq=False)
class _Call:
    """The arguments of both passes other than tensors."""

    layout: BlockLayout
    options: Options
    mask: Mask
    groups: list[RowGroup]
    seed: int
    key: int = field(default_factory=itertools.count().__next__)
    """With which `_gather_backward`, an operator of torch, finds the call."""

    def __post_init__(self) -> None:
        _CALLS[self.key] = self


_CALLS: weakref.WeakValueDictionary[int, _Call] = weakref.WeakValueDictionary()


@torch.library.custom_op("nip::gather_backward", mutates_args=())
def _gather_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    dout: Tensor | None,
    dlse: Tensor | None,
    call: int,
    bias_needs_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The backward pass as one operator, for jacobians: it branches on values, which torch's vmap cannot trace.

    Without a gradient of the bias the last result is empty.
    """
    with torch.autocast(q.device.type, enabled=False):
        rows = _Rows(q, k, v, bias, _CALLS[call])
        dq, dk, dv, dbias = rows.backward(dout, dlse, bias_needs_grad=bias_needs_grad)
    assert dq is not None and dk is not None and dv is not None
    return dq, dk, dv, q.new_empty(0) if dbias is None else dbias


@_gather_backward.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
    pairs = list(zip(inputs, in_dims, strict=True))
    rows = [
        _gather_backward(*(x if dim is None else x.select(dim, i) for x, dim in pairs)) for i in range(info.batch_size)
    ]
    return tuple(torch.stack(x) for x in zip(*rows, strict=True)), (0, 0, 0, 0)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, call: _Call) -> Any:
        with torch.autocast(q.device.type, enabled=False):
            return _Rows(q, k, v, bias, call).forward()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        *tensors, ctx.call = inputs
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, dout: Tensor | None, dlse: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, bias = ctx.saved_tensors
        needs_bias = bool(ctx.needs_input_grad[3])
        with torch.no_grad():
            dq, dk, dv, dbias = _gather_backward(q, k, v, bias, dout, dlse, ctx.call.key, needs_bias)
        gradients = dq, dk, dv, dbias if needs_bias else None
        return *not_differentiable_again("gather", gradients, (q, k, v, bias, dout, dlse)), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> Any:
        """`torch.func.vmap` as a loop, since the groups of rows are for one batch."""
        pairs = list(zip(inputs, in_dims, strict=True))
        results = [
            _Gather.apply(*(x if dim is None else x.select(dim, i) for x, dim in pairs))  # type: ignore[no-untyped-call]
            for i in range(info.batch_size)
        ]
        stacked = tuple(None if x[0] is None else torch.stack(x) for x in zip(*results, strict=True))
        return stacked, tuple(None if x is None else 0 for x in stacked)


class _Rows:
    """One pass: its tables of blocks, its chunks of rows, and the steps that both passes share."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, call: _Call) -> None:
        self.layout, self.options, self.mask, self.groups = call.layout, call.options, call.mask, call.groups
        self.batch, self.heads, _, self.width = q.shape
        self.n, self.b = self.layout.n, self.layout.block_size
        self.input_dtype, self.dtype = q.dtype, torch.promote_types(q.dtype, torch.float32)
        self.q, self.k, self.v = (to_table(x, self.layout, self.dtype) for x in (q, k, v))
        self.bias = None if bias is None else bias_blocks(bias, self.layout)
        self.later = torch.ones(self.b, self.b, dtype=torch.bool, device=q.device).triu(1)
        self.generator = torch.Generator(q.device).manual_seed(call.seed)
        self.buffers = Buffers(self.dtype, q.device)

    def forward(self) -> tuple[Tensor, Tensor | None]:
        take, gather = self.buffers.take, self.buffers.gather
        out = self.new_rows()
        lse = self.q.new_full((len(self.q), self.b), -torch.inf) if self.options.return_lse else None
        for group, queries, keys in self.chunks():
            scores, _, _ = self.scores(group, queries, keys)
            if lse is not None:
                lse.index_copy_(0, queries, scores.logsumexp(-1))
            probabilities = self.probabilities(group, scores)
            if self.options.dropout_p > 0:
                probabilities.mul_(self.dropout_factors(probabilities))
            out_rows = take("rows", len(queries), self.b, self.width)
            torch.bmm(probabilities, gather("values", self.v, keys, self.width), out=out_rows)
            out.index_copy_(0, queries, out_rows.flatten(1))
        if lse is not None:
            lse = from_table(lse, self.layout, self.batch, 1, self.dtype).squeeze(-1)
        return from_table(out, self.layout, self.batch, self.width, self.input_dtype), lse

    def backward(
        self, grad_out: Tensor | None, grad_lse: Tensor | None, *, bias_needs_grad: bool
    ) -> tuple[Tensor | None, ...]:
        take, gather, scale = self.buffers.take, self.buffers.gather, self.options.scale
        dk, dv = torch.zeros_like(self.k), torch.zeros_like(self.v)
        dout = torch.zeros_like(self.q) if grad_out is None else to_table(grad_out, self.layout, self.dtype)
        dlse = None if grad_lse is None else to_table(grad_lse[..., None], self.layout, self.dtype)
        dbias = None
        if self.bias is not None and bias_needs_grad:
            dbias = self.q.new_zeros(self.bias.shape[:4].numel(), self.b**2)
        if self.options.dropout_p == 0:  # with dropout the chunks must repeat the draws of the forward pass
            self.skip_rows_without_gradient(dout, dlse)
        dq = self.new_rows()
        for group, queries, keys in self.chunks():
            scores, q_rows, k_panel = self.scores(group, queries, keys)
            probabilities = self.probabilities(group, scores)
            dout_rows = gather("dout", dout, queries, self.width)
            dprobabilities = take("dprobabilities", *scores.shape)
            torch.bmm(dout_rows, gather("values", self.v, keys, self.width).mT, out=dprobabilities)
            kept = probabilities
            if self.options.dropout_p > 0:
                factors = self.dropout_factors(probabilities)
                dprobabilities.mul_(factors)
                kept = factors.mul_(probabilities)
            panel = take("values", *k_panel.shape)
            dv.index_add_(0, keys.flatten(), torch.bmm(kept.mT, dout_rows, out=panel).view(-1, dv.shape[1]))

            # The gradient of softmax is P ∘ (dP − rowsum(P ∘ dP)), that of the log-sum-exp P ∘ dlse.
            dscores = torch.mul(probabilities, dprobabilities, out=scores)
            shift = dscores.sum(-1, keepdim=True)
            if dlse is not None:
                shift -= dlse[queries][..., None]
            dscores.addcmul_(probabilities, shift, value=-1)

            if dbias is not None:
                blocks = dscores.view(len(queries), self.b, -1, self.b).transpose(1, 2)
                sequence, head, i, j = self.bias_entries(queries, keys)
                entries = ((sequence * self.heads + head) * self.n + i) * self.n + j
                dbias.index_add_(0, entries.flatten(), blocks.reshape(-1, self.b**2))
            dq_rows = take("rows", *q_rows.shape).baddbmm_(dscores, k_panel, beta=0, alpha=scale)
            dq.index_copy_(0, queries, dq_rows.flatten(1))
            panel.baddbmm_(dscores.mT, q_rows, beta=0, alpha=scale)
            dk.index_add_(0, keys.flatten(), panel.view(-1, dk.shape[1]))
        if self.bias is not None and dbias is not None:
            dbias = from_bias_blocks(dbias.view(self.bias.shape), self.layout).to(self.bias.dtype)
        gradients = (from_table(x, self.layout, self.batch, self.width, self.input_dtype) for x in (dq, dk, dv))
        return *gradients, dbias

    def new_rows(self) -> Tensor:
        """A table of the queries' shape, zero for the rows that are in no group and are therefore never written."""
        covered = sum(len(group.queries) for group in self.groups)
        return torch.empty_like(self.q) if covered == len(self.q) else torch.zeros_like(self.q)

    def skip_rows_without_gradient(self, dout: Tensor, dlse: Tensor | None) -> None:
        """Keep only the rows with a nonzero gradient.

        Padding at the end of a sequence has none if the model masks its result; it is often half of all rows.
        """
        reached = dout.any(-1) if dlse is None else dout.any(-1) | dlse.any(-1)
        if not reached.all():
            kept = [(group, reached[group.queries]) for group in self.groups]
            self.groups = [replace(group, queries=group.queries[k], keys=group.keys[k]) for group, k in kept]

    def chunks(self) -> Iterator[tuple[RowGroup, Tensor, Tensor]]:
        """Yield rows (m,) and the blocks they attend to (m, d), in the same order in both passes."""
        limit = PANEL_BYTES.get(self.q.device.type, PANEL_BYTES["other"])
        for group in self.groups:
            row_bytes = group.keys.shape[1] * self.k.shape[1] * self.dtype.itemsize
            step = max(1, limit // row_bytes)
            for start in range(0, len(group.queries), step):
                yield group, group.queries[start : start + step], group.keys[start : start + step]

    def scores(self, group: RowGroup, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return masked scores (m, b, d · b) with their queries (m, b, head_dim) and keys (m, d · b, head_dim)."""
        q_rows = self.buffers.gather("queries", self.q, queries, self.width)
        k_panel = self.buffers.gather("keys", self.k, keys, self.width)
        scores = self.buffers.take("scores", len(queries), self.b, k_panel.shape[1])
        scores.baddbmm_(q_rows, k_panel.mT, beta=0, alpha=self.options.scale)
        if self.bias is not None:
            blocks = self.bias[self.bias_entries(queries, keys)]  # (m, d, b, b)
            scores.view(len(queries), self.b, -1, self.b).add_(blocks.transpose(1, 2))
        if group.triangle:
            scores[..., -self.b :].masked_fill_(self.later, -torch.inf)
        if group.partial:
            scores.masked_fill_(self.forbidden(queries, keys), -torch.inf)
        return scores, q_rows, k_panel

    def probabilities(self, group: RowGroup, scores: Tensor) -> Tensor:
        """Softmax of the scores; zeros for queries with no allowed key, for which softmax gives 0 / 0."""
        probabilities = self.buffers.take("probabilities", *scores.shape)
        torch.softmax(scores, -1, out=probabilities)
        if group.partial or self.bias is not None:
            probabilities.masked_fill_(scores.amax(-1, keepdim=True) == -torch.inf, 0.0)
        return probabilities

    def forbidden(self, queries: Tensor, keys: Tensor) -> Tensor:
        """True for pairs that padding or segments forbid, (m, 1 or b, d · b)."""
        sequence = queries // (self.heads * self.n)
        columns = keys % self.n
        forbidden = torch.zeros((), dtype=torch.bool, device=keys.device)
        if self.mask.real is not None:
            of_sequence = sequence if len(self.mask.real) == self.batch else torch.zeros_like(sequence)
            forbidden = ~self.mask.real[of_sequence[:, None], columns].flatten(1)[:, None]
        if self.mask.segments is not None:
            own = self.mask.segments[sequence, queries % self.n]
            other = self.mask.segments[sequence[:, None], columns].flatten(1)
            forbidden = forbidden | (own[:, :, None] != other[:, None, :])
        return forbidden

    def dropout_factors(self, like: Tensor) -> Tensor:
        """0 for dropped probabilities, 1 / (1 − p) for kept ones; the same in both passes."""
        keep = 1 - self.options.dropout_p
        return self.buffers.take("dropout", *like.shape).bernoulli_(keep, generator=self.generator).div_(keep)

    def bias_entries(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Indices of the bias of these blocks: (sequence, head, i, j), which broadcast to (m, d)."""
        assert self.bias is not None
        head = queries // self.n
        sequence = head // self.heads if len(self.bias) > 1 else torch.zeros_like(head)
        return sequence[:, None], (head % self.heads)[:, None], (queries % self.n)[:, None], keys % self.n
