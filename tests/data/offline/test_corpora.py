"""The decoder against an encoder written for these tests, and against gzip, which reads .Z files too."""

import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus_files import bible_data, bible_verses, brown_files, compress
from nip.data.offline import corpora
from nip.data.offline.corpora import BOOKS, GENRES, decompress


@pytest.fixture
def bible(tmp_path):
    path = tmp_path / "bible.data"
    path.write_bytes(bible_data(bible_verses()[0]))
    return path


def test_the_bible_is_read_without_numbers(tmp_path, bible):
    _, verses = bible_verses()
    texts = corpora.read_bible(bible)
    assert [text.name for text in texts] == list(BOOKS)
    assert [text.label for text in texts] == list(range(len(BOOKS)))
    assert {text.name: text.content.decode() for text in texts} == {b: " ".join(v) for b, v in verses.items()}


def test_other_books_are_left_out(tmp_path):
    path = tmp_path / "bible.data"
    path.write_bytes(bible_data(bible_verses(books=("Ruth", *BOOKS, "Rev"))[0]))
    assert [text.name for text in corpora.read_bible(path)] == list(BOOKS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data[:-1], "truncated or damaged: its table ends at"),
        (lambda data: data[:0x58], "truncated"),
        (lambda data: data[:0x100], "truncated"),
        (lambda data: data + b"x", "truncated or damaged"),
        (lambda data: b"EC03" + data[4:], "not bible.data: it does not begin with"),
        (lambda data: b"", "not bible.data"),
        (lambda data: data.replace(b"\x1f\x9d", b"\x1f\x8b"), "truncated or damaged"),
        (lambda data: data[:0x54] + b"\0\0\1\0" + data[0x58:], "damaged: it unpacks to more than"),
        (lambda data: data[:0x54] + b"\0\1\0\0" + data[0x58:], "damaged: it has .* do not fill"),
    ],
)
def test_a_damaged_bible_is_refused(change, message, bible):
    bible.write_bytes(change(bible.read_bytes()))
    with pytest.raises(ValueError, match=message):
        corpora.read_bible(bible)


def test_a_bible_without_a_book_or_with_a_strange_line_is_refused(bible):
    bible.write_bytes(bible_data(bible_verses(books=BOOKS[:-2])[0]))
    with pytest.raises(ValueError, match="has no verse of John, Acts"):
        corpora.read_bible(bible)
    lines, _ = bible_verses()
    lines[7] = "Ge one:1 In the beginning"
    bible.write_bytes(bible_data(lines))
    with pytest.raises(ValueError, match="line 8 of the text: b'Ge one:1 In the beginning' is not a verse"):
        corpora.read_bible(bible)


def test_brown_is_read_without_tags(tmp_path):
    plain = brown_files(tmp_path / "brown")
    texts = corpora.read_brown(tmp_path / "brown")
    assert {text.name: text.content.decode() for text in texts} == plain
    genres = dict(zip("abcdefghjklmnpr", GENRES, strict=True))
    assert all(GENRES[text.label] == genres[text.name[1]] for text in texts)
    assert GENRES[next(text for text in texts if text.name == "cm01").label] == "science fiction"


@pytest.mark.parametrize(
    ("text", "message"),
    [("The/at jury nn", "b'jury' has no tag"), ("The/", "has no tag"), ("/at", "has no tag")],
)
def test_a_file_that_is_no_text_of_brown_is_refused(text, message, tmp_path):
    brown_files(tmp_path / "brown")
    (tmp_path / "brown" / "ca02").write_text(text)
    with pytest.raises(ValueError, match=message):
        corpora.read_brown(tmp_path / "brown")


def test_too_few_texts_are_refused(tmp_path):
    brown_files(tmp_path / "brown", per_genre=3)
    (tmp_path / "brown" / "cm02").unlink()
    with pytest.raises(ValueError, match="2 texts of the genre science fiction; three are needed"):
        corpora.read_brown(tmp_path / "brown")


def test_the_checksum_tells_any_change(tmp_path):
    brown_files(tmp_path / "brown")
    paths = corpora.brown_files(tmp_path / "brown")
    assert len(paths) == 60
    before = corpora.checksum_of(paths)
    assert corpora.checksum_of(paths[:-1]) != before
    paths[5].write_bytes(paths[5].read_bytes() + b" ")
    assert corpora.checksum_of(paths) != before


@pytest.mark.skipif(not corpora.BIBLE.is_file(), reason="Debian's bible-kjv-text is not installed")
def test_the_real_bible():
    texts = corpora.read_bible(corpora.BIBLE)
    assert texts[0].content.startswith(b"In the beginning God created the heaven and the earth. And the earth")
    assert all(len(text.content) >= 90_000 for text in texts)


texts = st.binary(max_size=4000) | st.lists(st.sampled_from([b"the ", b"and ", b"a", b"ab"]), max_size=3000).map(
    b"".join
)


@settings(max_examples=60, deadline=None)
@given(texts, st.sampled_from([9, 10, 12, 16]), st.sampled_from([None, 700, 1000]))
def test_what_is_packed_is_unpacked(content, widest, clear_every):
    assert decompress(compress(content, widest, clear_every), len(content)) == content


def test_all_widths_to_sixteen_bits_and_a_full_table():
    content = np.random.default_rng(0).integers(0, 40, 250_000).astype(np.uint8).tobytes()
    packed = compress(content)
    assert len(packed) < 0.95 * len(content)
    assert decompress(packed, len(content)) == content


@pytest.mark.skipif(shutil.which("gzip") is None, reason="there is no gzip")
def test_gzip_agrees():
    content = np.random.default_rng(1).integers(0, 20, 30_000).astype(np.uint8).tobytes()
    packed = compress(content, clear_every=7000)
    unpacked = subprocess.run(["gzip", "-dc"], input=packed, capture_output=True, check=True).stdout
    assert unpacked == content
    assert decompress(packed, len(content)) == content


def test_more_than_the_limit_is_refused():
    with pytest.raises(ValueError, match="unpacks to more than 99 bytes"):
        decompress(compress(bytes(100)), 99)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not packed by"),
        (b"\x1f\x9d", "not packed by"),
        (b"\x1f\x8b\x90abc", "not packed by"),
        (b"\x1f\x9d\x88abc", "not packed by"),
        (b"\x1f\x9d\x91abc", "not packed by"),
        (b"\x1f\x9d\x90" + (300).to_bytes(2, "little"), "an undefined code"),
        (b"\x1f\x9d\x90" + (97 | 258 << 9).to_bytes(3, "little"), "an undefined code"),
    ],
)
def test_what_is_no_such_file_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        decompress(data, 1000)
