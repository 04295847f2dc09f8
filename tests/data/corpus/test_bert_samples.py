import random
from itertools import pairwise

import numpy as np
import pytest

from nip.data.corpus import Masking, Settings, build_corpus, open_corpus, verify
from nip.data.corpus.bert_samples import Sentences, pairs, singles
from nip.data.corpus.normalize import normalize, sentences
from nip.data.corpus.tokenizer import load_tokenizer
from nip.data.masking import IGNORED
from text_corpora import documents, write_texts

LENGTH = 32


@pytest.fixture(scope="module", params=[False, True], ids=["singles", "pairs"])
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("masked")
    settings = Settings(
        train_tokenizer=200,
        max_seq_length=LENGTH,
        masked_once=True,
        next_sentence=request.param,
        dup_factor=3,
        max_predictions_per_seq=4,
        seed=5,
        near_duplicates=0,
        frac_test=0,
    )
    build_corpus(str(write_texts(folder / "in", 3)), folder / "out", settings)
    return open_corpus(folder / "out"), settings


def token_sentences(corpus):
    """Every sentence of the source as token ids, by document."""
    tokenizer, _ = load_tokenizer(corpus.tokenizer)
    texts = [normalize(text) for k in range(3) for text in documents(60, k)]
    return [
        [found.ids for found in tokenizer.encode_batch(sentences(text), add_special_tokens=False)] for text in texts
    ]


def inside(part, whole):
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))


def test_samples_are_runs_of_a_document(made):
    corpus, settings = made
    assert verify(corpus.folder) == {"train": len(corpus)}
    flat = [[token for sentence in document for token in sentence] for document in token_sentences(corpus)]
    batch = corpus.samples(np.arange(len(corpus)))
    words = corpus.vocabulary
    restored = np.where(batch.masked.labels != IGNORED, batch.masked.labels, batch.masked.input_ids)
    random_seconds = 0
    for row in range(0, len(corpus), 5):
        n = int((batch.segment_ids[row] > 0).sum())
        ids, types = restored[row].tolist(), batch.token_type_ids[row].tolist()
        assert ids[0] == words.cls and ids[n - 1] == words.sep and set(ids[n:]) <= {words.pad}
        first = ids[1 : ids.index(words.sep)]
        second = ids[len(first) + 2 : n - 1]
        assert types == [0] * (len(first) + 2) + [1] * (n - len(first) - 2) + [0] * (LENGTH - n)
        assert first and any(inside(first, document) for document in flat)
        assert bool(second) == settings.next_sentence
        if second:
            assert any(inside(second, document) for document in flat)
            follows = any(inside(first + second, document) for document in flat)
            if n < LENGTH:  # nothing was cut away between them
                assert follows or batch.next_sentence[row] == 1
    if settings.next_sentence:
        random_seconds = batch.next_sentence.mean()
        assert 0.4 < random_seconds < 0.95


def test_masks_are_kept_and_differ_between_copies(made):
    corpus, _ = made
    batch = corpus.samples(np.arange(len(corpus)))
    masked = corpus.masked(batch, Masking(), seed=1, epoch=2)
    assert masked is batch.masked
    again = corpus.masked(corpus.samples(np.arange(len(corpus))), Masking(), seed=9, epoch=9)
    assert np.array_equal(masked.input_ids, again.input_ids)
    counts = (masked.labels != IGNORED).sum(axis=1)
    plain = ~np.isin(np.where(masked.labels != IGNORED, masked.labels, masked.input_ids), corpus.vocabulary.special)
    expected = np.minimum(4, np.maximum(1, np.floor(plain.sum(axis=1) * 0.15 + 0.5)))
    assert np.array_equal(counts, expected)
    for row in range(len(corpus)):
        places = np.flatnonzero(masked.labels[row] != IGNORED)
        assert masked.positions[row, : counts[row]].tolist() == places.tolist()
        assert np.array_equal(masked.position_labels[row, : counts[row]], masked.labels[row, places])
        assert (masked.position_labels[row, counts[row] :] == IGNORED).all()
    share = (masked.input_ids[masked.labels != IGNORED] == corpus.vocabulary.mask).mean()
    assert abs(share - 0.8) < 0.06
    assert len({tuple(row) for row in masked.input_ids.tolist()}) > 0.9 * len(corpus)


def test_another_length_is_refused(made):
    corpus, _ = made
    with pytest.raises(ValueError, match="were masked once, at 32 tokens; they cannot have 64"):
        open_corpus(corpus.folder, max_seq_length=64)


def toy(lengths):
    """Documents of sentences with these lengths."""
    flat = [n for document in lengths for n in document]
    documents = np.cumsum([0, *map(len, lengths)]).tolist()
    return Sentences(np.arange(sum(flat)), np.cumsum([0, *flat]).tolist(), documents)


def test_singles_keep_all_but_what_is_too_long():
    found = toy([[5] * 40, [300], [3]])
    for seed in range(20):
        draw = random.Random(seed)
        kept = [span for d in range(3) for span, _, _ in singles(found, d, 32, draw)]
        assert all(0 < end - begin <= 30 for begin, end in kept)
        assert all(a[1] <= b[0] for a, b in pairwise(kept))
    ends = {next(singles(toy([[300]]), 0, 32, random.Random(seed)))[0][0] for seed in range(30)}
    assert len(ends) > 5 and abs(np.mean(list(ends)) - 135) < 20  # cut from both sides alike


def test_pairs_of_single_sentences():
    only = toy([[4]])
    assert list(pairs(only, 0, 32, random.Random(0))) == []  # there is nothing to follow it
    two = toy([[4], [6]])
    assert list(pairs(two, 0, 32, random.Random(0))) == [((0, 4), (4, 10), True)]
    following = toy([[4, 6, 5, 3]])
    assert all(not is_random for *_, is_random in pairs(following, 0, 32, random.Random(0)))
