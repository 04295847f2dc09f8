"""One optimizer step."""

from __future__ import annotations

import hashlib


class TrainingDivergedError(ValueError):
    """The loss or the weights are no numbers any more."""


def seed_of(seed: int, step: int, process: int) -> int:
    """The seed of a step's dropout."""
    digest = hashlib.sha256(f"{seed}/dropout/{step}/{process}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
