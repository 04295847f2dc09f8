"""Splits in chunks: the same files as in one piece, in bounded memory, and never half of them."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nip.data import SPLITS, TASKS, Examples, chunks, open_split, verify, write_task
from nip.data.tasks import examples

DESCRIPTION = {"source": "test", "parameters": {}, "split_rule": "none", "licence": "none"}
TEXT, PAIRS, IMAGE = TASKS["text"], TASKS["retrieval"], TASKS["image"]


def rows(task, n, seed=0):
    rng = np.random.default_rng(seed)
    for i in range(n):
        lengths = [task.max_length if task.shape else int(rng.integers(0, 40)) for _ in range(1 + task.pair)]
        yield i % task.n_classes, [rng.integers(task.ids.start, task.ids.stop, length) for length in lengths]


@pytest.mark.parametrize("task", [TEXT, PAIRS, IMAGE], ids=lambda task: task.name)
def test_chunks_are_written_as_one_piece(task, tmp_path, monkeypatch):
    monkeypatch.setattr(examples, "CHUNK", 50)  # some three examples a chunk
    many = {split: list(chunks(task, split, rows(task, 20, seed))) for seed, split in enumerate(SPLITS)}
    assert len(many["train"]) > 5
    write_task(many, tmp_path / "many", DESCRIPTION, task=task)
    monkeypatch.setattr(examples, "CHUNK", 1 << 30)
    one = {split: next(chunks(task, split, rows(task, 20, seed))) for seed, split in enumerate(SPLITS)}
    write_task(one, tmp_path / "one", DESCRIPTION)
    for path in (tmp_path / "one" / task.name).iterdir():
        assert path.read_bytes() == (tmp_path / "many" / task.name / path.name).read_bytes()
    assert verify(task.name, tmp_path / "many") == dict.fromkeys(SPLITS, 20)
    read = open_split(task.name, "dev", tmp_path / "many")
    for i, (label, sequences) in enumerate(rows(task, 20, 1)):
        assert read.labels[i] == label
        assert [read.sequence(i, part).tolist() or [0] for part in range(read.width)] == [
            sequence.tolist() or [0] for sequence in sequences
        ]


def test_the_files_are_numpys(tmp_path):
    write_task({split: chunks(TEXT, split, rows(TEXT, 9)) for split in SPLITS}, tmp_path, DESCRIPTION, task=TEXT)
    for path in (tmp_path / "text").glob("*.npy"):
        np.save(tmp_path / "again.npy", np.load(path))
        assert path.read_bytes() == (tmp_path / "again.npy").read_bytes()


def test_a_long_split_is_written_in_bounded_memory(tmp_path):
    def images():
        pixels = np.zeros(1024, np.uint8)
        return ((0, [pixels]) for _ in range(40_000))

    short = {split: chunks(IMAGE, split, rows(IMAGE, 2)) for split in ("dev", "test")}
    tracemalloc.start()
    write_task({"train": chunks(IMAGE, "train", images()), **short}, tmp_path, DESCRIPTION, task=IMAGE)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "image" / "train.tokens.npy").stat().st_size > 40e6
    assert most < 20e6


def piece(task, tokens, offsets, labels, **more):
    return Examples(task, "train", np.array(tokens), np.array(offsets), np.array(labels), **more)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (piece(TEXT, [1, 2, 3], [0, 1, 3], [0, 2]), "example 6: the label must be one of 0 … 1. Got 2"),
        (piece(TEXT, [1, 2, 3], [0, 1, 3], [-1, 0]), "example 5: the label"),
        (piece(TEXT, [1, 257], [0, 1, 2], [0, 1]), "examples 5 … 6: token ids outside 1 … 256"),
        (piece(TEXT, [1, 0], [0, 2], [0]), "token ids outside 1 … 256"),
        (piece(TEXT, [1], [0, 1, 1], [0, 1]), "example 6: there must be a token"),
        (piece(TEXT, [1, 257], [0, 2], [0], foreign=True), "token ids outside 0 … 256"),
        (piece(IMAGE, [0] * 2000, [0, 1024, 2000], [0, 1]), "example 6: an image has 1024 pixels. Got 976"),
        (piece(IMAGE, [-1] + [0] * 1023, [0, 1024], [0]), "token ids outside 0 … 255"),
        (piece(PAIRS, [1, 2, 3], [0, 1, 3, 3, 3], [0, 1]), "example 6: there must be a token"),
    ],
)
def test_what_the_task_cannot_have_is_refused(wrong, told, tmp_path):
    good = next(chunks(wrong.task, "train", rows(wrong.task, 5)))
    splits = {split: [good] if split != "train" else [good, wrong] for split in SPLITS}
    with pytest.raises(ValueError, match=rf"train split of {wrong.task.name}.*{told}"):
        write_task(splits, tmp_path, DESCRIPTION, task=wrong.task)
    assert not list(tmp_path.iterdir())


def test_an_empty_text_is_a_single_zero(tmp_path):
    split = list(chunks(TEXT, "train", [(1, [np.zeros(0, np.uint8)]), (0, [np.array([5])])]))
    write_task(dict.fromkeys(SPLITS, split), tmp_path, DESCRIPTION, task=TEXT)
    assert verify("text", tmp_path)
    assert open_split("text", "dev", tmp_path).sequence(0).tolist() == [0]


def test_what_is_longer_than_the_task_keeps_is_cut():
    (split,) = chunks(TEXT, "train", [(1, [np.arange(5000) % 9 + 1])])
    assert split.tokens.tolist() == [i % 9 + 1 for i in range(4000)]


def test_a_reader_that_fails_leaves_what_was_there(tmp_path):
    def failing():
        yield from chunks(TEXT, "test", rows(TEXT, 5))
        raise OSError("the network is gone")

    good = {split: next(chunks(TEXT, split, rows(TEXT, 5))) for split in SPLITS}
    write_task(good, tmp_path, DESCRIPTION)
    with pytest.raises(OSError, match="the network is gone"):
        write_task({**good, "test": failing()}, tmp_path, DESCRIPTION, task=TEXT, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["text"]
    assert verify("text", tmp_path)


FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from nip.cli import main

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)  # as a disk that is full after so many bytes
main(["data", "image", "--from", sys.argv[1], "--out", sys.argv[2]])
"""


@pytest.mark.parametrize("room", [100_000, 0])
def test_a_full_disk_is_one_sentence_and_leaves_what_was_there(room, tmp_path):
    (tmp_path / "files").mkdir()
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        (tmp_path / "files" / name).write_bytes(bytes(3073) * 50)
    data = tmp_path / "data"
    command = [sys.executable, "-c", FULL, str(tmp_path / "files"), str(data), str(room)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr == f"nip: {data / 'image'}: could not be written: File too large\n"
    assert list(data.iterdir()) == []


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_pairs_and_targets_are_padded_and_masked_by_length(data):
    n = data.draw(st.integers(1, 6))
    token = st.integers(0, 5)  # 0 too: what is real is told by lengths
    sequences = data.draw(st.lists(st.lists(token, min_size=1, max_size=9), min_size=2 * n, max_size=2 * n))
    flat = [token for sequence in sequences for token in sequence]
    pairs = piece(PAIRS, flat, np.cumsum([0, *map(len, sequences)]), [0] * n, targets=np.array(flat) % 2)
    length, kept = data.draw(st.integers(1, 12)), data.draw(st.none() | st.integers(1, 12))
    chosen = data.draw(st.lists(st.integers(0, n - 1), max_size=5))
    cut = pairs if kept is None else pairs.cut(kept)
    wanted = [[sequence[:kept][:length] for sequence in sequences[2 * i : 2 * i + 2]] for i in chosen]
    padded = [[row + [0] * (length - len(row)) for row in pair] for pair in wanted]
    assert cut.batch(chosen, length)[0].tolist() == padded
    assert cut.mask(chosen, length).tolist() == [
        [[i < len(row) for i in range(length)] for row in pair] for pair in wanted
    ]
    assert cut.batch_targets(chosen, length).tolist() == (np.array(padded, int).reshape(-1, 2, length) % 2).tolist()
    assert [cut.sequence(i, part).tolist() for i in range(n) for part in (0, 1)] == [row[:kept] for row in sequences]
    assert cut.lengths.tolist() == [max(len(row[:kept]) for row in sequences[2 * i : 2 * i + 2]) for i in range(n)]


def test_what_is_not_there_is_not_asked_for():
    single = piece(TEXT, [1, 2], [0, 2], [0])
    with pytest.raises(ValueError, match="tokens of text have no labels of their own"):
        single.batch_targets([0], 2)
    with pytest.raises(ValueError, match=r"has 1 sequences, numbered from 0. Got 1"):
        single.sequence(0, 1)
    assert single.cut(5).cut(1).sequence(0).tolist() == [1]
