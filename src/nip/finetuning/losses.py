"""Losses that are the mean over an optimizer step, however it is split into micro-batches and processes.

The mean of the micro-batches' means is the same only if all have equally many items, which masked tokens and the last
batch of an epoch have not. The Trainer counts the items of a step and passes their number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

IGNORED = -100


def classification_loss(
    outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None, *, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Cross-entropy of logits and labels, the mean over an optimizer step.

    Parameters
    ----------
    outputs : mapping
        With ``logits`` of shape (..., classes).
    labels : Tensor of shape (...)
        Those of -100 are ignored.
    num_items_in_batch : Tensor or int, optional
        The number of labels of the step; by default those of `labels`.
    label_smoothing : float, default=0.0

    Examples
    --------
    Two micro-batches, of one and of three items, add up to the loss of the batch:

    >>> logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    >>> full = classification_loss({"logits": logits}, labels, torch.tensor(4))
    >>> micro = [({"logits": logits[:1]}, labels[:1]), ({"logits": logits[1:]}, labels[1:])]
    >>> bool(torch.isclose(full, sum(classification_loss(*each, torch.tensor(4)) for each in micro)))
    True
    """
    logits: torch.Tensor = outputs["logits"]
    total = functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(),
        labels.reshape(-1),
        ignore_index=IGNORED,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return total / _items(labels, num_items_in_batch)


def regression_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Squared error of predictions and labels, the mean over an optimizer step.

    Parameters
    ----------
    outputs : mapping
        With ``logits`` of shape (batch, 1).
    labels : Tensor of shape (batch,)
    num_items_in_batch : Tensor or int, optional
        The number of labels of the step; by default those of `labels`.
    """
    total = functional.mse_loss(outputs["logits"].reshape(-1).float(), labels.reshape(-1).float(), reduction="sum")
    return total / _items(labels, num_items_in_batch)


def _items(labels: torch.Tensor, counted: Any) -> torch.Tensor:
    if counted is None:
        return (labels != IGNORED).sum().clamp(min=1)
    return torch.as_tensor(counted, device=labels.device).clamp(min=1)
