import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nip.data.masking import IGNORED, Masking, Vocabulary, mask

WORDS = Vocabulary(size=500, pad=0, cls=2, sep=3, mask=4, special=(0, 1, 2, 3, 4))


def batch(b, length, seed=0, filled=None):
    ids = np.random.default_rng(seed).integers(5, WORDS.size, (b, length))
    ids[:, 0] = WORDS.cls
    for row, n in zip(ids, filled or [length] * b, strict=True):
        row[n - 1] = WORDS.sep
        row[n:] = WORDS.pad
    return ids


@given(st.lists(st.integers(2, 40), min_size=1, max_size=6), st.integers(1, 12), st.floats(0.01, 1), st.integers(0, 9))
def test_what_holds_for_every_batch(filled, most, probability, seed):
    ids = batch(len(filled), 40, seed, filled)
    before = ids.copy()
    how = Masking(probability, most)
    found = mask(ids, np.arange(len(ids)), WORDS, how, seed=seed, epoch=0)
    assert np.array_equal(ids, before)
    for row, n in enumerate(filled):
        words = n - 2
        places = np.flatnonzero(found.labels[row] != IGNORED)
        expected = min(most, max(1, int(words * probability + 0.5)), words)
        assert len(places) == expected
        assert found.positions[row].tolist() == places.tolist() + [0] * (most - expected)
        assert found.position_labels[row].tolist() == ids[row, places].tolist() + [IGNORED] * (most - expected)
        assert np.array_equal(found.labels[row, places], ids[row, places])
        assert not set(ids[row, places].tolist()) & set(WORDS.special)
        elsewhere = np.delete(np.arange(40), places)
        assert np.array_equal(found.input_ids[row, elsewhere], ids[row, elsewhere])
        assert not set(found.input_ids[row, places].tolist()) & set(WORDS.special) - {WORDS.mask}


def test_a_sample_is_masked_alike_in_every_batch_and_otherwise_in_every_epoch():
    ids = batch(8, 64)
    numbers = np.array([7, 10**12, 3, 5, 0, 1, 2, 4])
    whole = mask(ids, numbers, WORDS, Masking(), seed=1, epoch=2)
    part = mask(ids[[1, 6]], numbers[[1, 6]], WORDS, Masking(), seed=1, epoch=2)
    assert np.array_equal(whole.input_ids[[1, 6]], part.input_ids)
    assert np.array_equal(whole.positions[[1, 6]], part.positions)
    for other in ({"seed": 2, "epoch": 2}, {"seed": 1, "epoch": 3}):
        assert not np.array_equal(whole.positions, mask(ids, numbers, WORDS, Masking(), **other).positions)


@pytest.mark.parametrize(("mask_share", "random_share"), [(0.8, 0.1), (1.0, 0.0), (0.5, 0.5)])
def test_shares(mask_share, random_share):
    ids = batch(4000, 128)
    how = Masking(0.15, 20, mask_share, random_share)
    found = mask(ids, np.arange(len(ids)), WORDS, how, seed=0, epoch=0)
    chosen = found.labels != IGNORED
    n = chosen.sum()
    assert n == 4000 * 19
    masked = found.input_ids[chosen] == WORDS.mask
    changed = (found.input_ids[chosen] != found.labels[chosen]) & ~masked
    for share, count in ((mask_share, masked.sum()), (random_share * (1 - 1 / (WORDS.size - 5)), changed.sum())):
        assert abs(count - n * share) <= 5 * np.sqrt(n * share * (1 - share)) + 1e-9
    drawn = np.bincount(found.input_ids[chosen][changed], minlength=WORDS.size)
    if random_share:
        assert not drawn[:5].any() and (drawn[5:] > 0).mean() > 0.9
    places = np.bincount(np.nonzero(chosen)[1], minlength=128)[1:-1]
    assert abs(places - n / 126).max() < 6 * np.sqrt(n / 126)


@pytest.mark.parametrize(
    "wrong",
    [{"probability": 0.0}, {"probability": 1.5}, {"max_predictions": 0}, {"mask_share": 0.95}, {"random_share": -0.1}],
)
def test_bad_input(wrong):
    with pytest.raises(ValueError, match="must be"):
        Masking(**wrong)
