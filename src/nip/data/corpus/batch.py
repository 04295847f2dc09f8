"""A batch of samples, whatever the form of the shards that they are read from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nip.data.masking import Masked

Array = NDArray[Any]


@dataclass(frozen=True)
class Batch:
    """Samples, b of them with L tokens each.

    Parameters
    ----------
    numbers : ndarray of shape (b,), int64
        Of the samples in the corpus.
    input_ids : ndarray of shape (b, L), int64
    segment_ids : ndarray of shape (b, L), int32
        0 where there is padding; else which of the sample's documents a token is of, from 1. Attention stays inside.
    token_type_ids : ndarray of shape (b, L), int64
        1 for the second of a pair of sentences, else 0.
    masked : Masked, optional
        Of samples that were masked once.
    next_sentence : ndarray of shape (b,), int64, optional
        1 where the second sentence is a random one; where the corpus has pairs.
    """

    numbers: Array
    input_ids: Array
    segment_ids: Array
    token_type_ids: Array
    masked: Masked | None = None
    next_sentence: Array | None = None


def token_type(size: int) -> np.dtype[Any]:
    """The smallest type that holds the ids of a vocabulary: two bytes up to 65,536 tokens, else four."""
    return np.dtype("<u2" if size <= 1 << 16 else "<u4")
