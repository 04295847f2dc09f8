"""Self-attention on sparse graphs: build a graph, score it, attend over it, train on it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nip.graphs import Pattern, pattern

if TYPE_CHECKING:
    from nip.attention import Backend, attend, backends, explain
    from nip.models.huggingface.sparsify import from_pretrained, sparsify
    from nip.models.positions import extend_positions
    from nip.scoring.reach import Reach, reach
    from nip.scoring.score import Score, score

__version__ = "0.1.0"

__all__ = [
    "Backend",
    "Pattern",
    "Reach",
    "Score",
    "attend",
    "backends",
    "explain",
    "extend_positions",
    "from_pretrained",
    "pattern",
    "reach",
    "score",
    "sparsify",
]

# Loaded on first use: attention imports torch, which scoring and drawing a graph do not need.
_LAZY = {
    "attend": "nip.attention",
    "backends": "nip.attention",
    "explain": "nip.attention",
    "Backend": "nip.attention",
    "sparsify": "nip.models.huggingface.sparsify",
    "from_pretrained": "nip.models.huggingface.sparsify",
    "extend_positions": "nip.models.positions",
    "score": "nip.scoring",
    "Score": "nip.scoring",
    "reach": "nip.scoring",
    "Reach": "nip.scoring",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        try:
            return getattr(importlib.import_module(_LAZY[name]), name)
        except ModuleNotFoundError as error:
            extras = {"torch": "attention", "transformers": "finetune"}
            if error.name not in extras:
                raise
            extra = extras[error.name]
            raise ImportError(f"nip.{name} needs {error.name}: pip install 'nip[{extra}]'") from error
    raise AttributeError(f"module 'nip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
