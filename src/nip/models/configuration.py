"""The configuration of a Hugging Face model, as an object of its own."""

from __future__ import annotations

import copy
import gc
from typing import Any

from torch import nn
from transformers import PretrainedConfig


def own_configuration(model: nn.Module) -> None:
    """Replace a model's configuration, in the model and all its parts, by a copy that no other model shares.

    Transformers keeps the object that a model was made with. Changed in place, it would change every model that was
    made with it, and what each of them saves.
    """
    top: Any = getattr(model, "config", None)
    if not isinstance(top, PretrainedConfig):
        return
    copies: dict[int, Any] = {}
    copy.deepcopy(top, copies)
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if not isinstance(value, PretrainedConfig):
                continue
            if id(value) not in copies:  # a part's own, which another part may share
                copy.deepcopy(value, copies)
            setattr(module, name, copies[id(value)])
    for parent in _parents(top):
        for name in [name for name, value in vars(parent).items() if value is top]:
            setattr(parent, name, copies[id(top)])


def _parents(config: PretrainedConfig) -> list[PretrainedConfig]:
    """The configurations of which this one is a part: the model may be a part of another, which saves both."""
    holders = gc.get_referrers(config)
    owners = [owner for each in holders if isinstance(each, dict) for owner in gc.get_referrers(each)]
    return [each for each in (*holders, *owners) if isinstance(each, PretrainedConfig) and each is not config]
