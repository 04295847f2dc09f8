import dataclasses

import numpy as np
import pytest
from PIL import Image

from nip.data import SPLITS, TASKS, Examples, Rule, generate, open_split
from nip.data.tasks.build import build
from nip.data.tasks.pathfinder import draw, files, write_pictures

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


def read(home):
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
    found = read(home)
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
    assert len(read(home)) == 1040


def test_other_pictures_are_not_mixed_in(splits, tmp_path):
    home = write_pictures(splits, tmp_path)
    other = {**splits, "test": dataclasses.replace(splits["test"], labels=splits["test"].labels.copy() ^ 1)}
    with pytest.raises(ValueError, match=r"0\.npy lists other pictures"):
        write_pictures(other, tmp_path)
    assert len(read(home)) == 1040


def test_other_tasks_are_refused(tmp_path):
    small = generate(Rule(min_length=10, max_length=30), (3, 2, 1))
    with pytest.raises(ValueError, match="no level 'listops'"):
        write_pictures(small, tmp_path)


def test_a_list_appears_after_its_pictures(splits, tmp_path, monkeypatch):
    def full(picture, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_write_png", full)
    with pytest.raises(OSError, match="No space left"):
        write_pictures(splits, tmp_path)
    assert not list((tmp_path / "pathfinder32" / "curv_baseline" / "metadata").iterdir())
