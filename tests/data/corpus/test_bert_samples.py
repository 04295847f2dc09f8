import random

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


def overlong_and_short():
    """Documents whose sentences have between 1 and 300 tokens."""
    draw = random.Random(3)
    return toy([[draw.choice([1, 2, 5, 9, 29, 30, 31, 75, 300]) for _ in range(n)] for n in (40, 1, 7, 1, 1, 12)])


@pytest.mark.parametrize("found", [toy([[5] * 40, [300], [3]]), overlong_and_short()], ids=["few", "many"])
def test_singles_have_every_token_once(found):
    for seed in range(20):
        draw = random.Random(seed)
        spans = [span for d in range(len(found.documents) - 1) for span, _, _ in singles(found, d, 32, draw)]
        assert all(0 < end - begin <= 30 for begin, end in spans)
        assert [token for span in spans for token in range(*span)] == list(range(found.tokens.size))
        document_ends = {found.ends[i] for i in found.documents}
        assert document_ends <= {0, *(end for _, end in spans)}


def test_singles_of_short_documents_end_with_sentences():
    assert list(singles(toy([[10, 10, 10]]), 0, 32, random.Random(1))) == [((0, 30), None, False)]
    spans = [span for span, _, _ in singles(toy([[12] * 5]), 0, 32, random.Random(1))]
    assert spans == [(0, 30), (30, 60)]  # BERT's code drops 6 tokens of every 36


@pytest.mark.parametrize("found", [toy([[5] * 40, [300], [3]]), overlong_and_short()], ids=["few", "many"])
def test_pairs_have_every_token_once(found):
    n_random = n_pairs = 0
    for seed in range(20):
        draw = random.Random(seed)
        own = []
        for d in range(len(found.documents) - 1):
            begin, end = (found.ends[found.documents[i]] for i in (d, d + 1))
            for first, second, is_random in pairs(found, d, 32, draw):
                assert first[0] < first[1] and second[0] < second[1]
                assert first[1] - first[0] + second[1] - second[0] <= 29
                own += range(*first)
                n_pairs += 1
                n_random += is_random
                if is_random:
                    assert not begin <= second[0] < end
                else:
                    assert second[0] == first[1]
                    own += range(*second)
        assert own == list(range(found.tokens.size))
    assert 0.4 < n_random / n_pairs < 0.8


def test_pairs_of_single_sentences():
    assert list(pairs(toy([[1]]), 0, 32, random.Random(0))) == []  # there is nothing to follow it
    ((first, second, is_random),) = pairs(toy([[4]]), 0, 32, random.Random(0))
    assert (first[0], first[1], second[1], is_random) == (0, second[0], 4, False)
    two = toy([[4], [6]])
    assert list(pairs(two, 0, 32, random.Random(0))) == [((0, 4), (4, 10), True)]
    following = toy([[4, 6, 5, 3]])
    assert all(not is_random for *_, is_random in pairs(following, 0, 32, random.Random(0)))


@pytest.mark.parametrize("next_sentence", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "the cat sat on the mat. ",
        "the cat sat on the mat and ",
        "Кот сидел на крыше. ",
        "кот сидел на крыше ",
        "猫坐在屋顶上。",
        "猫坐在屋顶上",
    ],
)
def test_texts_of_every_script_are_in_the_samples(tmp_path, text, next_sentence):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("\n\n".join(text * (100 + k) for k in range(6)))
    common = {"train_tokenizer": 120, "frac_test": 0, "near_duplicates": 0, "max_seq_length": LENGTH}
    build_corpus(str(tmp_path / "in"), tmp_path / "packed", Settings(**common))
    once = Settings(**common, masked_once=True, next_sentence=next_sentence, dup_factor=2)
    build_corpus(str(tmp_path / "in"), tmp_path / "once", once)
    packed, masked = open_corpus(tmp_path / "packed"), open_corpus(tmp_path / "once")
    split = masked.manifest["splits"]["train"]
    assert split["sampled"] == split["tokens"] == packed.tokens > 500
    if not next_sentence:
        batch = masked.samples(np.arange(len(masked)))
        plain = (batch.segment_ids > 0).sum() - 2 * len(masked)
        assert plain == 2 * packed.tokens
    assert len(masked) < 2 * 2.5 * packed.tokens / LENGTH
