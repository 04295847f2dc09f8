"""Which sparse graph should self-attention run on? Score it, attend over it, train on it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from nip.graphs import Pattern, pattern

if TYPE_CHECKING:
    from nip.attention import Backend, attend, backends, explain
    from nip.scoring.score import Score, score

__version__ = "0.1.0"

__all__ = ["Backend", "Pattern", "Score", "attend", "backends", "explain", "pattern", "score"]

# Loaded on first use: attention needs torch, which scoring and drawing a graph must not wait for.
_LAZY = {
    "attend": "nip.attention",
    "backends": "nip.attention",
    "explain": "nip.attention",
    "Backend": "nip.attention",
    "score": "nip.scoring",
    "Score": "nip.scoring",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        try:
            return getattr(importlib.import_module(_LAZY[name]), name)
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise ImportError(f"nip.{name} needs torch: pip install 'nip[attention]'") from error
    raise AttributeError(f"module 'nip' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
