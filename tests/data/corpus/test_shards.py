import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nip.data.corpus.shards import LEAST, assemble, pack

LENGTHS = st.lists(st.integers(1, 60), max_size=12)
PAD, CLS, SEP = 0, 1, 2


def by_hand(documents, length, packing):
    """Samples as lists of segments, each a list of tokens, filled one after the other."""
    samples = []
    for document in documents:
        rest = list(document)
        while rest:
            used = sum(len(segment) + 2 for segment in samples[-1]) if samples else length
            room = length - used - 2
            if not samples or not (room >= len(rest) or room >= LEAST) or room < 1 or not packing:
                samples.append([])
                room = length - 2
            samples[-1].append(rest[:room])
            rest = rest[room:]
    return samples


@given(LENGTHS, st.integers(3, 40), st.booleans())
def test_samples_are_filled_in_order(lengths, length, packing):
    documents = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    tokens = np.arange(documents[-1]) + 3
    texts = np.split(tokens, documents[1:-1]) if lengths else []
    expected = by_hand(texts, length, packing)
    starts = pack(documents, length, packing=packing)
    assert len(starts) == len(expected) + 1
    for begin, end, segments in zip(starts[:-1], starts[1:], expected, strict=True):
        input_ids, segment_ids = np.full(length, PAD), np.zeros(length, np.int32)
        assemble(tokens, documents, begin, end, CLS, SEP, input_ids, segment_ids)
        row = [token for segment in segments for token in (CLS, *segment, SEP)]
        numbers = [k for k, segment in enumerate(segments, start=1) for _ in range(len(segment) + 2)]
        assert input_ids.tolist() == row + [PAD] * (length - len(row))
        assert segment_ids.tolist() == numbers + [0] * (length - len(row))


@pytest.mark.parametrize("length", [128, 512])
def test_hardly_anything_is_padding(length):
    lengths = np.random.default_rng(0).integers(1, 2000, 2000)
    documents = np.concatenate([[0], np.cumsum(lengths)])
    n_samples = len(pack(documents, length)) - 1
    written = lengths.sum() + 2 * (len(lengths) + n_samples)
    assert written > 0.97 * n_samples * length
