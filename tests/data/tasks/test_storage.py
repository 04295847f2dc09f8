"""What is written is read back, all or nothing; what is damaged is refused."""

import json
import os
import pickle
import signal
import subprocess
import sys

import numpy as np
import pytest

from nip.data import SPLITS, open_split, verify, write_task
from nip.data.tasks import storage
from nip.data.tasks import storage as writing
from nip.runs import folder as folder_files

DESCRIPTION = {"source": "test", "parameters": {"seed": 5, "train": 300}, "split_rule": "none", "licence": "none"}


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
    with pytest.raises(ValueError, match="exists already; --overwrite replaces it"):
        write_task(small, written, DESCRIPTION)
    (written / "listops" / "basic_train.tsv").write_text("of the old set")
    write_task(small, written, DESCRIPTION | {"source": "second"}, overwrite=True)
    assert storage.read_manifest("listops", written)["source"] == "second"
    assert names(written) == ["listops"]
    assert "basic_train.tsv" not in names(written / "listops")


def test_what_is_not_ours_is_never_replaced(small, written, tmp_path_factory):
    (written / "listops" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"also holds notes.txt"):
        write_task(small, written, DESCRIPTION, overwrite=True)
    foreign = tmp_path_factory.mktemp("foreign")
    (foreign / "listops").mkdir()
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="holds no data of nip"):
            write_task(small, foreign, DESCRIPTION, overwrite=overwrite)
    with pytest.raises(ValueError, match="holds no data of nip"):
        storage.stored("listops", foreign, DESCRIPTION)


@pytest.mark.parametrize("step", range(10))
def test_an_interrupted_writer_leaves_what_was_there(step, small, written, tmp_path_factory, monkeypatch):
    replacing, steps = writing.replacing, iter(range(10))

    def interrupted(path):
        if next(steps) == step:
            raise KeyboardInterrupt
        return replacing(path)

    empty = tmp_path_factory.mktemp("empty")
    for folder, there in ((empty, []), (written, ["listops"])):
        steps = iter(range(10))
        for module in (writing, folder_files):  # the arrays, and last the manifest
            monkeypatch.setattr(module, "replacing", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_task(small, folder, DESCRIPTION | {"source": "second"}, overwrite=True)
        monkeypatch.undo()
        assert names(folder) == there
    assert storage.read_manifest("listops", written)["source"] == "test"
    assert verify("listops", written)


def test_a_set_that_a_killed_process_had_moved_away_gets_its_name_back(small, written):
    home = written / "listops"
    home.rename(written / ".listops.0123abcd.replaced")
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "_write_split", interrupted)
        write_task(small, written, DESCRIPTION, overwrite=True)
    assert storage.read_manifest("listops", written)["source"] == "test"
    assert verify("listops", written)


def interrupted(*_):
    raise KeyboardInterrupt


KILLED = """
import os, signal, sys
from pathlib import Path
from nip.data import Rule, build_listops
from nip.data.tasks import storage as writing

real, calls = writing.file_sha256, iter(range(9))
def file_sha256(path):
    if next(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(path)
writing.file_sha256 = file_sha256
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
        (damage_manifest, r"manifest.json is damaged: it is no manifest"),
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
