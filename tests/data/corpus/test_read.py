import bz2
import gzip
import json
import lzma
import re
from itertools import pairwise
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus_files import bible_data, bible_verses
from nip.data.corpus import Settings, build_corpus, files
from nip.data.corpus import read as reading
from nip.data.corpus.files import Piece, cut, find_files, find_form
from nip.data.corpus.normalize import normalize
from nip.data.corpus.read import documents
from nip.data.hub import number_of_shards
from nip.data.offline.corpora import BOOKS

TEXT = st.text(st.sampled_from("ab é漢\t.\r"), max_size=12)
LINES = st.lists(TEXT, max_size=30)
BLOCKS = st.sampled_from([1, 7, 1 << 20])  # bytes that are read at once


def read(path, form, bounds=(), block=1 << 20, **options):
    edges = [0, *bounds, path.stat().st_size]
    pieces = [Piece(str(path), form, a, b) for a, b in pairwise(edges)] if bounds else None
    with patch.object(files, "_BLOCK", block):
        return [text for piece in pieces or [Piece(str(path), form)] for text in documents(piece, **options)]


def settled(texts):
    return [normal for normal in map(normalize, texts) if normal]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("files") / "file"


@given(LINES, st.booleans(), st.lists(st.integers(1, 200), max_size=4), BLOCKS)
def test_paragraphs_are_the_same_however_the_file_is_cut(file, lines, ends, bounds, block):
    raw = "\n".join(lines) + ("\n" if ends else "")
    file.write_bytes(raw.encode())
    if "\n" not in raw:  # line ends of a classic Mac
        raw = raw.replace("\r", "\n")
    expected = settled(re.split(r"\n(?:[ \t\r]*\n)+", "\n" + raw.replace("\u2028", "") + "\n"))
    assert settled(read(file, "text", block=block)) == expected
    size = file.stat().st_size
    assert settled(read(file, "text", sorted(b for b in bounds if b < size), block)) == expected


@given(LINES, st.booleans(), st.lists(st.integers(1, 200), max_size=4), BLOCKS)
def test_lines_are_the_same_however_the_file_is_cut(file, lines, ends, bounds, block):
    raw = "\n".join(lines) + ("\n" if ends else "")
    file.write_bytes(raw.encode())
    if "\n" not in raw:
        lines = raw.split("\r")
    size = file.stat().st_size
    assert settled(read(file, "lines", sorted(b for b in bounds if b < size), block)) == settled(lines)


@given(st.lists(TEXT, max_size=8), st.lists(st.integers(1, 400), max_size=4), BLOCKS)
def test_json_lines_extracted_and_pages_however_the_file_is_cut(file, texts, bounds, block):
    page = "<page>\n <ns>0</ns>\n <revision><text>{}</text></revision>\n</page>"
    forms = {
        "jsonl": [json.dumps({"id": "1", "title": "t", "text": text}) for text in texts],
        "extracted": [f'<doc id="1" url="u" title="t">\nt\n\n{text}\n</doc>' for text in texts],
        "wikipedia": [page.format(text) for text in texts],
    }
    for form, parts in forms.items():
        file.write_bytes("\n".join(parts).encode())
        size = file.stat().st_size
        said = [text.replace("\r", "\n") for text in texts] if form == "wikipedia" else texts  # so XML has it
        assert settled(read(file, form, sorted(b for b in bounds if b < size), block)) == settled(said), form


def test_a_book_is_one_document_and_a_long_one_several(tmp_path, monkeypatch):
    longest = 1000
    monkeypatch.setattr(reading, "LONGEST", longest)
    book = tmp_path / "book.txt"
    book.write_text("\ufeffOne.\n\nTwo.\n")
    assert settled(read(book, "books")) == ["One.\nTwo."]
    for form in ("books", "text"):
        for word in ("wört ", "wört\n", "ö"):
            whole = word * (9 * longest // len(word.encode()))
            book.write_text(whole)
            found = read(book, form, block=300)
            assert len(found) > 3 and "".join(found) == whole
            assert "\n" not in word or found == read(book, form, block=4096)  # lines: wherever a block ends
            assert max(len(text.encode()) for text in found) <= 2 * longest


@pytest.mark.parametrize(("suffix", "module"), [(".gz", gzip), (".bz2", bz2), (".xz", lzma)])
def test_packed_files(tmp_path, suffix, module):
    path = tmp_path / f"a.txt{suffix}"
    path.write_bytes(module.compress(b"one\n\ntwo" * 5000))
    assert find_form(path) == "text"
    assert len(read(path, "text")) == 5001
    whole = path.read_bytes()
    path.write_bytes(whole[:-12])
    with pytest.raises(ValueError, match=r"a\.txt\..* is truncated or damaged"):
        read(path, "text")
    # already what the form is known by
    for damaged in (b"hello, I am not packed", whole[:14], whole[:12] + b"\xff" * 40):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.txt\..* is truncated or damaged"):
            find_form(path)


def test_parquet_in_pieces(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    texts = [f"text {i}" if i % 7 else None for i in range(100)]
    pq.write_table(pa.table({"id": range(100), "content": texts}), path, row_group_size=9)
    assert find_form(path) == "parquet"
    parts = cut([(path, "parquet")], 200)
    assert len(parts) > 2
    assert [text for part in parts for piece in part for text in documents(piece)] == [t for t in texts if t]
    with pytest.raises(ValueError, match=r"a\.parquet has no column words\. Its columns are id, content"):
        list(documents(parts[0][0], column="words"))
    with pytest.raises(ValueError, match=r"the text is int, not a string"):
        list(documents(parts[0][0], column="id"))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"a\.parquet is truncated"):
        cut([(path, "parquet")], 200)


def test_corpora_that_come_with_packages(tmp_path):
    (tmp_path / "ca01").write_text("\n\n\tThe/at Fulton/np-tl said/vbd ./.\n\n")
    (tmp_path / "a.dict.dz").write_bytes(gzip.compress(b"Aard\n   An animal.\n\nAba\n"))
    lines, verses = bible_verses()
    (tmp_path / "bible.data").write_bytes(bible_data(lines))
    forms = {path.name: find_form(path) for path in find_files(tmp_path)}
    assert forms == {"ca01": "brown", "a.dict.dz": "text", "bible.data": "bible"}
    found = {name: settled(read(tmp_path / name, form)) for name, form in forms.items()}
    assert found["ca01"] == ["The Fulton said ."]
    assert found["a.dict.dz"] == ["Aard\nAn animal.", "Aba"]
    assert found["bible.data"] == [" ".join(verses[book]) for book in BOOKS]


def test_streams_of_the_hub_are_read_shard_by_shard(tmp_path):
    for part in range(3):
        rows = [{"text": f"{part} {i}"} for i in range(4)]
        (tmp_path / f"part-{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert number_of_shards(str(tmp_path)) == 3
    found = [list(documents(Piece(str(tmp_path), "hub", shard))) for shard in range(3)]
    assert found == [[f"{part} {i}" for i in range(4)] for part in range(3)]


def test_a_configuration_of_a_set(tmp_path, monkeypatch):
    def load_dataset(*which, **options):
        asked.append(which)
        raise ConnectionError("no network")

    asked = []
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(OSError, match=r"wikimedia/wikipedia:20231101\.en, nor could it be fetched"):
        build_corpus("wikimedia/wikipedia:20231101.en", tmp_path / "out", Settings(train_tokenizer=100))
    assert asked == [("wikimedia/wikipedia", "20231101.en")]


def test_a_set_that_cannot_be_had(monkeypatch):
    def load_dataset(name, **options):
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(OSError, match=r"There is no file or folder nobody/nothing, nor could it be fetched"):
        list(documents(Piece("nobody/nothing", "hub")))


def test_wrong_encodings_name_file_and_offset(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\n\ntwo caf\xe9\n\nthree")
    with pytest.raises(ValueError, match=r"a\.txt, byte 12: .* not encoded in utf-8"):
        read(path, "text")
    assert read(path, "text", encoding="latin-1")[1] == "two café\n"
    assert settled(read(path, "text", bad_bytes="drop")) == ["one", "two caf", "three"]


@pytest.mark.parametrize(
    ("form", "content", "message"),
    [
        ("jsonl", b'{"text": "a"}\n{"text": ', r"byte 14: the line is not JSON"),
        ("jsonl", b"[1]\n", r"byte 0: the line is not a JSON object"),
        ("jsonl", b'{"words": "a"}', r"has no column text or"),
        ("jsonl", b'{"text": 3}', r"byte 0: the text is int, not a string"),
        ("wikipedia", b"<page>\n<a>\n</page>", r"byte 0: the page is not XML"),
        ("wikipedia", b"<page>\n<a>\n", r"is truncated: the element at byte 0 has no </page>"),
    ],
)
def test_damaged_files(tmp_path, form, content, message):
    path = tmp_path / "a"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(path, form)
