"""RMSNorm in the place of a Hugging Face model's LayerNorm: modules are swapped, and none of its code is copied.

The model's configuration remembers it, beside its graphs, and `nip.sparsify` and `nip.from_pretrained` swap them again
when the model is loaded. Transformers alone does not: it would fill the biases, of which RMSNorm has none, with zeros,
warn that it did, and subtract means.
"""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from nip.models.huggingface.config import ENTRY

Model = TypeVar("Model", bound=nn.Module)

NORM = "norm"
RMS = "rms"


def use_rms_norm(model: Model) -> Model:
    """Replace every LayerNorm by an RMSNorm with the same weight, in place, and note it in the configuration.

    Parameters
    ----------
    model : PreTrainedModel
        That `nip.sparsify` has given its graphs.

    Returns
    -------
    PreTrainedModel
        The model itself.

    Raises
    ------
    ValueError
        If the model has no LayerNorm, or was not sparsified.

    References
    ----------
    .. [1] B. Zhang, R. Sennrich, *Root Mean Square Layer Normalization*, arXiv 1910.07467.
    """
    config: Any = model.config
    entry = getattr(config, ENTRY, None)
    if not isinstance(entry, dict):
        raise ValueError(
            "Give the model to nip.sparsify before use_rms_norm: the configuration notes both in one entry."
        )
    if not swap(model):
        raise ValueError(f"{type(model).__name__} has no LayerNorm to replace.")
    setattr(config, ENTRY, {**entry, NORM: RMS})
    return model


def swap(model: nn.Module) -> int:
    """Replace every LayerNorm by an RMSNorm with the same weight; how many there were."""
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.LayerNorm)
    ]
    for parent, name, old in found:
        new = nn.RMSNorm(old.normalized_shape, eps=old.eps, elementwise_affine=old.elementwise_affine)
        if old.elementwise_affine:
            new.weight = old.weight
        new.train(old.training)
        setattr(parent, name, new)
    return len(found)
