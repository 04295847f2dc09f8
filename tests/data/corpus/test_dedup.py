import random

import numpy as np
import pytest

from nip.data.corpus import dedup
from nip.data.corpus.clean import chunk_names, clean_part, open_chunk, parts_read
from nip.data.corpus.dedup import Fate, fates
from nip.data.corpus.files import Piece
from nip.data.corpus.minhash import WIDTH
from nip.data.corpus.settings import Settings


def run(function, arguments):
    return [function(*each) for each in arguments]


def formatted(folder, files, **options):
    """Format files, one a part; their chunks' names."""
    settings = Settings(train_tokenizer=100, **options)
    for number, texts in enumerate(files):
        path = folder / f"{number}.txt"
        path.write_text("\n\n".join(texts))
        clean_part(folder, number, (Piece(str(path), "text"),), settings)
    return chunk_names(parts_read(folder, len(files))), settings


def corpus(seed, n=400):
    """Texts, some equal to one before, some like one before, some like one but for too much."""
    draw = random.Random(seed)
    texts = []
    for _ in range(n):
        kind = draw.random()
        if texts and kind < 0.15:
            text = draw.choice(texts)
        elif texts and kind < 0.6:
            changed = draw.choice([0.005, 0.01, 0.03, 0.1])
            text = [f"w{draw.randrange(10**6)}" if draw.random() < changed else word for word in draw.choice(texts)]
        else:
            text = [f"w{draw.randrange(10**6)}" for _ in range(draw.randrange(1, 150))]
        texts.append(list(text))
    return [" ".join(text) for text in texts]


def shingled(text):
    words = text.split()
    return {tuple(words[i : i + WIDTH]) for i in range(max(1, len(words) - WIDTH + 1))}


def by_all_pairs(texts, threshold):
    """Which texts are equal to one before, and which others have a Jaccard index of the threshold with one before."""
    sets = [shingled(text) for text in texts]
    equal = [text in texts[:i] for i, text in enumerate(texts)]
    similar = [
        not equal[i]
        and any(not equal[j] and len(sets[i] & sets[j]) >= threshold * len(sets[i] | sets[j]) for j in range(i))
        for i in range(len(texts))
    ]
    return np.array(equal), np.array(similar)


@pytest.mark.parametrize("at_once", [1 << 22, 50])
@pytest.mark.parametrize("threshold", [0.6, 0.8])
def test_against_all_pairs(tmp_path, monkeypatch, at_once, threshold):
    monkeypatch.setattr(dedup, "AT_ONCE", at_once)
    monkeypatch.setattr(dedup, "_PAIRS", 7)
    texts = corpus(seed=1)
    names, settings = formatted(tmp_path, [texts[:150], texts[150:160], texts[160:]], near_duplicates=threshold)
    found = fates(tmp_path, names, settings, run)
    equal, similar = by_all_pairs(texts, threshold)
    assert np.array_equal(found == Fate.EQUAL, equal)
    assert not ((found == Fate.SIMILAR) & ~similar).any()  # nothing is dropped by mistake
    assert (found == Fate.SIMILAR).sum() >= 0.97 * similar.sum() > 30


def test_the_split_is_of_the_document_whatever_else_there_is(tmp_path):
    texts = [f"document {i} of these" for i in range(2000)]
    splits = []
    for name, order in (("a", texts), ("b", [*texts[::-1], "more"])):
        (tmp_path / name).mkdir()
        names, settings = formatted(tmp_path / name, [order[:700], order[700:]], frac_test=0.25, near_duplicates=0)
        found = fates(tmp_path / name, names, settings, run)
        splits.append(dict(zip(order, found.tolist(), strict=True)))
    assert all(splits[0][text] == splits[1][text] for text in texts)
    share = np.mean([splits[0][text] == Fate.TEST for text in texts])
    assert abs(share - 0.25) < 0.05


def test_what_is_kept_on_demand(tmp_path):
    texts = ["one two three four five six"] * 3
    names, settings = formatted(tmp_path, [texts], exact_duplicates=True, near_duplicates=0, frac_test=0)
    assert fates(tmp_path, names, settings, run).tolist() == [Fate.TRAIN] * 3
    assert fates(tmp_path, names, settings, run, in_test=[True]).tolist() == [Fate.TEST] * 3


def test_chunks_hold_the_documents(tmp_path):
    texts = [f"text {i} " * 20_000 for i in range(20)]
    names, _ = formatted(tmp_path, [["a", "too long to keep"], texts], shard_mb=1, max_chars=10**6)
    assert len(names) > 3
    found = [open_chunk(tmp_path, name) for name in names]
    kept = [chunk.document(i).decode() for chunk in found for i in range(len(chunk))]
    assert kept == ["a", "too long to keep", *(text.strip() for text in texts)]
    whole = b"".join((tmp_path / f"{name}.txt").read_bytes() for name in names).decode()
    assert whole.split("\n\n")[:-1] == kept


def test_lengths(tmp_path):
    names, _ = formatted(tmp_path, [["a", "ab", "abc", "abcd", ""]], min_chars=2, max_chars=3)
    (read,) = parts_read(tmp_path, 1)
    assert (read.documents, read.too_short, read.too_long, read.characters, len(names)) == (4, 1, 1, 5, 1)
