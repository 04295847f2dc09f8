"""Long Range Arena: recipes, configuration, training, denoising and evaluation."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nip.lra.config import RunConfig
from nip.lra.recipes import RECIPES, recipe
from nip.runs.folder import RunFolder

if TYPE_CHECKING:
    from nip.lra.run import train
    from nip.training.train_step import TrainingDivergedError

__all__ = ["RECIPES", "RunConfig", "RunFolder", "TrainingDivergedError", "recipe", "train"]


def __getattr__(name: str) -> Any:
    if name in (
        "train",
        "TrainingDivergedError",
    ):  # imports torch, which takes seconds
        return getattr(importlib.import_module("nip.lra.run"), name)
    raise AttributeError(f"module 'nip.lra' has no attribute {name!r}")
