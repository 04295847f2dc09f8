"""Replace the LayerNorms of a Hugging Face model by RMSNorms, without copying its code.

The model's configuration records the replacement in the same entry as the graphs, and `nip.sparsify` and
`nip.from_pretrained` repeat it when the model is loaded. Transformers alone builds LayerNorms: it sets the missing
biases to zero, warns about them, and subtracts means.
"""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from nip.models.configuration import own_configuration
from nip.models.huggingface.config import ENTRY

Model = TypeVar("Model", bound=nn.Module)

NORM = "norm"
RMS = "rms"


def use_rms_norm(model: Model) -> Model:
    """Replace every LayerNorm by an RMSNorm with the same weight, in place, and record it in the configuration.

    Parameters
    ----------
    model : PreTrainedModel
        A model that was passed to `nip.sparsify`.

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
    own_configuration(model)
    config: Any = model.config
    entry = getattr(config, ENTRY, None)
    if not isinstance(entry, dict):
        raise ValueError(
            "Call nip.sparsify before use_rms_norm: both write the same entry of the model's configuration."
        )
    if not replace_layer_norms(model):
        raise ValueError(f"{type(model).__name__} has no LayerNorm to replace.")
    setattr(config, ENTRY, {**entry, NORM: RMS})
    return model


def uses_rms_norm(config: Any) -> bool:
    """Whether a model's configuration records that its LayerNorms are RMSNorms."""
    return bool((getattr(config, ENTRY, None) or {}).get(NORM) == RMS)


def replace_layer_norms(model: nn.Module) -> int:
    """Replace every LayerNorm by an RMSNorm with the same weight, in place; returns their number."""
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
