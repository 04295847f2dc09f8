"""What is asked of the encoder: how examples become inputs and targets, and what its scores cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional

from nip.data import Examples
from nip.lra.batches import IGNORED, Indices, padded_micro_batches
from nip.lra.config import RunConfig
from nip.training.train_step import MicroBatch, autocast


def class_loss(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the cross-entropies of scores (…, n_classes) for targets (…), and which predictions are correct."""
    loss = functional.cross_entropy(
        scores.float().flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return loss, scores.argmax(-1) == targets  # no class is IGNORED


@dataclass(frozen=True)
class Objective:
    """What is asked of a model.

    Parameters
    ----------
    micro_batches : callable
        As `padded_micro_batches`: the inputs and the targets.
    loss : callable
        As `class_loss`: the sum of the losses, and which predictions are correct.
    """

    micro_batches: Callable[[Examples, Iterable[Indices], RunConfig], Iterator[MicroBatch]]
    loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


LABELS = Objective(padded_micro_batches, class_loss)


def forward(
    model: torch.nn.Module,
    accelerator: Accelerator,
    micro_batch: MicroBatch,
    config: RunConfig,
    objective: Objective = LABELS,
) -> tuple[Tensor, Tensor]:
    """The sum of the losses of a micro-batch, and the correct predictions of each example, int64 of shape (n,)."""
    micro_batch = micro_batch.to(accelerator.device)
    with autocast(accelerator, config.precision):
        scores: Tensor = model(micro_batch.inputs["input_ids"], micro_batch.inputs["mask"])
    loss, correct = objective.loss(scores, micro_batch.targets)
    return loss, per_example(correct)


def per_example(true: Tensor) -> Tensor:
    """How many entries of each example are true; int64 of shape (n,)."""
    return true.flatten(1).sum(1) if true.ndim > 1 else true.long()
