"""One optimizer step: the gradient of a global batch, computed in micro-batches by one or several processes.

The gradients of the micro-batches add up to that of the global batch, for any number of micro-batches and processes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.tensor import DTensor

from nip.training import PRECISIONS
from nip.training.checkpoint import TrainState
from nip.training.distributed import accumulate, all_reduce_sum, backward, discard_gradients, update, uses_deepspeed

DTYPES = dict(zip(PRECISIONS, (torch.float32, torch.bfloat16, torch.float16), strict=True))
OVERFLOW = "the loss scale was too large"


class TrainingDivergedError(ValueError):
    """The loss, the gradients or the weights became NaN or infinite, or the loss kept spiking."""


@dataclass(frozen=True)
class MicroBatch:
    """Samples of one forward and backward pass.

    Parameters
    ----------
    inputs : mapping of str to Tensor or None
        Keyword arguments of the model.
    targets : Tensor
        What the loss compares the model's output with; the task decides their shape.
    n_targets : int
        Targets that count in the loss.
    samples, tokens : int
        Samples, and their tokens without padding.
    """

    inputs: Mapping[str, Any]
    targets: Tensor
    n_targets: int
    samples: int
    tokens: int

    def to(self, device: torch.device) -> MicroBatch:
        """The same micro-batch on another device."""
        moved = {
            name: None if tensor is None else tensor.to(device, non_blocking=True)
            for name, tensor in self.inputs.items()
        }
        return replace(self, inputs=moved, targets=self.targets.to(device, non_blocking=True))


@dataclass(frozen=True)
class Batch:
    """A global batch: this process's micro-batches, and the number of samples over all processes."""

    micro_batches: Sequence[MicroBatch]
    samples: int


class BatchTotals(NamedTuple):
    """Counts of a global batch, over all micro-batches and processes."""

    targets: int
    tokens: int
    samples: int


class LossSums(NamedTuple):
    """What a micro-batch contributes to its global batch."""

    objective: Tensor
    """Its share of the mean loss, of shape (): this is differentiated."""
    loss: Tensor
    """Its summand of the reported loss, of shape (); the task turns the sum into a mean."""
    correct: Tensor
    """Number of correct predictions in each sample, of shape (samples,)."""


@dataclass(frozen=True)
class StepResult:
    """The outcome of a step.

    Parameters
    ----------
    loss, accuracy : float
        Mean loss and share of correct predictions of the global batch, before the update.
    grad_norm : float, optional
        Norm of the global batch's gradient before clipping; None if it is not computed, NaN if DeepSpeed does not
        report it.
    skip_reason : str, optional
        Why the weights were not updated; None if they were.
    totals : BatchTotals
    loss_scale : float, optional
        With fp16.
    """

    loss: float
    accuracy: float
    grad_norm: float | None
    skip_reason: str | None
    totals: BatchTotals
    loss_scale: float | None = None

    @property
    def overflowed(self) -> bool:
        """Whether the step was skipped because fp16's loss scale was too large, which is normal now and then."""
        return self.skip_reason == OVERFLOW


def train_step(
    state: TrainState,
    batch: Batch,
    loss: Callable[[MicroBatch, BatchTotals], LossSums],
    mean_loss: Callable[[float, BatchTotals], float],
    *,
    seed: int,
    clip: float | None,
    spike: float,
) -> StepResult:
    """Update the weights by a global batch, or skip the step if its loss or gradient is not finite or the loss a spike.

    Dropout is seeded by seed, step and process, so that a resumed run draws the same.

    Parameters
    ----------
    state : TrainState
    batch : Batch
    loss : callable
        From a micro-batch and the totals of its batch to its sums.
    mean_loss : callable
        From the sum of all `LossSums.loss` and the totals of the batch to the mean loss.
    seed : int
    clip : float or None
        Largest norm of the gradient; 0 computes it without clipping, None does not compute it.
    spike : float
        Standard deviations above the running mean at which a loss is a spike; 0 accepts every finite loss.

    Returns
    -------
    StepResult
    """
    accelerator, model = state.accelerator, state.model
    targets, tokens = all_reduce_sum(
        accelerator,
        sum(each.n_targets for each in batch.micro_batches),
        sum(each.tokens for each in batch.micro_batches),
    )
    totals = BatchTotals(round(targets), round(tokens), batch.samples)
    torch.manual_seed(dropout_seed(seed, state.progress.step, accelerator.process_index))
    model.train()
    loss_sum = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    correct = torch.zeros((), dtype=torch.int64, device=accelerator.device)
    for number, micro_batch in enumerate(batch.micro_batches, 1):
        with accumulate(accelerator, model, last=number == len(batch.micro_batches)):
            sums = loss(micro_batch, totals)
            scaled = sums.objective if state.scaler is None else state.scaler.scale(sums.objective)
            # gradients are averaged over the processes, not summed
            backward(accelerator, model, scaled * accelerator.num_processes)
        loss_sum += sums.loss.detach()  # not yet .item(), which would wait for the device
        correct += sums.correct.sum()
    loss_total, n_correct = all_reduce_sum(accelerator, loss_sum.item(), correct.item())
    mean = mean_loss(loss_total, totals)
    norm, skip_reason = _update(state, mean, clip=clip, spike=spike)
    scale = None if state.scaler is None else state.scaler.get_scale()
    return StepResult(mean, n_correct / max(totals.targets, 1), norm, skip_reason, totals, scale)


def _update(state: TrainState, loss: float, *, clip: float | None, spike: float) -> tuple[float | None, str | None]:
    """Update the weights unless there is a reason to skip the step; the gradient's norm, and that reason."""
    accelerator, model, optimizer, scaler = state.accelerator, state.model, state.optimizer, state.scaler
    detector = state.progress.loss_spikes
    if uses_deepspeed(accelerator):  # it clips by itself, and reports the norm only afterwards
        skip_reason = detector.skip_reason(loss, 0.0, spike)
        if skip_reason is not None:
            discard_gradients(accelerator, model, optimizer)
            return math.nan, skip_reason
        if not update(accelerator, model, optimizer):
            return math.inf, "DeepSpeed found its gradient infinite"
        return float(model.get_global_grad_norm() or math.nan), None  # type: ignore[operator]
    if scaler is not None:
        scaler.unscale_(optimizer)
    norm = None if clip is None else clip_gradients(list(model.parameters()), clip)
    overflowed = scaler is not None and math.isfinite(loss) and norm is not None and not math.isfinite(norm)
    skip_reason = OVERFLOW if overflowed else detector.skip_reason(loss, norm or 0.0, spike)
    if skip_reason is not None:
        discard_gradients(accelerator, model, optimizer)
    elif scaler is not None:
        scaler.step(optimizer)
        optimizer.zero_grad()
    else:
        update(accelerator, model, optimizer)
    if scaler is not None:
        scaler.update()
    return norm, skip_reason


def clip_gradients(weights: Sequence[Tensor], largest: float) -> float:
    """Clip the gradients to a norm of at most `largest` (0: no limit); return their norm before."""
    total = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
    full = total.full_tensor() if isinstance(total, DTensor) else total
    norm = float(full)
    if largest and math.isfinite(norm):
        torch.nn.utils.clip_grads_with_norm_(weights, largest, full)
    return norm


@contextmanager
def autocast(accelerator: Accelerator, precision: str | None) -> Iterator[None]:
    """Compute in bf16 or fp16 if that is the precision; DeepSpeed has its own autocast."""
    dtype = DTYPES[precision or "fp32"]
    enabled = dtype != torch.float32 and not uses_deepspeed(accelerator)
    with torch.autocast(accelerator.device.type, dtype, enabled=enabled):
        yield


def dropout_seed(seed: int, step: int, process: int) -> int:
    """The seed of a step's dropout in one process.

    Parameters
    ----------
    seed, step, process : int
        Of the run; finished steps; the process's rank.

    Returns
    -------
    int
        In [0, 2⁶³).
    """
    digest = hashlib.sha256(f"{seed}/dropout/{step}/{process}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
