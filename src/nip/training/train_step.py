"""One optimizer step: the gradient of a global batch, computed in micro-batches by one or several processes.

The gradients of the micro-batches add up to that of the global batch, however it is cut and shared.
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

from nip.training.checkpoint import TrainState
from nip.training.distributed import (
    accumulate,
    all_reduce_sum,
    backward,
    discard_gradients,
    update,
    uses_deepspeed,
)

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
OVERFLOW = "the loss scale was too large"


class TrainingDivergedError(ValueError):
    """The loss, the gradients or the weights became NaN or infinite, or the loss kept spiking."""


@dataclass(frozen=True)
class MicroBatch:
    """Samples that a process computes at once.

    Parameters
    ----------
    inputs : mapping of str to Tensor or None
        Keyword arguments of the model.
    targets : Tensor
        What the loss compares the model's output with; its shape is the task's.
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
    """A global batch: this process's micro-batches, and the number of samples in all processes."""

    micro_batches: Sequence[MicroBatch]
    samples: int


class BatchTotals(NamedTuple):
    """Counts of a global batch, over all micro-batches and processes."""

    targets: int
    tokens: int
    samples: int


class LossSums(NamedTuple):
    """What a micro-batch adds to its global batch."""

    objective: Tensor
    """Its share of the mean loss, of no dimension: what is differentiated."""
    loss: Tensor
    """What it adds to the loss that is reported, of no dimension; the task turns the sum into a mean."""
    correct: Tensor
    """Correct predictions of each sample, of shape (samples,)."""


@dataclass(frozen=True)
class StepResult:
    """The outcome of a step.

    Parameters
    ----------
    loss, accuracy : float
        Mean loss and share of correct predictions of the global batch, before the update.
    grad_norm : float, optional
        Norm of the global batch's gradient before clipping; None where it is not computed, NaN where DeepSpeed does not
        report it.
    objection : str, optional
        Why the weights were not updated.
    totals : BatchTotals
    loss_scale : float, optional
        With fp16.
    """

    loss: float
    accuracy: float
    grad_norm: float | None
    objection: str | None
    totals: BatchTotals
    loss_scale: float | None = None

    @property
    def overflowed(self) -> bool:
        """Whether the step was skipped only because fp16's loss scale was too large, as happens now and then."""
        return self.objection == OVERFLOW


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
    """Update the weights by a global batch, or leave them as they are where the loss or the gradient forbids it.

    Dropout is drawn from a generator that is seeded by seed, step and process, so that a resumed run draws the same.

    Parameters
    ----------
    state : TrainState
    batch : Batch
    loss : callable
        The sums of a micro-batch.
    mean_loss : callable
        The mean loss from the sum of all `LossSums.loss` and the totals of the batch.
    seed : int
    clip : float or None
        Largest norm of the gradient; 0 computes it without clipping, None does not compute it.
    spike : float
        Standard deviations above the running mean from which on a loss is a spike; 0 accepts every finite loss.
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
            # gradients are averaged over the processes, hence their number
            backward(accelerator, model, scaled * accelerator.num_processes)
        loss_sum += sums.loss.detach()  # stays on the device until all is computed
        correct += sums.correct.sum()
    loss_total, n_correct = all_reduce_sum(accelerator, loss_sum.item(), correct.item())
    mean = mean_loss(loss_total, totals)
    norm, objection = _update(state, mean, clip=clip, spike=spike)
    scale = None if state.scaler is None else state.scaler.get_scale()
    return StepResult(mean, n_correct / max(totals.targets, 1), norm, objection, totals, scale)


def _update(state: TrainState, loss: float, *, clip: float | None, spike: float) -> tuple[float | None, str | None]:
    """Update the weights unless something objects: the gradient's norm, and the objection."""
    accelerator, model, optimizer, scaler = state.accelerator, state.model, state.optimizer, state.scaler
    detector = state.progress.loss_spikes
    if uses_deepspeed(accelerator):  # it clips by itself, and reports the norm only afterwards
        objection = detector.objection(loss, 0.0, spike)
        if objection is not None:
            discard_gradients(accelerator, model, optimizer)
            return math.nan, objection
        if not update(accelerator, model, optimizer):
            return math.inf, "DeepSpeed found its gradient infinite"
        return float(model.get_global_grad_norm() or math.nan), None  # type: ignore[operator]
    if scaler is not None:
        scaler.unscale_(optimizer)
    norm = None if clip is None else clip_gradients(list(model.parameters()), clip)
    overflowed = scaler is not None and math.isfinite(loss) and norm is not None and not math.isfinite(norm)
    objection = OVERFLOW if overflowed else detector.objection(loss, norm or 0.0, spike)
    if objection is not None:
        discard_gradients(accelerator, model, optimizer)
    elif scaler is not None:
        scaler.step(optimizer)
        optimizer.zero_grad()
    else:
        update(accelerator, model, optimizer)
    if scaler is not None:
        scaler.update()  # a smaller scale after an overflow: that is how it finds the largest that works
    return norm, objection


def clip_gradients(weights: Sequence[Tensor], largest: float) -> float:
    """Clip the gradients to a norm of `largest` (0: leave them); their norm before."""
    total = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
    full = total.full_tensor() if isinstance(total, DTensor) else total
    norm = float(full)
    if largest and math.isfinite(norm):
        torch.nn.utils.clip_grads_with_norm_(weights, largest, full)
    return norm


@contextmanager
def autocast(accelerator: Accelerator, precision: str | None) -> Iterator[None]:
    """Compute in bf16 or fp16 where the precision asks for it; DeepSpeed does so by itself."""
    enabled = precision in AUTOCAST and not uses_deepspeed(accelerator)
    with torch.autocast(accelerator.device.type, AUTOCAST.get(precision or "", torch.bfloat16), enabled=enabled):
        yield


def dropout_seed(seed: int, step: int, process: int) -> int:
    """The seed of a step's dropout."""
    digest = hashlib.sha256(f"{seed}/dropout/{step}/{process}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
