"""Objectives of the encoder: how examples become inputs and targets, and the loss of its scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional

from nip.data import Examples
from nip.data.masking import IGNORED
from nip.lra.batches import Indices, padded_micro_batches
from nip.lra.config import RunConfig
from nip.training.train_step import MicroBatch, autocast


def class_loss(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The summed cross-entropy of scores (…, n_classes) for targets (…), and which predictions are correct, (…)."""
    loss = functional.cross_entropy(
        scores.float().flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    return loss, scores.argmax(-1) == targets  # no class is IGNORED


@dataclass(frozen=True)
class Objective:
    """What a model is trained to predict.

    Parameters
    ----------
    micro_batches : callable
        As `padded_micro_batches`: inputs and targets.
    loss : callable
        As `class_loss`: the summed loss, and which predictions are correct.
    """

    micro_batches: Callable[[Examples, Iterable[Indices], RunConfig], Iterator[MicroBatch]]
    loss: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


LABELS = Objective(padded_micro_batches, class_loss)
"""Predicting the labels of the task."""


def forward(
    model: torch.nn.Module,
    accelerator: Accelerator,
    micro_batch: MicroBatch,
    config: RunConfig,
    objective: Objective = LABELS,
) -> tuple[Tensor, Tensor]:
    """The loss of a micro-batch.

    Parameters
    ----------
    model : Module
    accelerator : Accelerator
    micro_batch : MicroBatch
    config : RunConfig
    objective : Objective, default=LABELS

    Returns
    -------
    loss : Tensor of shape ()
        Summed over the targets.
    correct : Tensor of shape (n,), int64
        Number of correct predictions in each example.
    """
    micro_batch = micro_batch.to(accelerator.device)
    with autocast(accelerator, config.precision):
        scores: Tensor = model(micro_batch.inputs["input_ids"], micro_batch.inputs["mask"])
    loss, correct = objective.loss(scores, micro_batch.targets)
    return loss, per_example(correct)


def per_example(flags: Tensor) -> Tensor:
    """Number of True entries in each example, int64 of shape (n,), of booleans of shape (n, …)."""
    return flags.flatten(1).sum(1) if flags.ndim > 1 else flags.long()
