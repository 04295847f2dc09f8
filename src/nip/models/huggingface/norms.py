"""RMSNorm in place of a Hugging Face model's LayerNorm, by replacing modules.

The model's configuration notes it next to its graphs; when the model is loaded, `nip.sparsify` and
`nip.from_pretrained` replace the modules again. Transformers alone would build LayerNorms with zero biases.
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
        After `nip.sparsify`.

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
    if not replace_layer_norms(model):
        raise ValueError(f"{type(model).__name__} has no LayerNorm to replace.")
    setattr(config, ENTRY, {**entry, NORM: RMS})
    return model


def replace_layer_norms(model: nn.Module) -> int:
    """Replace every LayerNorm by an RMSNorm with the same weight; returns their number."""
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
