import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nip.data.corpus.minhash import WIDTH, band_hashes, bands, jaccard, shingles, text_hash
from nip.data.corpus.normalize import normalize

SPOKEN = st.one_of(
    st.text(st.sampled_from("abC \n漢字é—"), max_size=60).map(normalize),
    st.lists(st.sampled_from(["a", "bc"]), max_size=40).map(" ".join),  # the same sequences again and again
)


def words(text):
    for alone in "漢字":
        text = text.replace(alone, f" {alone} ")
    return text.replace("C", "c").split()


def word_sequences(text):
    spelled = words(text)
    if not spelled:
        return []
    return [tuple(spelled[i : i + WIDTH]) for i in range(max(1, len(spelled) - WIDTH + 1))]


@given(st.lists(SPOKEN, max_size=5))
def test_shingles_are_equal_where_the_words_are(texts):
    hashes, rows = shingles([text.encode() for text in texts])
    expected = [sequence for text in texts for sequence in word_sequences(text)]
    assert np.diff(rows).tolist() == [len(word_sequences(text)) for text in texts]
    assert len(hashes) == len(expected)
    assert len(set(zip(hashes.tolist(), expected, strict=True))) == len(set(expected)) == len(set(hashes.tolist()))


@given(SPOKEN, SPOKEN)
def test_jaccard_is_that_of_the_sets(one, other):
    first, second = set(word_sequences(one)), set(word_sequences(other))
    expected = len(first & second) / len(first | second) if first | second else 1.0
    assert jaccard(one.encode(), other.encode()) == expected


def variants(n, seed=0):
    """Texts of 200 words, and each with some of its words replaced."""
    draw = random.Random(seed)
    for i in range(n):
        text = [f"w{draw.randrange(10**6)}" for _ in range(200)]
        other = [f"v{draw.randrange(10**6)}" if draw.random() < 0.002 * (i % 60) else word for word in text]
        yield " ".join(text).encode(), " ".join(other).encode()


@pytest.mark.parametrize("threshold", [0.5, 0.8, 0.9])
def test_bands_agree_as_often_as_they_should(threshold):
    n, rows = bands(threshold)
    pairs = list(variants(1500))
    one = band_hashes([first for first, _ in pairs], threshold)
    other = band_hashes([second for _, second in pairs], threshold)
    assert one.shape == (n, len(pairs))
    agree = (one == other).any(axis=0)
    chance = np.array([1 - (1 - jaccard(first, second) ** rows) ** n for first, second in pairs])
    spread = np.sqrt((chance * (1 - chance)).sum())
    assert abs(agree.sum() - chance.sum()) < 5 * spread + 1
    assert agree.sum() < len(pairs)  # some pairs are too different
    assert not (one[:, :-1] == other[:, 1:]).any()  # and texts that have nothing in common never agree


def test_bands_of_none_and_of_nothing():
    assert band_hashes([], 0.8).shape == (bands(0.8)[0], 0)
    assert band_hashes([b""], 0.8).shape == (bands(0.8)[0], 1)


def test_text_hash_tells_apart():
    assert text_hash(b"one") == text_hash(b"one") != text_hash(b"One")
    assert len(text_hash(b"")) == 16
