import bz2
import gzip
import lzma
import os
from pathlib import Path

import numpy as np
import pytest

from nip.data.corpus import Settings, build_corpus, read_manifest
from nip.data.corpus.files import FORMS, Piece, cut, find_files, find_form, search
from nip.data.corpus.read import documents as read_documents
from text_corpora import documents, fingerprint

SMALL = {"train_tokenizer": 200, "max_seq_length": 32}


@pytest.mark.parametrize("write", [None, 0, 1, 2, 5])
def test_a_large_packed_file_is_cut_into_parts(tmp_path, monkeypatch, write):
    (tmp_path / "in").mkdir()
    text = "\n\n".join(document for k in range(40) for document in documents(200, k)).encode()
    assert len(text) > 2 << 20
    packed = tmp_path / "in" / "a.txt.bz2"
    packed.write_bytes(bz2.compress(text))
    assert packed.stat().st_size > 1 << 18
    settings = Settings(**SMALL, shard_mb=1)
    out, told = tmp_path / "out", []
    replace, writes = Path.replace, 0

    def stop(self, target):
        nonlocal writes
        if writes == write:
            raise KeyboardInterrupt
        writes += 1
        return replace(self, target)

    if write is not None:
        monkeypatch.setattr(Path, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            build_corpus(str(tmp_path / "in"), out, settings)
        monkeypatch.undo()
    build_corpus(str(tmp_path / "in"), out, settings, progress=lambda *step: told.append(step))
    n_parts = -(-len(text) // (1 << 20))
    assert ("reading", n_parts, n_parts) in told
    assert (("unpacking", 1, 1) in told) == (write in (None, 0))
    assert not (out / ".unpacked").exists() and not (out / "work").exists()
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.txt").write_bytes(text)
    build_corpus(str(tmp_path / "plain"), tmp_path / "unpacked", settings)
    made, expected = fingerprint(out), fingerprint(tmp_path / "unpacked")
    assert made.pop("manifest.json") != expected.pop("manifest.json")  # names of source and of its files
    assert made == expected


def test_a_changed_packed_file_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    packed = tmp_path / "in" / "a.txt.bz2"
    text = "\n\n".join(document for k in range(40) for document in documents(200, k)).encode()
    packed.write_bytes(bz2.compress(text))
    settings = Settings(**SMALL, shard_mb=1)
    monkeypatch.setattr("nip.data.corpus.build.clean_part", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_corpus(str(tmp_path / "in"), tmp_path / "out", settings)
    unpacked = list((tmp_path / "out" / ".unpacked").iterdir())
    assert len(unpacked) == 1
    packed.write_bytes(bz2.compress(text + b"\n\nMore."))
    with pytest.raises(ValueError, match=r"a\.txt\.bz2 has changed since the build of"):
        build_corpus(str(tmp_path / "in"), tmp_path / "out", settings)
    assert list((tmp_path / "out" / ".unpacked").iterdir()) == unpacked


def test_a_large_packed_file_that_is_damaged(tmp_path):
    (tmp_path / "in").mkdir()
    packed = tmp_path / "in" / "a.txt.gz"
    draw = np.random.default_rng(0)
    packed.write_bytes(gzip.compress(draw.integers(97, 123, 1 << 20, np.uint8).tobytes())[:-9])
    with pytest.raises(ValueError, match=r"a\.txt\.gz is truncated or damaged"):
        build_corpus(str(tmp_path / "in"), tmp_path / "out", Settings(**SMALL, shard_mb=1))
    assert not list((tmp_path / "out").glob(".unpacked/*"))


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (b"Some text.", "text"),
        (b'{"text": "a"}', "jsonl"),
        (b'\n<doc id="1" url="" title="a">', "extracted"),
        (b'<mediawiki xmlns="x">', "wikipedia"),
        (b"{curly} text", "text"),
        (b'\xef\xbb\xbf{"text": "a"}', "jsonl"),
        (b'\xef\xbb\xbf<doc id="1" url="" title="a">', "extracted"),
        (b'<?xml version="1.0"?>\n<!-- a - b -->\n<mediawiki>', "wikipedia"),
        (b"[1] A footnote.", "text"),
    ],
)
def test_forms_are_known_by_how_files_begin(tmp_path, content, form):
    path = tmp_path / "file"
    path.write_bytes(content)
    assert find_form(path) == form and form in FORMS
    assert find_form(path, "lines") == ("lines" if form == "text" else form)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.bin", b"abc\0def", r"a\.bin is not text: byte 3 is 0"),
        ("a.txt", "ab".encode("utf-16"), r"a\.txt is encoded in UTF-16"),
        ("a.zst", b"", r"a\.zst has an unsupported compression"),
        ("a.json", b'[{"text": "a"},', r"a\.json is JSON, but not one object per line, .*: jq -c \.\[\] a\.json$"),
        ("a.json", b'\n[\n  {\n  "text": "a"},', r"a\.json is JSON, but not one object per line"),
        ("a.json", b'["one", "two"]', r"a\.json is an array of strings in JSON"),
        ("a.json", b'"one"', r"a\.json is named as JSON, but does not begin with an object"),
        ("a.txt", b"<!DOCTYPE html><p>", r"a\.txt is HTML"),
        ("a.txt", b"<?xml version='1.0'?><rss>", r"a\.txt is XML, but not a dump of MediaWiki"),
        ("a.txt", b"%PDF-1.7", r"a\.txt is a PDF"),
        ("a.txt", b"PK\x03\x04", r"a\.txt is a ZIP archive"),
        ("a.json", b'{\n  "text": "a"\n}', r"a\.json is JSON, but not one object per line, .*: jq -c \. a\.json$"),
    ],
)
def test_files_that_are_no_text(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        find_form(tmp_path / name)


def test_files_are_found_by_name_and_put_together(tmp_path):
    for name in ("b/2.txt", "b/1.txt", "a.txt", ".hidden/x", "b/.x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x" * 10)
    files = find_files(tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in files] == ["a.txt", "b/1.txt", "b/2.txt"]
    assert find_files(files[0]) == files[:1]
    parts = cut([(path, "text") for path in files], 20)
    assert [len(part) for part in parts] == [2, 1]
    assert [(p.begin, p.end) for part in cut([(files[0], "text")], 4) for p in part] == [(0, 4), (4, 8), (8, 10)]
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        find_files(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="contains no files"):
        find_files(tmp_path / "empty")


def test_folders_behind_links_are_read_once(tmp_path):
    folder, elsewhere = tmp_path / "corpus", tmp_path / "elsewhere"
    for path in (folder / "own" / "a.txt", elsewhere / "b.txt", folder / ".hidden" / "c.txt"):
        path.parent.mkdir(parents=True)
        path.write_text("x")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "twice").symlink_to(elsewhere)
    (folder / "cycle").symlink_to(folder)
    (folder / "broken").symlink_to(tmp_path / "nothing")
    (folder / "file.txt").symlink_to(elsewhere / "b.txt")
    found = search(folder)
    assert [path.relative_to(folder).as_posix() for path in found.files] == ["file.txt", "linked/b.txt", "own/a.txt"]
    assert sorted(found.left_out.values()) == [1, 1] and any("link" in kind for kind in found.left_out)


@pytest.mark.parametrize("packed", [gzip.compress, bz2.compress, lzma.compress])
def test_packed_files_are_known_by_how_they_begin(tmp_path, packed):
    path = tmp_path / "archive.old"
    path.write_bytes(packed(b"one document\n"))
    assert find_form(path) == "text"
    assert list(read_documents(Piece(str(path), "text"))) == ["one document\n"]


def test_names_that_are_not_utf_8(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt"))
    path.write_text("A first document with some words.\n\nAnother one of them.\n")
    out = tmp_path.parent / f"{tmp_path.name}-out"
    build_corpus(str(tmp_path), out, Settings(train_tokenizer=60, max_seq_length=16))
    assert read_manifest(out)["documents"]["read"] == 2
    path.write_bytes(b"a\0b")
    with pytest.raises(ValueError, match=r"caf.*byte 1 is 0"):
        find_form(path)
