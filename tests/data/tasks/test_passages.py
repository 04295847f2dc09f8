import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus_files import bible_data, bible_verses, brown_files
from nip.data import SPLITS, TASKS, open_split, read_manifest, verify
from nip.data.offline.corpora import Text
from nip.data.tasks.build import build
from nip.data.tasks.passages import classified, cut, paired, split_passages

words = st.lists(st.sampled_from([b"a", b"of", b"Genesis", b"x" * 30]), max_size=200).map(b" ".join)


@given(words, st.integers(1, 60))
def test_pieces_are_the_text_in_order(content, length):
    pieces = cut(content, length)
    place = 0
    for piece in pieces:
        assert 0 < len(piece) <= length
        found = content.index(piece, place)
        assert found - place <= 1  # nothing between them but a space
        place = found + len(piece)
        whole = content[place : place + 1] in (b" ", b"")
        assert whole or b" " not in content[found : place + 1]  # a word is cut only where it fills the piece
    assert 2 * (len(content) - place - 1) < length


def texts_of(n_texts, size, labels=None):
    """Texts whose every word says where it is from."""
    return [
        Text(f"t{i}", labels[i] if labels else i, b" ".join(b"%d:%d" % (i, k) for k in range(size)))
        for i in range(n_texts)
    ]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("seed", [0, 7])
def test_no_passage_is_in_two_splits_and_none_is_lost(whole, seed):
    texts = texts_of(24, 400, labels=[i % 3 for i in range(24)])
    dealt = split_passages(texts, length=100, whole=whole, seed=seed)
    everything = [piece for text in texts for piece in cut(text.content, 100)]
    assert sorted(each.content for split in SPLITS for each in dealt[split]) == sorted(everything)
    for split in SPLITS:
        for each in dealt[split]:
            assert texts[each.text].label == each.label
            assert each.content in texts[each.text].content
    shares = {split: np.bincount([each.label for each in dealt[split]]) for split in SPLITS}
    if whole:
        of = {split: {each.text for each in dealt[split]} for split in SPLITS}
        assert [len(of[split]) for split in SPLITS] == [18, 3, 3]
        assert len(set.union(*of.values())) == 24
    else:
        n = sum(shares.values())
        assert shares["dev"].tolist() == shares["test"].tolist() == (n // 10).tolist()
    other = split_passages(texts, length=100, whole=whole, seed=seed + 1)
    assert other["test"] != dealt["test"]


def test_classified_passages_keep_their_class():
    texts = texts_of(22, 300)
    dealt = split_passages(texts, length=80, whole=False)
    examples = classified(dealt["train"], TASKS["bible-books"], "train", seed=3)
    assert len(examples) == len(dealt["train"])
    for i in range(len(examples)):
        passage = bytes((examples.sequence(i) - 1).astype(np.uint8))
        assert all(int(word.split(b":")[0]) == examples.labels[i] for word in passage.split() if b":" in word[1:])
    assert (np.diff(examples.labels) < 0).any()  # not class by class


def test_pairs_are_of_the_same_text_or_not():
    texts = texts_of(5, 60)
    dealt = split_passages(texts, length=40, whole=False, seed=1)
    n = 20000
    pairs = paired(dealt["train"], n, TASKS["bible-pairs"], "train", seed=2)
    pool = [each.content for each in dealt["train"]]
    number = {content: i for i, content in enumerate(pool)}
    of = np.array([each.text for each in dealt["train"]])
    place = [[number[bytes((pairs.sequence(i, part) - 1).astype(np.uint8))] for part in (0, 1)] for i in range(n)]
    first, second = np.array(place).T
    assert np.array_equal(of[first] == of[second], pairs.labels == 1)
    assert (first != second).all()
    assert abs(pairs.labels.mean() - 0.5) < 4 * 0.5 / np.sqrt(n)
    m = len(pool)
    assert np.abs(np.bincount(first, minlength=m) / n - 1 / m).max() < 5 * np.sqrt(1 / m / n)
    for label in (0, 1):  # every second passage that the label allows comes up, about as often
        together = np.zeros((m, m))
        np.add.at(together, (first[pairs.labels == label], second[pairs.labels == label]), 1)
        allowed = (of[:, None] == of[None]) == bool(label)
        np.fill_diagonal(allowed, False)
        expected = allowed / allowed.sum(axis=1, keepdims=True) * together.sum(axis=1, keepdims=True)
        assert not together[~allowed].any()
        assert np.abs(together - expected)[allowed].max() < 6 * np.sqrt(expected[allowed].max())


@pytest.fixture
def files(tmp_path):
    home = tmp_path / "files"
    home.mkdir()
    (home / "bible.data").write_bytes(bible_data(bible_verses(n_chapters=14)[0]))
    brown_files(home / "brown", per_genre=11)
    return home


PLACES = {"bible": "bible.data", "brown": "brown"}


@pytest.mark.parametrize(
    ("asked", "source", "makes"),
    [
        ("text", "bible", "bible-books"),
        ("bible-books", None, "bible-books"),
        ("retrieval", "bible", "bible-pairs"),
        ("text", "brown", "brown-genres"),
        ("brown-genres", None, "brown-genres"),
        ("brown-pairs", "brown", "brown-pairs"),
    ],
)
def test_stand_ins_have_names_of_their_own(asked, source, makes, files, tmp_path):
    out = tmp_path / "data"
    sizes = {"train": 40, "dev": 9, "test": 8} if makes.endswith("pairs") else {}
    place = files / PLACES[makes.split("-")[0]]
    parameters = {"length": 300, **sizes}
    assert build(asked, out, origin=str(place), source=source, seed=2, parameters=parameters)
    assert [path.name for path in out.iterdir()] == [makes]
    counted = verify(makes, out)
    assert not sizes or counted == sizes
    manifest = read_manifest(makes, out)
    assert manifest["parameters"]["length"] == 300
    assert "Not a task of Long Range Arena" in manifest["stand_in"]
    train = open_split(makes, "train", out)
    assert train.lengths.max() <= 300
    assert set(np.unique(train.labels)) == set(range(TASKS[makes].n_classes))
    assert not build(asked, out, origin=str(place), source=source, seed=2, parameters=parameters)
    with pytest.raises(ValueError, match="length is 300 there and 200 here"):
        build(asked, out, origin=str(place), source=source, seed=2, parameters={**parameters, "length": 200})


def test_no_text_of_brown_is_in_two_splits(files, tmp_path):
    build("brown-genres", tmp_path / "data", origin=str(files / "brown"))
    seen = {}
    for split in SPLITS:
        examples = open_split("brown-genres", split, tmp_path / "data")
        for i in range(len(examples)):
            passage = bytes((examples.sequence(i) - 1).astype(np.uint8)).decode()
            for word in passage.split():
                if word.startswith("c") and word.endswith("-word") and len(word) == 9:
                    assert seen.setdefault(word, split) == split
    assert len(seen) == 165


def test_the_same_files_and_seed_give_the_same_bytes_on_every_machine(files, tmp_path):
    digest = hashlib.sha256()
    for task, place in {"bible-books": "bible.data", "brown-pairs": "brown"}.items():
        build(task, tmp_path / "data", origin=str(files / place), seed=42)
        for split in SPLITS:
            examples = open_split(task, split, tmp_path / "data")
            digest.update(examples.tokens.tobytes() + examples.labels.astype("<i8").tobytes())
    assert digest.hexdigest() == "0d1951d88679e17216b3c978ce338a5cd3f555c069c0b516fe82fe41ba3d0141"


def test_stand_ins_are_never_meant_unasked(files, tmp_path):
    with pytest.raises(ValueError, match="has none of the formats of text"):
        build("text", tmp_path / "data", origin=str(files / "brown"))
    with pytest.raises(ValueError, match="text is read from files"):
        build("text", tmp_path / "data")
    with pytest.raises(ValueError, match="brown of text reads files: name them"):
        build("text", tmp_path / "data", source="brown")


@pytest.mark.parametrize(
    ("task", "parameters", "message"),
    [
        ("bible-books", {"length": 0}, "'length' parameter of passages must be an integer of at least 1"),
        ("bible-books", {"length": 4001}, "'length' parameter of passages must be at most 4000"),
        ("bible-books", {"train": 5}, "no parameter 'train'"),
        ("bible-books", {"length": 4000}, "Class 0 is too small"),
        ("bible-pairs", {"length": 300, "dev": 0}, "'dev' parameter of pairs"),
    ],
)
def test_bad_parameters_are_refused(task, parameters, message, files, tmp_path):
    with pytest.raises(ValueError, match=message):
        build(task, tmp_path / "data", origin=str(files / "bible.data"), parameters=parameters)
    assert not list((tmp_path / "data").glob("*"))


def test_missing_files_say_where_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr("nip.data.offline.corpora.BIBLE", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="apt install bible-kjv-text"):
        build("bible-books", tmp_path)
