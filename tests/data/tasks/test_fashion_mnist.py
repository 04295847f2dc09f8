import gzip
import struct

import numpy as np
import pytest

from nip.data import open_split, read_manifest, verify
from nip.data.tasks import fashion_mnist as fashion
from nip.data.tasks.build import build

NAMES = [name for names in fashion.FILES.values() for name in names]


def idx(array):
    """An IDX file by its definition: two zero bytes, 8 for bytes, the number of axes, the axes, the content."""
    return struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def packed(raw):
    """The same bytes at any time: they name tests, which every process of a run must find alike."""
    return gzip.compress(raw, mtime=0)


def pictures_and_labels(n, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 28, 28), np.uint8), rng.integers(0, 10, n, np.uint8)


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "files"
    home.mkdir()
    for part, n, seed in (("train", 49, 1), ("test", 12, 2)):
        for name, array in zip(fashion.FILES[part], pictures_and_labels(n, seed), strict=True):
            (home / name).write_bytes(gzip.compress(idx(array)))
    return home


@pytest.mark.parametrize("task", ["fashion-mnist", "image"])
def test_pictures_are_framed_and_split(task, folder, tmp_path):
    assert build(task, tmp_path, origin=str(folder), source="fashion-mnist")
    assert [path.name for path in tmp_path.iterdir() if path != folder] == ["fashion-mnist"]
    assert verify("fashion-mnist", tmp_path) == {"train": 45, "dev": 4, "test": 12}
    train_pictures, train_labels = pictures_and_labels(49, 1)
    test_pictures, test_labels = pictures_and_labels(12, 2)
    expected = {
        "train": (train_pictures[:45], train_labels[:45]),
        "dev": (train_pictures[45:], train_labels[45:]),
        "test": (test_pictures, test_labels),
    }
    for split, (pictures, labels) in expected.items():
        examples = open_split("fashion-mnist", split, tmp_path)
        assert examples.labels.tolist() == labels.tolist()
        for i, picture in enumerate(pictures):
            framed = examples.sequence(i).reshape(32, 32).copy()
            assert np.array_equal(framed[2:30, 2:30], picture)
            framed[2:30, 2:30] = 0
            assert not framed.any()
    manifest = read_manifest("fashion-mnist", tmp_path)
    assert manifest["source"] == "Fashion-MNIST"
    assert "Not a task of Long Range Arena" in manifest["stand_in"]
    assert not build(task, tmp_path, origin=str(folder), source="fashion-mnist")


def test_the_folder_is_recognised(folder, tmp_path):
    assert build("fashion-mnist", tmp_path, origin=str(folder))


def test_image_never_means_fashion_unasked(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(fashion, "USUAL", folder)
    with pytest.raises(ValueError, match="image is read from files"):
        build("image", tmp_path)
    assert build("fashion-mnist", tmp_path)


def test_missing_files_say_where_to_get_them(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(fashion, "USUAL", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="apt install dataset-fashion-mnist"):
        build("fashion-mnist", tmp_path)
    (folder / NAMES[3]).unlink()
    with pytest.raises(FileNotFoundError, match=rf"There is no .*{NAMES[3]}"):
        build("fashion-mnist", tmp_path, origin=str(folder))
    assert not (tmp_path / "fashion-mnist").exists()


WHOLE = idx(pictures_and_labels(49, 1)[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (packed(WHOLE)[:-300], "truncated"),
        (packed(WHOLE[:-1]), r"it has 38415 of the 38416 bytes"),
        (packed(WHOLE + b"x"), r"it has more than the 38416 bytes"),
        (packed(b"\0\0\x09\x03" + WHOLE[4:]), "not an IDX file of bytes with 3 axes"),
        (packed(b"\0\0\x08\x01" + WHOLE[4:]), "not an IDX file of bytes with 3 axes"),
        (packed(WHOLE[:11]), "not an IDX file"),
        (packed(b""), "not an IDX file"),
        (b"", "not an IDX file"),
        (WHOLE, "damaged or truncated: Not a gzipped file"),
        (packed(WHOLE)[:12] + b"\xff" * 40 + packed(WHOLE)[52:], "damaged"),
        (packed(WHOLE[:4] + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 28)), "the limit is"),
        (packed(idx(np.zeros((49, 28, 27), np.uint8))), r"28 × 28 pixels. Got \(28, 27\)"),
        (packed(idx(np.zeros((48, 28, 28), np.uint8))), "48 pictures and .* 49 labels"),
    ],
)
def test_damaged_files_are_refused(content, message, folder, tmp_path):
    (folder / NAMES[0]).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        build("fashion-mnist", tmp_path, origin=str(folder))
    assert not (tmp_path / "fashion-mnist").exists()


def test_labels_outside_the_classes_are_refused(folder, tmp_path):
    (folder / NAMES[1]).write_bytes(gzip.compress(idx(np.full(49, 10, np.uint8))))
    with pytest.raises(ValueError, match=r"train split of fashion-mnist, example 0: the label must be one of 0 … 9"):
        build("fashion-mnist", tmp_path, origin=str(folder))


@pytest.mark.skipif(not fashion.USUAL.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_real_set(tmp_path):
    assert build("fashion-mnist", tmp_path)
    counts = np.bincount(open_split("fashion-mnist", "test", tmp_path).labels)
    assert counts.tolist() == [1000] * 10
    assert len(open_split("fashion-mnist", "train", tmp_path)) == 54000
