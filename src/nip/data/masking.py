"""Masks for masked language modelling, drawn on the fly: a function of seed, epoch and sample number alone.

The same sample is masked differently in every epoch, and identically whatever batch, process or machine reads it.

The library masks tokens in three places. They share BERT's replacement rule (`replaced`) and differ in the draw: `mask`
predicts a fixed number of tokens per sample, as BERT's own samples have; `nip.finetuning.masked_lm.masking` predicts
each token with a given probability, as Hugging Face's collator does; `nip.lra.denoising` does so too, but hides every
predicted token and predicts at least one per sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nip.counter_rng import key, mix, split_mix

Array = NDArray[Any]

IGNORED = -100  # the label of a token that is not predicted
MASK_SHARE, RANDOM_SHARE = 0.8, 0.1  # BERT's


@dataclass(frozen=True)
class Masking:
    """How many tokens are predicted, and what replaces them.

    Parameters
    ----------
    probability : float, default=0.15
        Share of a sample's non-special tokens that are predicted; at least one is.
    max_predictions : int, default=20
        Maximum per sample.
    mask_share, random_share : float, default=0.8 and 0.1
        Shares of the predicted tokens that become ``[MASK]`` and a random token; the rest stays unchanged. 1 and 0
        replace all by ``[MASK]``.

    Raises
    ------
    ValueError
        If a share is outside its range or no token can be predicted.
    """

    probability: float = 0.15
    max_predictions: int = 20
    mask_share: float = MASK_SHARE
    random_share: float = RANDOM_SHARE

    def __post_init__(self) -> None:
        if not 0 < self.probability <= 1:
            raise ValueError(
                f"The share of tokens to predict must be above 0, at most 1. Got {self.probability} instead."
            )
        if self.max_predictions < 1:
            raise ValueError(f"Predictions per sample must be at least 1. Got {self.max_predictions} instead.")
        if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1:
            raise ValueError(
                f"The shares of masked and random tokens must be at least 0 and together at most 1. "
                f"Got {self.mask_share} and {self.random_share} instead."
            )


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer's size and special tokens.

    Parameters
    ----------
    size : int
        Token ids are in [0, size).
    pad, cls, sep, mask : int
        Ids of the special tokens.
    special : tuple of int
        All special ids; they are never predicted and never drawn as a random token.
    """

    size: int
    pad: int
    cls: int
    sep: int
    mask: int
    special: tuple[int, ...]


@dataclass(frozen=True)
class Masked:
    """b masked samples of L tokens with at most P predicted tokens each.

    Parameters
    ----------
    input_ids : ndarray of shape (b, L), int64
        With masked and random tokens.
    labels : ndarray of shape (b, L), int64
        The original token where one is predicted, −100 elsewhere.
    positions : ndarray of shape (b, P), int64
        Positions of the predicted tokens, ascending; padded with 0.
    position_labels : ndarray of shape (b, P), int64
        Labels at those positions; padded with −100.
    """

    input_ids: Array
    labels: Array
    positions: Array
    position_labels: Array


def mask(input_ids: Array, numbers: Array, vocabulary: Vocabulary, how: Masking, *, seed: int, epoch: int) -> Masked:
    """Mask a batch of samples.

    Parameters
    ----------
    input_ids : ndarray of shape (b, L), int
        Not modified.
    numbers : ndarray of shape (b,), int
        Sample numbers in the corpus.
    vocabulary : Vocabulary
    how : Masking
    seed, epoch : int

    Returns
    -------
    Masked

    Notes
    -----
    In a sample with m non-special tokens, min(P, max(1, ⌊m · probability + ½⌋)) are predicted: those with the smallest
    of m random numbers, so every set of that size is equally likely.
    """
    b, length = input_ids.shape
    labels = np.full((b, length), IGNORED, np.int64)
    most = min(how.max_predictions, length)
    plain = ~np.isin(input_ids, np.array(vocabulary.special))
    counts = plain.sum(axis=1)
    chosen_counts = np.minimum(np.maximum(np.floor(counts * how.probability + 0.5).astype(np.int64), 1), counts)
    chosen_counts = np.minimum(chosen_counts, most)

    of_sample = split_mix(key(seed, epoch), numbers)[:, None]
    draws = split_mix(of_sample, np.arange(length))  # (b, L), one random number a token
    draws = np.where(plain, draws >> np.uint64(1), np.uint64((1 << 64) - 1))  # special ones come last
    firsts = np.argsort(draws, axis=1, kind="stable")[:, :most]
    taken = np.arange(most) < chosen_counts[:, None]
    positions = np.sort(np.where(taken, firsts, length), axis=1)  # (b, P), ascending
    taken = positions < length
    positions = np.where(taken, positions, 0)

    rows, columns = np.nonzero(taken)
    places = positions[rows, columns]
    found = np.asarray(input_ids[rows, places], np.int64)
    labels[rows, places] = found
    position_labels = np.full((b, most), IGNORED, np.int64)
    position_labels[rows, columns] = found

    second = split_mix(of_sample[rows, 0] ^ np.uint64((1 << 64) - 1), places)
    fate = (second >> np.uint64(40)) / float(1 << 24)
    words = np.setdiff1d(np.arange(vocabulary.size), vocabulary.special)
    others = words[(mix(second) % np.uint64(words.size)).astype(np.int64)]
    masked = np.array(input_ids, np.int64)
    masked[rows, places] = replaced(found, fate, others, vocabulary.mask, how.mask_share, how.random_share)
    return Masked(masked, labels, positions, position_labels)


def replaced(
    tokens: Array,
    fate: Array,
    others: Array,
    mask_token: int,
    mask_share: float = MASK_SHARE,
    random_share: float = RANDOM_SHARE,
) -> Array:
    """BERT's input for tokens that are predicted: most become the mask token, some another token, the rest stay.

    Parameters
    ----------
    tokens : ndarray of int
    fate : ndarray of float, of the same shape
        Uniform draws from [0, 1).
    others : ndarray of int, of the same shape
        Random tokens.
    mask_token : int
    mask_share, random_share : float, default=0.8 and 0.1

    Returns
    -------
    ndarray of int, of the same shape

    Examples
    --------
    >>> replaced(np.array([7, 7, 7]), np.array([0.79, 0.89, 0.9]), np.array([1, 2, 3]), mask_token=0).tolist()
    [0, 2, 7]
    """
    return np.where(fate < mask_share, mask_token, np.where(fate < mask_share + random_share, others, tokens))
