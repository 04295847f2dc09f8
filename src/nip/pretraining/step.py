"""One step: the gradient of a global batch, computed in parts and by several processes, and what is done with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from nip.pretraining.microbatches import Part
from nip.pretraining.model import Sums, total_loss
from nip.pretraining.setup import Run
from nip.training.distributed import backward, discard, part_of_batch, summed, update, uses_deepspeed
from nip.training.train_step import seed_of

OVERFLOW = "the loss scale was too large"
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Taken:
    """What came of a step.

    Parameters
    ----------
    loss : float
        Mean cross-entropy of the masked tokens of the whole batch, plus that of next sentences where they are asked.
    accuracy : float
        Share of the masked tokens that were guessed.
    norm : float
        Of the whole batch's gradient, before it was clipped; NaN where DeepSpeed does not tell.
    objection : str, optional
        Why the weights were left as they were.
    tokens : int
        Padding left out, over all processes.
    overflowed : bool
        Whether that was only because fp16's loss scale was too large, as happens now and then.
    scale : float, optional
        Of the loss, with fp16.
    """

    loss: float
    accuracy: float
    norm: float
    objection: str | None
    tokens: int
    overflowed: bool = False
    scale: float | None = None


def take_step(run: Run, parts: Sequence[Part], rate: float, count: int) -> Taken:
    """Take a step at a rate on this process's parts of a batch of `count` samples, or skip it where it would do harm.

    Dropout is drawn from a generator state that is made of seed, step and process: a resumed run draws the same.
    """
    settings, learner, progress = run.settings, run.learner, run.progress
    accelerator = learner.accelerator
    asked, tokens = summed(accelerator, sum(part.asked for part in parts), sum(part.tokens for part in parts))
    torch.manual_seed(seed_of(settings.seed, progress.step, accelerator.process_index))
    learner.model.train()
    for group in learner.optimizer.param_groups:
        group["lr"] = rate
    loss = torch.zeros((), dtype=torch.float64, device=accelerator.device)
    right = torch.zeros((), dtype=torch.int64, device=accelerator.device)
    for number, part in enumerate(parts, 1):
        with part_of_batch(accelerator, learner.model, last=number == len(parts)):
            sums = compute(run, part)
            total = total_loss(sums, round(asked), count)
            scaled = total if learner.scaler is None else learner.scaler.scale(total)
            # gradients are averaged over the processes, hence their number
            backward(accelerator, learner.model, scaled * accelerator.num_processes)
        loss += total.detach()  # nobody waits for the device until all is computed
        right += sums.right.sum()
    mean, guessed = summed(accelerator, loss.item(), right.item())
    norm, objection = _take(run, mean)
    scale = None if learner.scaler is None else learner.scaler.get_scale()
    return Taken(mean, guessed / max(asked, 1), norm, objection, round(tokens), objection == OVERFLOW, scale)


def _take(run: Run, loss: float) -> tuple[float, str | None]:
    """Update the weights unless the guard objects: the gradient's norm, and the objection."""
    learner, guard, spike = run.learner, run.progress.guard, run.settings.spike
    if uses_deepspeed(learner.accelerator):  # which clips by itself, and tells the norm only afterwards
        objection = guard.objection(loss, 0.0, spike)
        if objection is not None:
            discard(learner.accelerator, learner.model, learner.optimizer)
            return math.nan, objection
        if not update(learner.accelerator, learner.model, learner.optimizer):
            return math.inf, "DeepSpeed found its gradient infinite"
        return float(learner.model.get_global_grad_norm() or math.nan), None  # type: ignore[operator]
    if learner.scaler is not None:
        learner.scaler.unscale_(learner.optimizer)
    norm = clipped(list(learner.model.parameters()), run.settings.clip)
    if learner.scaler is not None and math.isfinite(loss) and not math.isfinite(norm):
        learner.scaler.update()  # a smaller scale: that is how it finds the largest that does
        discard(learner.accelerator, learner.model, learner.optimizer)
        return norm, OVERFLOW
    objection = guard.objection(loss, norm, spike)
    if objection is not None:
        if learner.scaler is not None:
            learner.scaler.update()
        discard(learner.accelerator, learner.model, learner.optimizer)
        return norm, objection
    if learner.scaler is not None:
        learner.scaler.step(learner.optimizer)
        learner.scaler.update()
        learner.optimizer.zero_grad()
    else:
        update(learner.accelerator, learner.model, learner.optimizer)
    return norm, None


def clipped(weights: Sequence[Tensor], most: float) -> float:
    """Clip the gradients of the weights to a norm of `most`, 0: not at all; what their norm was."""
    total = torch.nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
    whole = total.full_tensor() if isinstance(total, DTensor) else total
    norm = float(whole)
    if most and math.isfinite(norm):
        torch.nn.utils.clip_grads_with_norm_(weights, most, whole)
    return norm


def compute(run: Run, part: Part) -> Sums:
    """The sums of a part, in the run's precision."""
    accelerator, precision = run.accelerator, run.settings.precision
    here = precision in AUTOCAST and not uses_deepspeed(accelerator)
    with torch.autocast(accelerator.device.type, AUTOCAST.get(precision or "", torch.bfloat16), enabled=here):
        sums: Sums = run.learner.model(**part.to(accelerator.device).arguments())
    return sums
