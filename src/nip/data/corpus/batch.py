"""A batch of samples, the same for packed and for masked-once shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nip.data.masking import Masked

Array = NDArray[Any]


@dataclass(frozen=True)
class Batch:
    """b samples of L tokens each.

    Parameters
    ----------
    numbers : ndarray of shape (b,), int64
        Sample numbers in the corpus.
    input_ids : ndarray of shape (b, L), int64
    segment_ids : ndarray of shape (b, L), int32
        The sample's document that a token belongs to, from 1; 0 for padding. Attention stays within a document.
    token_type_ids : ndarray of shape (b, L), int64
        1 for the second sentence of a pair, else 0.
    masked : Masked, optional
        For samples that were masked when the corpus was made.
    next_sentence : ndarray of shape (b,), int64, optional
        For sentence pairs: 1 where the second sentence is a random one.
    """

    numbers: Array
    input_ids: Array
    segment_ids: Array
    token_type_ids: Array
    masked: Masked | None = None
    next_sentence: Array | None = None


def token_type(size: int) -> np.dtype[Any]:
    """The dtype of token ids of a vocabulary: two bytes up to 65,536 tokens, else four."""
    return np.dtype("<u2" if size <= 1 << 16 else "<u4")
