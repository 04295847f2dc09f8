"""Texts from small files in the forms that the packages have."""

import gzip
import json

import pytest

from corpus_files import bible_data, bible_verses, brown_files
from nip.cli import main
from nip.data.offline import texts

DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def in_base_64(value):
    digits = DIGITS[value % 64]
    while value >= 64:
        value //= 64
        digits = DIGITS[value % 64] + digits
    return digits


@pytest.fixture
def dictionary(tmp_path):
    """Three entries behind the dictionary's own words, one of them found under two words, one in an old encoding."""
    entries = [
        b"About this file.\n",
        b"Lari \\Lari\\ n.\n   A suborder\n   of birds.\n\n   Syn: none\n",
        b"Largo\n   slowly\n",
    ]
    entries += ["Café \x92\n".encode("cp1252", "ignore") + b"\x92\n"]
    begins = [sum(map(len, entries[:i])) for i in range(4)]
    names = {"00-database-info": 0, "lari": 1, "laris": 1, "largo": 2, "caf": 3}
    # among many others, so that numbers have several digits
    filler = [b"word %d\n" % i for i in range(1000)]
    raw = b"".join(entries) + b"".join(filler)
    lines = [f"{name}\t{in_base_64(begins[i])}\t{in_base_64(len(entries[i]))}" for name, i in names.items()]
    begin = sum(map(len, entries))
    for i, each in enumerate(filler):
        lines.append(f"w{i}\t{in_base_64(begin)}\t{in_base_64(len(each))}")
        begin += len(each)
    (tmp_path / "small.dict.dz").write_bytes(gzip.compress(raw))
    (tmp_path / "small.index").write_text("\n".join(lines) + "\n")
    return tmp_path / "small.dict.dz"


@pytest.fixture
def bible(tmp_path):
    path = tmp_path / "bible.data"
    path.write_bytes(bible_data(bible_verses()[0]))
    return path


def test_entries_of_a_dictionary(dictionary):
    found = list(texts.dictionary_documents(dictionary))
    assert found[:3] == ["Lari \\Lari\\ n. A suborder of birds. Syn: none", "Largo slowly", "Café ’"]
    assert found[3:] == [f"word {i}" for i in range(1000)]


def test_a_damaged_dictionary_is_refused(dictionary):
    index = dictionary.with_name("small.index")
    whole = index.read_text()
    index.write_text(whole + "zebra\tA!\tB\n")
    with pytest.raises(ValueError, match=r"line 1006: .* is not an entry"):
        list(texts.dictionary_documents(dictionary))
    index.write_text(whole + "zebra\t////\tB\n")
    with pytest.raises(ValueError, match="truncated: line 1006"):
        list(texts.dictionary_documents(dictionary))
    index.unlink()
    with pytest.raises(FileNotFoundError, match=r"There is no .*small\.index"):
        list(texts.dictionary_documents(dictionary))
    dictionary.write_bytes(dictionary.read_bytes()[:-20])
    index.write_text(whole)
    with pytest.raises(ValueError, match=r"small\.dict\.dz is damaged"):
        list(texts.dictionary_documents(dictionary))


def test_a_chapter_of_the_bible_is_a_document(bible):
    lines, verses = bible_verses()
    found = list(texts.bible_documents(bible))
    assert len(found) == len({line.split(":")[0] for line in lines[1:]})
    assert " ".join(found) == " ".join(verse for book in verses.values() for verse in book)


def test_the_command(dictionary, bible, tmp_path, monkeypatch, capsys):
    plain = brown_files(tmp_path / "brown")
    monkeypatch.setattr(texts.corpora, "BIBLE", bible)
    monkeypatch.setattr(texts, "GCIDE", tmp_path / "none.dict.dz")
    monkeypatch.setattr(texts, "_brown_places", lambda: [tmp_path / "nowhere"])
    words = ["data", "texts", "--out", str(tmp_path / "out"), "--json"]
    with pytest.raises(SystemExit) as stop:
        main([*words, "--from", f"brown={tmp_path / 'brown'}"])
    assert stop.value.code == 0
    said = capsys.readouterr()
    assert "left out: There is no" in said.err
    assert "apt install dict-gcide" in said.err
    made = json.loads(said.out)
    assert [each["source"] for each in made] == ["bible", "brown"]
    written = (tmp_path / "out" / "brown.txt").read_text("utf-8")
    assert written.split("\n\n")[:-1] == list(plain.values())
    assert made[1]["documents"] == len(plain)
    before = (tmp_path / "out" / "brown.txt").stat()
    with pytest.raises(SystemExit):
        main([*words, "--from", f"brown={tmp_path / 'brown'}"])
    capsys.readouterr()
    again = (tmp_path / "out" / "brown.txt").stat()  # a corpus that was begun from it can go on
    assert (again.st_mtime_ns, again.st_ino) == (before.st_mtime_ns, before.st_ino)
    for wrong, says in (
        (["--source", "gcide"], "apt install dict-gcide"),
        (["--source", "moby"], "There is no text 'moby'. The texts are bible, brown, gcide."),
        (["--from", "brown"], "--from takes SOURCE=PLACE"),
        (["--source", "brown", "--from", f"brown={tmp_path / 'out'}"], "has no text of the Brown corpus"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*words, *wrong])
        assert stop.value.code == 2
        assert says in capsys.readouterr().err
