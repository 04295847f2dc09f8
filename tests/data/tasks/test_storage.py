"""What is written is read back, all or nothing; what is damaged is refused; chunks give the same files as one piece."""

import json
import os
import pickle
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nip.data import SPLITS, TASKS, Examples, chunks, open_split, verify, write_task
from nip.data.tasks import examples, storage
from nip.runs import folder as folder_files

DESCRIPTION = {"source": "test", "parameters": {"seed": 5, "train": 300}, "split_rule": "none", "licence": "none"}
PLAIN = {"source": "test", "parameters": {}, "split_rule": "none", "licence": "none"}


@pytest.fixture
def written(small, tmp_path):
    write_task(small, tmp_path, DESCRIPTION)
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def change_manifest(folder, change):
    path = folder / "listops" / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_what_is_written_is_read_back(small, written):
    for name in SPLITS:
        split = open_split("listops", name, written)
        assert (split.task.name, split.split, len(split)) == ("listops", name, len(small[name]))
        for part in ("tokens", "offsets", "labels"):
            assert np.array_equal(getattr(split, part), getattr(small[name], part))
        assert split.labels.dtype == np.int64
    assert verify("listops", written) == {"train": 300, "dev": 40, "test": 50}
    assert names(written) == ["listops"]


def test_tokens_are_mapped_and_take_a_byte(written, small):
    tokens = open_split("listops", "train", written).tokens
    base = tokens
    while not isinstance(base, np.memmap):
        base = base.base
    assert base.mode == "r"
    assert (written / "listops" / "train.tokens.npy").stat().st_size < small["train"].tokens.size + 200


def test_the_same_set_is_the_same_bytes(small, written, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    write_task(small, other, DESCRIPTION)
    assert names(other / "listops") == names(written / "listops")
    for path in (written / "listops").iterdir():
        assert path.read_bytes() == (other / "listops" / path.name).read_bytes()


def test_the_default_folder_is_the_variables(small, tmp_path, monkeypatch):
    monkeypatch.setenv("NIP_DATA", str(tmp_path / "deep" / "data"))
    assert write_task(small, None, DESCRIPTION) == tmp_path / "deep" / "data" / "listops"
    assert len(open_split("listops", "dev")) == 40


def test_missing_data_says_which_command_makes_it(tmp_path, monkeypatch):
    with pytest.raises(
        FileNotFoundError, match=r"no listops data .* Make it with: nip data listops --output-dir '.*a b'"
    ):
        open_split("listops", "train", tmp_path / "a b")
    monkeypatch.setenv("NIP_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"Make it with: nip data listops$"):
        open_split("listops", "train")


def test_unknown_tasks_and_splits_list_those_there_are(written):
    with pytest.raises(ValueError, match=r"no task 'lists'. The tasks are listops"):
        open_split("lists", "train", written)
    with pytest.raises(ValueError, match=r"no split 'valid'. The splits are train, dev, test"):
        open_split("listops", "valid", written)


def test_whether_it_is_there(written, tmp_path_factory):
    assert storage.stored("listops", written, DESCRIPTION)
    assert not storage.stored("listops", tmp_path_factory.mktemp("empty"), DESCRIPTION)
    with pytest.raises(ValueError, match=r"seed is 5 there and 6 here; more is None there and 1 here. --overwrite"):
        storage.stored("listops", written, DESCRIPTION | {"parameters": {"seed": 6, "train": 300, "more": 1}})
    with pytest.raises(ValueError, match="source is 'test' there"):
        storage.stored("listops", written, DESCRIPTION | {"source": "elsewhere"})


def test_only_overwriting_replaces(small, written):
    with pytest.raises(ValueError, match="exists; --overwrite replaces it"):
        write_task(small, written, DESCRIPTION)
    (written / "listops" / "basic_train.tsv").write_text("of the old set")
    write_task(small, written, DESCRIPTION | {"source": "second"}, overwrite=True)
    assert storage.read_manifest("listops", written)["source"] == "second"
    assert names(written) == ["listops"]
    assert "basic_train.tsv" not in names(written / "listops")


def test_what_is_not_ours_is_never_replaced(small, written, tmp_path_factory):
    (written / "listops" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"also contains notes.txt"):
        write_task(small, written, DESCRIPTION, overwrite=True)
    foreign = tmp_path_factory.mktemp("foreign")
    (foreign / "listops").mkdir()
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="is not data of nip"):
            write_task(small, foreign, DESCRIPTION, overwrite=overwrite)
    with pytest.raises(ValueError, match="is not data of nip"):
        storage.stored("listops", foreign, DESCRIPTION)


@pytest.mark.parametrize("step", range(10))
def test_an_interrupted_writer_leaves_what_was_there(step, small, written, tmp_path_factory, monkeypatch):
    replacing, steps = storage.replacing, iter(range(10))

    def interrupted(path):
        if next(steps) == step:
            raise KeyboardInterrupt
        return replacing(path)

    empty = tmp_path_factory.mktemp("empty")
    for folder, there in ((empty, []), (written, ["listops"])):
        steps = iter(range(10))
        for module in (storage, folder_files):  # the arrays, and last the manifest
            monkeypatch.setattr(module, "replacing", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_task(small, folder, DESCRIPTION | {"source": "second"}, overwrite=True)
        monkeypatch.undo()
        assert names(folder) == there
    assert storage.read_manifest("listops", written)["source"] == "test"
    assert verify("listops", written)


def test_a_set_that_a_killed_process_had_moved_away_gets_its_name_back(small, written):
    home = written / "listops"
    home.rename(written / ".listops.0123abcd.nip-partial")
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "_write_split", interrupted)
        write_task(small, written, DESCRIPTION, overwrite=True)
    assert storage.read_manifest("listops", written)["source"] == "test"
    assert verify("listops", written)


def interrupted(*_):
    raise KeyboardInterrupt


KILLED = """
import os, signal, sys
from pathlib import Path
from nip.data import Rule, build_listops
from nip.data.tasks import storage

real, calls = storage.file_sha256, iter(range(9))
def file_sha256(path):
    if next(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(path)
storage.file_sha256 = file_sha256
build_listops(Path(sys.argv[1]), Rule(min_length=10, max_length=80), (30, 4, 5))
"""


@pytest.mark.parametrize("step", [0, 8])
def test_a_killed_writer_leaves_nothing_that_looks_whole(step, tmp_path, small):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(step)], timeout=120)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(FileNotFoundError, match="Make it with"):
        open_split("listops", "train", tmp_path)
    (left,) = tmp_path.iterdir()
    write_task(small, tmp_path, DESCRIPTION)  # may be somebody's work in progress: it stays
    assert names(tmp_path) == sorted([left.name, "listops"])
    os.utime(left, (0, 0))
    write_task(small, tmp_path, DESCRIPTION, overwrite=True)
    assert names(tmp_path) == ["listops"]


def damage_length(folder):
    path = folder / "listops" / "train.tokens.npy"
    path.write_bytes(path.read_bytes()[:-1])


def damage_type(folder):
    path = folder / "listops" / "train.offsets.npy"
    np.save(path, np.load(path).astype(np.int32))


def damage_shape(folder):
    path = folder / "listops" / "train.labels.npy"
    np.save(path, np.load(path)[:-1])


def damage_labels(folder):
    np.save(folder / "listops" / "train.labels.npy", np.full(300, 10, np.uint8))


def damage_offsets(folder):
    path = folder / "listops" / "train.offsets.npy"
    offsets = np.load(path)
    offsets[3] = offsets[2]
    np.save(path, offsets)


def damage_presence(folder):
    (folder / "listops" / "train.labels.npy").unlink()


def damage_manifest(folder):
    path = folder / "listops" / "manifest.json"
    path.write_text(path.read_text()[:100])


def damage_format(folder):
    change_manifest(folder, lambda manifest: manifest.update(format=2))


def damage_tokens(folder):
    change_manifest(folder, lambda manifest: manifest["tokens"].reverse())


def damage_sizes(folder):
    change_manifest(folder, lambda manifest: manifest["splits"]["dev"].update(examples=-1))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_length, r"train.tokens.npy is damaged: it cannot be read"),
        (damage_type, r"train.offsets.npy is damaged: .* of type int64, the file \(301,\) of type int32"),
        (damage_shape, r"train.labels.npy is damaged: the manifest says 300 values"),
        (damage_labels, r"labels outside 0 … 9"),
        (damage_offsets, r"offsets do not ascend"),
        (damage_presence, r"train.labels.npy is damaged: it is missing"),
        (damage_manifest, r"manifest.json is damaged: it is not a manifest"),
        (damage_format, r"its format is 2 and this version of nip reads 1"),
        (damage_tokens, r"other token ids"),
        (damage_sizes, r"sizes of its dev split"),
    ],
)
def test_damage_is_refused_when_opened(damage, message, written):
    damage(written)
    for read in (open_split, lambda task, _, folder: verify(task, folder)):
        with pytest.raises(ValueError, match=r"is damaged: .* nip data listops --overwrite --output-dir ") as raised:
            read("listops", "train", written)
        if read is open_split:
            raised.match(message)


def test_nothing_in_a_file_is_executed(written):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(written / "executed"),)

    np.save(written / "listops" / "train.labels.npy", np.array([Trap()] * 300, dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read"):
        open_split("listops", "train", written)
    (written / "listops" / "train.labels.npy").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="cannot be read"):
        open_split("listops", "train", written)
    assert names(written) == ["listops"]


@pytest.mark.parametrize(("part", "value"), [("tokens", 9), ("labels", 7)])
def test_a_changed_byte_is_found_by_verify(part, value, written):
    path = written / "listops" / f"dev.{part}.npy"
    array = np.load(path)
    assert array[0] != value
    array[0] = value
    np.save(path, array)
    open_split("listops", "dev", written)
    with pytest.raises(ValueError, match=rf"dev.{part}.npy is damaged: its SHA-256"):
        verify("listops", written)
    # with the checksum forged, the values of the expressions tell
    change_manifest(written, lambda m: m["splits"]["dev"]["sha256"].update({part: storage.file_sha256(path)}))
    with pytest.raises(ValueError, match="is not its value"):
        verify("listops", written)


def test_token_ids_that_no_token_has_are_found_by_verify(written):
    path = written / "listops" / "test.tokens.npy"
    array = np.load(path)
    array[0] = 16
    np.save(path, array)
    change_manifest(written, lambda m: m["splits"]["test"]["sha256"].update(tokens=storage.file_sha256(path)))
    with pytest.raises(ValueError, match="token ids outside 1 … 15"):
        verify("listops", written)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_one_error(small, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="Permission denied"):
        write_task(small, tmp_path / "data", DESCRIPTION)


def test_a_file_in_the_way_is_one_error(small, tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(OSError, match="data"):
        write_task(small, tmp_path / "data", DESCRIPTION)


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
    write_task(many, tmp_path / "many", PLAIN, task=task)
    monkeypatch.setattr(examples, "CHUNK", 1 << 30)
    one = {split: next(chunks(task, split, rows(task, 20, seed))) for seed, split in enumerate(SPLITS)}
    write_task(one, tmp_path / "one", PLAIN)
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
    write_task({split: chunks(TEXT, split, rows(TEXT, 9)) for split in SPLITS}, tmp_path, PLAIN, task=TEXT)
    for path in (tmp_path / "text").glob("*.npy"):
        np.save(tmp_path / "again.npy", np.load(path))
        assert path.read_bytes() == (tmp_path / "again.npy").read_bytes()


def test_a_long_split_is_written_in_bounded_memory(tmp_path):
    def images():
        pixels = np.zeros(1024, np.uint8)
        return ((0, [pixels]) for _ in range(40_000))

    short = {split: chunks(IMAGE, split, rows(IMAGE, 2)) for split in ("dev", "test")}
    tracemalloc.start()
    write_task({"train": chunks(IMAGE, "train", images()), **short}, tmp_path, PLAIN, task=IMAGE)
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
        write_task(splits, tmp_path, PLAIN, task=wrong.task)
    assert not list(tmp_path.iterdir())


def test_an_empty_text_is_a_single_zero(tmp_path):
    split = list(chunks(TEXT, "train", [(1, [np.zeros(0, np.uint8)]), (0, [np.array([5])])]))
    write_task(dict.fromkeys(SPLITS, split), tmp_path, PLAIN, task=TEXT)
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
    write_task(good, tmp_path, PLAIN)
    with pytest.raises(OSError, match="the network is gone"):
        write_task({**good, "test": failing()}, tmp_path, PLAIN, task=TEXT, overwrite=True)
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
    with pytest.raises(ValueError, match="tokens of text have no labels"):
        single.batch_targets([0], 2)
    with pytest.raises(ValueError, match=r"has 1 sequences, numbered from 0. Got 1"):
        single.sequence(0, 1)
    assert single.cut(5).cut(1).sequence(0).tolist() == [1]
