"""Whether the weights of a folder are those of the model that was loaded from it.

transformers draws what a folder lacks at random, and drops what the model has no place for, with a warning. A model
that predicts must have all its weights; one that is trained may get a new head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nip.models.huggingface.norms import uses_rms_norm

NEW = ("pooler",)  # of the encoder, but part of a task's head: checkpoints of masked language models lack it


def check_weights_fit(model: Any, info: Mapping[str, Any], source: object, *, new_head: bool) -> list[str]:
    """Check that the weights of a folder and those of a model are the same, up to the head.

    Parameters
    ----------
    model : PreTrainedModel
    info : mapping
        What ``from_pretrained(…, output_loading_info=True)`` returned with it.
    source : object
        The folder or name, for messages.
    new_head : bool
        Whether training follows, so that weights outside the encoder may be new.

    Returns
    -------
    list of str
        The weights that are new.

    Raises
    ------
    ValueError
        If weights of the encoder are missing or superfluous, or without training any.
    """
    prefix = f"{model.base_model_prefix}."
    missing = sorted({*info["missing_keys"], *(key[0] for key in info["mismatched_keys"])})
    if uses_rms_norm(model.config):  # transformers has built LayerNorms, whose biases are dropped
        missing = [key for key in missing if not key.lower().replace("_", "").endswith("norm.bias")]
    superfluous = sorted(key for key in info["unexpected_keys"] if key.startswith(prefix) and not _of_head(key, prefix))
    lacking = [key for key in missing if not _of_head(key, prefix)]
    kind = type(model).__name__
    if lacking or superfluous:
        says = [f"it lacks {_some(lacking)}"] if lacking else []
        says += [f"it has {_some(superfluous)}, for which there is no place"] if superfluous else []
        raise ValueError(f"The weights of {source} do not fit {kind}: {' and '.join(says)}.")
    if missing and not new_head:
        raise ValueError(
            f"{source} has no trained head for this task: {kind} lacks {_some(missing)}. Train it first (--do_train), "
            "or name the folder of a model that was trained for the task."
        )
    return missing


def _of_head(key: str, prefix: str) -> bool:
    return not key.startswith(prefix) or any(part in NEW for part in key.split("."))


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:2]) + (f" and {len(keys) - 2} more" if len(keys) > 2 else "")
