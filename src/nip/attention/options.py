"""What a backend is asked for beside q, k, v and the layout."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Options:
    """The arguments of `attend` after validation: a backend need not check them again."""

    scale: float
    """Scores are ``scale · q kᵀ``."""
    key_padding_mask: Tensor | None = None
    """(batch, tokens) bool, True where the token is real: only real tokens are attended to."""
    segment_ids: Tensor | None = None
    """(batch, tokens) integer: attention stays inside equal ids."""
    bias: Tensor | None = None
    """(1 or batch, heads, tokens, tokens), added to the scaled scores."""
    dropout_p: float = 0.0
    """Each probability becomes zero with this chance, the others grow by 1 / (1 − dropout_p)."""
    return_lse: bool = False
    """Whether the log-sum-exp of the scores is wanted."""
    needs_grad: bool = False
    """Whether gradients will be asked for: some input requires them, and they are not switched off."""
