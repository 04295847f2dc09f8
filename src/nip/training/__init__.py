"""Training on a task: recipes, the loop, its schedule, checkpoints and run folders."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nip.training.config import RunConfig
from nip.training.recipes import RECIPES, recipe
from nip.training.runs import RunFolder

if TYPE_CHECKING:
    from nip.training.loop import TrainingDivergedError, train

__all__ = ["RECIPES", "RunConfig", "RunFolder", "TrainingDivergedError", "recipe", "train"]


def __getattr__(name: str) -> Any:
    if name in ("train", "TrainingDivergedError"):  # they need torch, which reading a run folder must not wait for
        return getattr(importlib.import_module("nip.training.loop"), name)
    raise AttributeError(f"module 'nip.training' has no attribute {name!r}")
