import errno
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nip.data.corpus import Settings, build_corpus, open_corpus, read_manifest, verify
from nip.data.corpus.normalize import normalize
from nip.data.corpus.tokenizer import SPECIAL, load_tokenizer
from text_corpora import WORDS, documents, fingerprint, write_texts

SMALL = {"train_tokenizer": 200, "max_seq_length": 32}


def decoded(corpus):
    """The documents of a split, put together from its samples."""
    tokenizer, _ = load_tokenizer(corpus.tokenizer)
    batch = corpus.samples(np.arange(len(corpus)))
    plain = ~np.isin(batch.input_ids, corpus.vocabulary.special)
    return tokenizer.decode(batch.input_ids[plain].tolist())


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def whole(texts, tmp_path_factory):
    """A corpus made in one go."""
    out = tmp_path_factory.mktemp("corpora") / "whole"
    assert build_corpus(str(texts), out, Settings(**SMALL), licence="ours")
    return out


def test_every_document_is_there_once(texts, whole):
    files = [texts / name for name in ("0.txt", "2.txt", "4.txt", "more/1.txt", "more/3.txt")]
    expected = [normalize(text) for file in files for text in file.read_text().split("\n\n")]
    manifest = read_manifest(whole)
    assert manifest["documents"]["read"] == len(expected) == 300
    assert manifest["characters"] == sum(map(len, expected))
    found = {split: decoded(open_corpus(whole, split)) for split in ("train", "test")}
    assert sum(split["documents"] for split in manifest["splits"].values()) == 300
    said = {split: "".join(text.split()) for split, text in found.items()}
    for text in expected:
        spelled = "".join(text.lower().split())
        assert (spelled in said["train"]) != (spelled in said["test"])
    assert sum(map(len, said.values())) == sum(len("".join(text.split())) for text in expected)
    assert 10 < manifest["splits"]["test"]["documents"] < 60
    assert manifest["licence"] == "ours"


def test_it_is_sound_and_not_made_again(texts, whole):
    before = fingerprint(whole)
    assert verify(whole) == {split: len(open_corpus(whole, split)) for split in ("train", "test")}
    assert not build_corpus(str(texts), whole, Settings(**SMALL), licence="ours")
    assert fingerprint(whole) == before
    assert set(before) >= {"manifest.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"}
    assert not any(name.startswith(("work", "plan")) for name in before)


@pytest.fixture(scope="module")
def many_parts(tmp_path_factory):
    """Files that are a part each, and the corpus of them."""
    folder = tmp_path_factory.mktemp("parts") / "in"
    folder.mkdir()
    for k in range(6):
        (folder / f"{'test' if k % 3 == 2 else 'train'}{k}.txt").write_text("\n\n".join(documents(30, k)))
    out = folder.parent / "whole"
    build_corpus(str(folder), out, Settings(**SMALL, split_by_name=True))
    return folder, fingerprint(out)


def test_bytes_do_not_depend_on_the_processes(many_parts, tmp_path):
    folder, expected = many_parts
    told = []
    settings = Settings(**SMALL, split_by_name=True)
    build_corpus(str(folder), tmp_path / "out", settings, jobs=2, progress=lambda *step: told.append(step))
    assert fingerprint(tmp_path / "out") == expected
    assert told[:7] == [("reading", k, 6) for k in range(7)] and told[-1] == ("tokenizing", 6, 6)


@pytest.mark.parametrize(
    ("packing", "checksum"),
    [(True, "f950cd11b330ce9f"), (False, "bfafb426d9d0bf62")],
)
def test_shards_keep_their_bytes_from_version_to_version(tmp_path, packing, checksum):
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = [*SPECIAL.values(), *WORDS, ".", ",", *letters, *(f"##{letter}" for letter in letters)]
    (tmp_path / "vocab.txt").write_text("\n".join(dict.fromkeys(words)) + "\n")
    settings = Settings(tokenizer=str(tmp_path / "vocab.txt"), max_seq_length=32, packing=packing)
    build_corpus(str(write_texts(tmp_path / "in", 3)), tmp_path / "out", settings)
    made = {name: digest for name, digest in fingerprint(tmp_path / "out").items() if name.endswith(".npy")}
    assert len(made) == 6
    assert hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()[:16] == checksum


def test_splits_by_name(many_parts):
    folder, _ = many_parts
    manifest = read_manifest(folder.parent / "whole")
    assert manifest["splits"]["train"]["documents"] == 120
    assert [shard["name"] for shard in manifest["splits"]["test"]["shards"]] == ["test-00000", "test-00001"]


@pytest.mark.parametrize("write", [0, 1, 2, 9, 17, 31, 32, 33, 34, 35, 40, 56, 57])
def test_stopped_at_any_write_it_ends_with_the_same_bytes(many_parts, tmp_path, monkeypatch, write):
    folder, expected = many_parts
    settings = Settings(**SMALL, split_by_name=True)
    writes = 0
    replace = Path.replace

    def stop(self, target):
        nonlocal writes
        if writes == write:
            left = self.with_name(f".left{self.name}")  # as kill -9 leaves it
            shutil.copytree(self, left) if self.is_dir() else shutil.copy(self, left)
            raise KeyboardInterrupt
        writes += 1
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        build_corpus(str(folder), tmp_path / "out", settings)
    monkeypatch.undo()
    assert build_corpus(str(folder), tmp_path / "out", settings)
    assert fingerprint(tmp_path / "out") == expected


@pytest.mark.parametrize(
    ("last", "done"),
    [
        ("build.fates", ["clean.documents"]),
        (
            "build._manifest",
            ["clean.documents", "build.fates", "build.train_wordpiece", "shards.Encoder"],
        ),
    ],
)
def test_finished_parts_are_not_done_again(many_parts, tmp_path, monkeypatch, last, done):
    folder, expected = many_parts
    settings = Settings(**SMALL, split_by_name=True)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"nip.data.corpus.{last}", stop)
    with pytest.raises(KeyboardInterrupt):
        build_corpus(str(folder), tmp_path / "out", settings)
    monkeypatch.undo()
    for step in done:
        monkeypatch.setattr(f"nip.data.corpus.{step}", lambda *_, **__: pytest.fail("done again"))
    assert build_corpus(str(folder), tmp_path / "out", settings)
    assert fingerprint(tmp_path / "out") == expected


def test_killed_in_the_middle_it_ends_with_the_same_bytes(many_parts, tmp_path):
    folder, expected = many_parts
    out = tmp_path / "out"
    command = (
        "import sys; from pathlib import Path; from nip.data.corpus import *;"
        f"build_corpus(sys.argv[1], Path(sys.argv[2]), Settings(**{SMALL}, split_by_name=True), jobs=1)"
    )
    for mark in ("work/part-00002.json", "work/shard-00001.json"):
        process = subprocess.Popen([sys.executable, "-c", command, str(folder), str(out)])
        while not (out / mark).is_file() and process.poll() is None:
            time.sleep(0.0005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert build_corpus(str(folder), out, Settings(**SMALL, split_by_name=True)) or process.returncode == 0
    assert fingerprint(out) == expected


def test_a_full_disk_is_told_and_nothing_is_lost(many_parts, tmp_path, monkeypatch):
    folder, expected = many_parts
    settings = Settings(**SMALL, split_by_name=True)
    synced = 0
    fsync = os.fsync

    def full(descriptor):
        nonlocal synced
        synced += 1
        if synced == 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"could not be written: No space left on device") as caught:
        build_corpus(str(folder), tmp_path / "out", settings)
    assert caught.value.filename.startswith(str(tmp_path / "out"))
    monkeypatch.undo()
    assert build_corpus(str(folder), tmp_path / "out", settings)
    assert fingerprint(tmp_path / "out") == expected


def test_kept_text_makes_the_same_corpus(texts, whole, tmp_path):
    build_corpus(str(texts), tmp_path / "a", Settings(**SMALL), keep_text=True)
    kept = tmp_path / "a" / "text"
    assert sorted(path.name for path in kept.iterdir()) == ["test-00000.txt", "train-00000.txt"]
    build_corpus(str(kept), tmp_path / "b", Settings(**SMALL))
    splits = [read_manifest(tmp_path / name)["splits"] for name in "ab"]
    assert splits[0]["train"]["documents"] == splits[1]["train"]["documents"]
    with pytest.raises(ValueError, match="was made without --keep-text"):
        build_corpus(str(texts), whole, Settings(**SMALL), licence="ours", keep_text=True)


def test_another_corpus_is_not_touched(texts, whole, tmp_path):
    before = fingerprint(whole)
    for settings in (Settings(**{**SMALL, "max_seq_length": 64}), Settings(**SMALL, frac_test=0.2)):
        with pytest.raises(ValueError, match=r"holds another corpus: .* --overwrite replaces it"):
            build_corpus(str(texts), whole, settings, licence="ours")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="is not empty and holds no corpus: precious"):
            build_corpus(str(texts), tmp_path / "other", Settings(**SMALL), overwrite=overwrite)
    assert fingerprint(whole) == before and (tmp_path / "other" / "precious").is_file()
    shutil.copytree(whole, tmp_path / "copy")
    assert build_corpus(str(texts), tmp_path / "copy", Settings(**SMALL, frac_test=0), overwrite=True)
    assert list(read_manifest(tmp_path / "copy")["splits"]) == ["train"]
    assert verify(tmp_path / "copy")


@pytest.mark.parametrize("finished", [True, False])
def test_killed_while_overwriting_it_is_still_a_corpus(texts, whole, tmp_path, monkeypatch, finished):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    if not finished:
        (out / "manifest.json").unlink()
        (out / "plan.json").write_text('{"asked": {}, "files": [], "parts": []}')
    rmtree, unlink = shutil.rmtree, Path.unlink

    def stopping(function):
        def stop(path, *options, **more):
            function(path, *options, **more)
            raise KeyboardInterrupt

        return stop

    monkeypatch.setattr(shutil, "rmtree", stopping(rmtree))
    monkeypatch.setattr(Path, "unlink", stopping(unlink))
    with pytest.raises(KeyboardInterrupt):
        build_corpus(str(texts), out, Settings(**SMALL), licence="ours", overwrite=True)
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"plan\.json is damaged\. Start again with --overwrite"):
        build_corpus(str(texts), out, Settings(**SMALL), licence="ours")
    assert build_corpus(str(texts), out, Settings(**SMALL), licence="ours", overwrite=True)
    assert fingerprint(out) == fingerprint(whole)


def test_an_array_that_does_not_fit_on_the_disk(many_parts, tmp_path, monkeypatch):
    def full(file, values, allow_pickle):
        raise OSError("1000 requested and 124 written")  # as numpy says it

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        build_corpus(str(many_parts[0]), tmp_path / "out", Settings(**SMALL, split_by_name=True))
    assert caught.value.errno == errno.ENOSPC and caught.value.filename.startswith(str(tmp_path / "out"))


def test_a_source_that_changed_meanwhile_is_refused(tmp_path, monkeypatch):
    source = write_texts(tmp_path / "in", 2)
    monkeypatch.setattr("nip.data.corpus.build.fates", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build_corpus(str(source), tmp_path / "out", Settings(**SMALL))
    monkeypatch.undo()
    (source / "0.txt").write_text("Something else.")
    with pytest.raises(ValueError, match=r"0\.txt has changed since the build of .* Start again with --overwrite"):
        build_corpus(str(source), tmp_path / "out", Settings(**SMALL))
    with pytest.raises(ValueError, match="holds another corpus: shard_mb is 32 there and 1 here"):
        build_corpus(str(source), tmp_path / "out", Settings(**SMALL, shard_mb=1))


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        ({}, {}, "contains no files"),
        ({"a.txt": b" \n\n "}, {}, "contains no document that is kept: 0 documents were read"),
        ({"a.txt": b"short"}, {"min_chars": 9}, "1 documents were read, 1 were too short and 0 too long"),
        ({"a.txt": b"text", "b.png": b"\x89PNG\0"}, {}, r"b\.png is not text: byte 4 is 0"),
        ({"a.txt": b"caf\xe9"}, {}, r"a\.txt, byte 3: .* not encoded in utf-8"),
        ({"test.txt": b"text"}, {"split_by_name": True}, "contains no document for the train split"),
        ({"a.txt": b"text"}, {"train_tokenizer": 0, "tokenizer": "nowhere/at/all"}, "There is no tokenizer nowhere"),
    ],
)
def test_bad_sources(tmp_path, files, settings, message):
    (tmp_path / "in").mkdir()
    for name, content in files.items():
        (tmp_path / "in" / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        build_corpus(str(tmp_path / "in"), tmp_path / "out", Settings(**{**SMALL, **settings}))


def test_sources_that_are_not_there(tmp_path):
    with pytest.raises(OSError, match="There is no file or folder"):
        build_corpus(str(tmp_path / "none"), tmp_path / "out", Settings(**SMALL))
    source = write_texts(tmp_path / "in", 1)
    for inside in (source, source / "out"):
        with pytest.raises(ValueError, match=r"is in .*, which is the input"):
            build_corpus(str(source), inside, Settings(**SMALL), overwrite=True)
    assert (source / "0.txt").is_file() and not (source / "out").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_seq_length": 7}, "--max-seq-length must be an integer of at least 8. Got 7"),
        ({"frac_test": 1.0}, "--frac-test must be from 0 to below 1"),
        ({"near_duplicates": -0.1}, "--near-duplicates must be from 0 to 1"),
        ({"unicode_form": "NFD"}, "--unicode-form must be one of NFC, NFKC"),
        ({"form": "html"}, "--form must be one of text, lines, books"),
        ({"form": "parquet"}, "--form parquet is not needed"),
        ({"encoding": "utf-16"}, "--encoding must be a known encoding"),
        ({"bad_bytes": "keep"}, "--bad-bytes must be refuse or drop"),
        ({"encoding": "nonsense"}, "--encoding must be a known encoding"),
        ({"min_chars": 5, "max_chars": 4}, "--max-chars must be 0 or at least --min-chars"),
        ({"tokenizer": "x"}, "Name a tokenizer with --tokenizer, or train one"),
        ({"train_tokenizer": 0}, "Name a tokenizer with --tokenizer, or train one"),
        ({"exact_duplicates": True}, r"which --near-duplicates 0\.8 drops: add --near-duplicates 0\."),
        ({"next_sentence": True}, "add --masked-once"),
        ({"masked_once": True, "packing": False}, "--masked-once never packs"),
        ({"masked_lm_prob": 0.0}, "--masked-lm-prob must be above 0"),
    ],
)
def test_bad_settings(wrong, message):
    with pytest.raises(ValueError, match=message):
        Settings(**{"train_tokenizer": 200, **wrong})


def test_a_finished_corpus_of_a_source_that_changed_is_told(tmp_path):
    source, out = write_texts(tmp_path / "in", 1), tmp_path / "out"
    build_corpus(str(source), out, Settings(**SMALL))
    assert not build_corpus(str(source), out, Settings(**SMALL))
    (source / "1.txt").write_text("One more.")
    with pytest.raises(
        ValueError,
        match=r"in has changed since .*out was made: 1 file\(s\) of .*, 2 file\(s\) of .* --overwrite",
    ):
        build_corpus(str(source), out, Settings(**SMALL))
    shutil.rmtree(source)
    source.mkdir()
    assert not build_corpus(str(source), out, Settings(**SMALL))  # what was read may go
    source.rmdir()
    assert not build_corpus(str(source), out, Settings(**SMALL))


def test_the_plan_is_gone_and_the_manifest_is_json(whole):
    assert not (whole / "plan.json").exists()
    assert json.loads((whole / "manifest.json").read_text())["kind"] == "corpus"


PEAK = """
import resource, sys
from pathlib import Path
from joblib.externals.loky import get_reusable_executor
from nip.data.corpus import Settings, build_corpus
build_corpus(sys.argv[1], Path(sys.argv[2]), Settings(train_tokenizer=500, shard_mb=1), jobs=2)
get_reusable_executor().shutdown(wait=True)  # only then are the workers counted
print(*(resource.getrusage(who).ru_maxrss // 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
"""
FEW_MB, MANY_MB = 4, 28  # megabytes of text


def peaks(folder):
    """Megabytes of memory that a corpus takes to make: of the process, and of the largest of its workers."""
    made = subprocess.run([sys.executable, "-c", PEAK, str(folder), f"{folder}-out"], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return [int(peak) for peak in made.stdout.split()]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    """With 24 MB more of text workers take half of that more at most; the process that starts them frees less of it."""
    draw = random.Random(0)
    words = [f"w{i:x}" for i in range(30_000)]
    for name, megabytes in (("small", FEW_MB), ("large", MANY_MB)):
        (tmp_path / name).mkdir()
        with (tmp_path / name / "a.txt").open("w") as file:
            while file.tell() < megabytes << 20:
                file.write(" ".join(draw.choices(words, k=400)) + "\n\n")
    small, large = (peaks(tmp_path / name) for name in ("small", "large"))
    for before, after, allowed in zip(small, large, (2.0, 0.5), strict=True):
        assert after < before + allowed * (MANY_MB - FEW_MB)
