"""Losses that are the mean over all that an optimizer step covers, in whatever parts and processes it is computed.

Dividing each part's own mean by the number of parts is the same only where all parts hold equally many items; masked
tokens do not, nor does the last part of an epoch. `Trainer` counts the items of a whole step and hands the number over.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

IGNORED = -100


def classification_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Cross-entropy of logits of shape (..., classes) against labels of shape (...), those of -100 left out.

    Examples
    --------
    Two parts of a step, of one and of three items, give together what the whole gives at once:

    >>> logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    >>> whole = classification_loss({"logits": logits}, labels, torch.tensor(4))
    >>> parts = [({"logits": logits[:1]}, labels[:1]), ({"logits": logits[1:]}, labels[1:])]
    >>> bool(torch.isclose(whole, sum(classification_loss(*part, torch.tensor(4)) for part in parts)))
    True
    """
    logits: torch.Tensor = outputs["logits"]
    summed = functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(), labels.reshape(-1), ignore_index=IGNORED, reduction="sum"
    )
    return summed / _items(labels, num_items_in_batch)


def regression_loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """Squared error of logits of shape (batch, 1) against labels of shape (batch,)."""
    summed = functional.mse_loss(outputs["logits"].reshape(-1).float(), labels.reshape(-1).float(), reduction="sum")
    return summed / _items(labels, num_items_in_batch)


def smoothed(epsilon: float) -> Any:
    """`classification_loss` with labels smoothed: each other class is right with a share of `epsilon`."""

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        logits: torch.Tensor = outputs["logits"]
        summed = functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]).float(),
            labels.reshape(-1),
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=epsilon,
        )
        return summed / _items(labels, num_items_in_batch)

    return loss


def _items(labels: torch.Tensor, counted: Any) -> torch.Tensor:
    if counted is None:
        return (labels != IGNORED).sum().clamp(min=1)
    return torch.as_tensor(counted, device=labels.device).clamp(min=1)
