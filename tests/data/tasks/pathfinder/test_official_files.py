"""Pathfinder's official files: written here with Pillow and plain text, or by the library."""

import dataclasses
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from nip.data import SPLITS, TASKS, Examples, Rule, generate, open_split, read_manifest, verify
from nip.data.tasks.build import build
from nip.data.tasks.pathfinder import draw, official_files, write_pictures

TASK = "pathfinder32-curv_baseline"
ROWS = 10  # of a metadata file
FOLDERS = (0, 2, 10)  # in this order, not by their text
RNG = np.random.default_rng(1)
PIXELS = RNG.integers(0, 256, (len(FOLDERS) * ROWS, 32, 32)).astype(np.uint8)
LABELS = RNG.integers(0, 2, len(PIXELS)).tolist()


def table():
    """The eleven columns of every picture, by folder."""
    for place, k in enumerate(FOLDERS):
        yield (
            k,
            [
                [
                    f"imgs/{k}",
                    f"sample_{i}.png",
                    str(i),
                    str(LABELS[ROWS * place + i]),
                    "1.0",
                    "6",
                    "2",
                    "2",
                    "0.5",
                    "1",
                    "1",
                ]
                for i in range(ROWS)
            ],
        )


def write(root, array=False):
    (root / "metadata").mkdir(parents=True)
    for place, (k, rows) in enumerate(table()):
        path = root / "metadata" / f"{k}.npy"
        if array:
            np.save(path, np.array(rows))
        else:
            path.write_text("".join(" ".join(row) + "\n" for row in rows))
        (root / "imgs" / str(k)).mkdir(parents=True)
        for i, row in enumerate(rows):
            Image.fromarray(PIXELS[ROWS * place + i]).save(root / row[0] / row[1])


def check(data, numbers):
    for split, chosen in numbers.items():
        read = open_split(TASK, split, data)
        ids, labels = read.batch(range(len(read)), 1024)
        assert labels.tolist() == [LABELS[i] for i in chosen]
        assert np.array_equal(ids, PIXELS[list(chosen)].reshape(-1, 1024))
    assert verify(TASK, data) == {split: len(chosen) for split, chosen in numbers.items()}


CONTIGUOUS = {"train": range(24), "dev": range(24, 27), "test": range(27, 30)}


@pytest.mark.parametrize("below", ["", "curv_baseline", "pathfinder32/curv_baseline",
                                   "lra_release/lra_release/pathfinder32/curv_baseline"])  # fmt: skip
def test_text_metadata_in_the_order_of_their_numbers(below, tmp_path):
    write(tmp_path / "files" / below)
    assert build(TASK, tmp_path / "data", origin=str(tmp_path / "files"))
    check(tmp_path / "data", CONTIGUOUS)
    manifest = read_manifest(TASK, tmp_path / "data")
    assert manifest["empty_pictures"] == []
    assert "first 80 %" in manifest["split_rule"]
    assert not build(TASK, tmp_path / "data", origin=str(tmp_path / "files"))


def test_true_arrays_are_read(tmp_path):
    write(tmp_path / "files", array=True)
    assert build(TASK, tmp_path / "data", origin=str(tmp_path / "files"))
    check(tmp_path / "data", CONTIGUOUS)


def test_the_split_of_s4_is_torchs(tmp_path):
    write(tmp_path / "files")
    generator = torch.Generator().manual_seed(42)
    train, dev, test = torch.utils.data.random_split(range(30), [24, 3, 3], generator=generator)
    assert build(TASK, tmp_path / "data", origin=str(tmp_path / "files"), split_rule="s4")
    check(tmp_path / "data", {"train": list(train), "dev": list(dev), "test": list(test)})
    with pytest.raises(ValueError, match="split_rule is 's4' there and 'contiguous' here"):
        build(TASK, tmp_path / "data", origin=str(tmp_path / "files"))


def test_a_shuffle_is_told_by_its_seed(tmp_path):
    write(tmp_path / "files")
    for seed in (0, 7):
        data = tmp_path / str(seed)
        assert build(TASK, data, origin=str(tmp_path / "files"), split_rule="shuffled", seed=seed)
        manifest = read_manifest(TASK, data)
        assert manifest["parameters"]["seed"] == seed
        assert f"random.Random({seed})" in manifest["split_rule"]
        chosen = official_files.split_indices(30, "shuffled", seed)
        assert sorted(i for part in chosen.values() for i in part) == list(range(30))
        check(data, chosen)
    assert official_files.split_indices(30, "shuffled", 0) != official_files.split_indices(30, "shuffled", 7)
    with pytest.raises(ValueError, match="only 'shuffled' takes a seed"):
        build(TASK, tmp_path / "data", origin=str(tmp_path / "files"), seed=1)
    with pytest.raises(ValueError, match=r"no split rule 'random' .* contiguous, shuffled, s4"):
        build(TASK, tmp_path / "data", origin=str(tmp_path / "files"), split_rule="random")


@pytest.mark.parametrize(("n", "sizes"), [(200_000, (160_000, 20_000, 20_000)), (199_999, (159_999, 20_000, 20_000))])
def test_sizes_of_the_release(n, sizes):
    s4 = official_files.split_indices(n, "s4")
    assert sum(map(len, s4.values())) == n
    assert len(s4["dev"]) == len(s4["test"]) == int(0.1 * n)
    assert tuple(map(len, official_files.split_indices(n, "contiguous").values())) == sizes


def test_empty_pictures_are_left_out_and_counted(tmp_path):
    write(tmp_path / "files")
    (tmp_path / "files" / "imgs" / "0" / "sample_7.png").write_bytes(b"")
    assert build(TASK, tmp_path / "data", origin=str(tmp_path / "files"))
    assert read_manifest(TASK, tmp_path / "data")["empty_pictures"] == ["imgs/0/sample_7.png"]
    left = [i for i in range(30) if i != 7]
    check(tmp_path / "data", {"train": left[:23], "dev": left[23:26], "test": left[26:]})


def metadata(text):
    def damage(root):
        path = root / "metadata" / "2.npy"
        lines = path.read_text().splitlines()
        lines[3] = text
        path.write_text("\n".join(lines))

    return damage


def save(array, **options):
    return lambda root: np.save(root / "metadata" / "2.npy", array, **options)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (metadata("imgs/2 sample_3.png 3"), "2.npy, line 4: there must be at least 4 columns"),
        (metadata("imgs/2 sample_3.png 3 2"), "2.npy, line 4: the label must be 0 or 1. Got '2'"),
        (metadata("../../etc passwd 3 1"), "is outside the folder"),
        (metadata("/etc passwd 3 1"), "is outside the folder"),
        (metadata("imgs/2 sample_99.png 3 1"), "There is no .*sample_99.png, which the metadata list"),
        (save(np.array([["a", 1]], dtype=object), allow_pickle=True), "2.npy cannot be read: Object arrays"),
        (save(np.zeros((3, 4))), r"must be a table of text. Got shape \(3, 4\) of type float64"),
        (lambda root: (root / "metadata" / "2.npy").write_bytes(b"\xff\xfe\x00"), "neither text nor an array"),
        (
            lambda root: (root / "metadata" / "a.npy").write_text(""),
            "a.npy: the name of a metadata file must be a number",
        ),
        (lambda root: (root / "imgs/2/sample_0.png").write_bytes(b"no"), "sample_0.png is truncated or not a PNG"),
        (
            lambda root: (root / "imgs/2/sample_0.png").write_bytes((root / "imgs/2/sample_1.png").read_bytes()[:500]),
            "sample_0.png is truncated",
        ),
        (
            lambda root: Image.fromarray(np.zeros((64, 64), np.uint8)).save(root / "imgs/2/sample_0.png"),
            "sample_0.png: the picture must have 32 × 32 pixels of mode L. Got 64 × 64",
        ),
        (
            lambda root: Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(root / "imgs/2/sample_0.png"),
            "Got 32 × 32 of mode RGB",
        ),
    ],
)
def test_what_does_not_fit_is_named(damage, told, tmp_path):
    write(tmp_path / "files")
    damage(tmp_path / "files")
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        build(TASK, tmp_path / "data", origin=str(tmp_path / "files"))
    assert not list(tmp_path.glob("data/*"))


STOPPED = """
import os, resource, signal, sys
from pathlib import Path
from nip.cli import main
from nip.data.tasks.pathfinder import official_files

real, calls = official_files.pixels_of, iter(range(99))
def pixels_of(*arguments):
    if next(calls) == 20:  # of 30: train is half written
        if sys.argv[3] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # as a disk that is full from here on
    return real(*arguments)
official_files.pixels_of = pixels_of
main(["data", "pathfinder32-curv_baseline", "--from", sys.argv[1], "--out", sys.argv[2]])
"""


@pytest.mark.parametrize("how", ["kill", "full"])
def test_a_conversion_that_stopped_half_way_starts_anew(how, tmp_path):
    write(tmp_path / "files")
    data = tmp_path / "data"
    command = [sys.executable, "-c", STOPPED, str(tmp_path / "files"), str(data), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if how == "kill":
        assert done.returncode == -signal.SIGKILL
    else:
        assert (done.returncode, done.stderr) == (2, f"nip: {data / TASK}: could not be written: File too large\n")
        assert not list(data.iterdir())
    with pytest.raises(FileNotFoundError, match="Make it with"):
        open_split(TASK, "train", data)
    assert build(TASK, data, origin=str(tmp_path / "files"))
    assert build(TASK, tmp_path / "whole", origin=str(tmp_path / "files"))
    check(data, CONTIGUOUS)
    assert {path.name: path.read_bytes() for path in (data / TASK).iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "whole" / TASK).iterdir()
    }


SIZES = {"train": 832, "dev": 104, "test": 104}


@pytest.fixture(scope="module")
def splits():
    """1,040 pictures of an easy set; all but the first few are of one colour each, to save time."""
    task = TASKS["pathfinder32-curv_baseline"]
    made, number = {}, 0
    for split, size in SIZES.items():
        pixels = np.repeat(np.arange(number, number + size) % 251, 1024).astype(np.uint8)
        labels = np.arange(number, number + size) % 2
        if split == "train":
            pixels[:1024] = draw("curv_baseline", 0).picture.ravel()
        made[split] = Examples(task, split, pixels, np.arange(size + 1) * 1024, labels)
        number += size
    return made


def read_layout(home):
    """The official layout, as Long Range Arena reads it: label and picture by place."""
    found = {}
    for listed in (home / "metadata").glob("*.npy"):
        for line in listed.read_text().split("\n")[:-1]:
            columns = line.split(" ")
            assert len(columns) == 11
            path = home / columns[0] / columns[1]
            assert path.name == f"sample_{columns[2]}.png"
            with Image.open(path) as image:
                assert (image.mode, image.size) == ("L", (32, 32))
                found[1000 * int(listed.stem) + int(columns[2])] = (int(columns[3]), np.asarray(image))
    return found


def test_pictures_and_lists_hold_the_set(splits, tmp_path):
    home = write_pictures(splits, tmp_path)
    assert home == tmp_path / "pathfinder32" / "curv_baseline"
    found = read_layout(home)
    assert sorted(found) == list(range(1040))
    number = 0
    for split in SPLITS:
        for i in range(len(splits[split])):
            label, picture = found[number]
            assert label == splits[split].labels[i]
            assert np.array_equal(picture.ravel(), splits[split].sequence(i))
            number += 1
    first = (home / "metadata" / "0.npy").read_text().split("\n")[0]
    assert first == "imgs/0 sample_0.png 0 0 1.0 6 2 2 0.5 1 1"


def test_the_reader_of_official_files_takes_them(splits, tmp_path):
    write_pictures(splits, tmp_path / "release")
    task = splits["train"].task.name
    assert build(task, tmp_path / "data", origin=str(tmp_path / "release"))
    for name in SPLITS:
        there = open_split(task, name, tmp_path / "data")
        assert np.array_equal(there.tokens, splits[name].tokens)
        assert np.array_equal(there.labels, splits[name].labels)


def test_what_was_stopped_goes_on(splits, tmp_path):
    home = write_pictures(splits, tmp_path)
    (home / "metadata" / "1.npy").unlink()
    (home / "imgs" / "1" / "sample_3.png").unlink()
    kept = home / "imgs" / "0" / "sample_0.png"
    before = kept.stat().st_mtime_ns
    told = []
    write_pictures(splits, tmp_path, progress=told.append)
    assert told == [1040]
    assert kept.stat().st_mtime_ns == before
    assert len(read_layout(home)) == 1040


def test_other_pictures_are_not_mixed_in(splits, tmp_path):
    home = write_pictures(splits, tmp_path)
    other = {**splits, "test": dataclasses.replace(splits["test"], labels=splits["test"].labels.copy() ^ 1)}
    with pytest.raises(ValueError, match=r"0\.npy lists other pictures"):
        write_pictures(other, tmp_path)
    assert len(read_layout(home)) == 1040


def test_other_tasks_are_refused(tmp_path):
    small = generate(Rule(min_length=10, max_length=30), (3, 2, 1))
    with pytest.raises(ValueError, match="no level 'listops'"):
        write_pictures(small, tmp_path)


def test_a_list_appears_after_its_pictures(splits, tmp_path, monkeypatch):
    def full(picture, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(official_files, "_write_png", full)
    with pytest.raises(OSError, match="No space left"):
        write_pictures(splits, tmp_path)
    assert not list((tmp_path / "pathfinder32" / "curv_baseline" / "metadata").iterdir())
