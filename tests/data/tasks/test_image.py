"""CIFAR-10 in every form, written here without the readers; all forms give the same pictures."""

import io
import pickle
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from nip.data import TASKS, open_split, read_manifest, verify
from nip.data.tasks import image as cifar
from nip.data.tasks.build import build
from nip.data.tasks.source import Request

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (70, 32, 32, 3)).astype(np.uint8)
# in float32 a level that is almost one higher comes out higher; here are only colours for which it cannot matter
COLOURS[COLOURS @ np.array([2989, 5870, 1140]) * 511 % 5_100_000 > 5_099_000] = 0
LABELS = RNG.integers(0, 10, 70).tolist()
PARTS = {"train": slice(0, 50), "test": slice(50, 70)}


def exact_grey(colour):
    """TensorFlow's formula in rational numbers."""
    weights = [Fraction(w).limit_denominator(10000) for w in (0.2989, 0.587, 0.114)]
    return int(sum(w * int(c) for w, c in zip(weights, colour, strict=True)) / 255 * Fraction(511, 2))


GREY = np.array([exact_grey(colour) for colour in COLOURS.reshape(-1, 3).tolist()]).reshape(70, 1024)


def records(part):
    """Rows of red, green and blue."""
    return COLOURS[part].transpose(0, 3, 1, 2).reshape(-1, 3072), LABELS[part]


def files():
    for i in range(5):
        yield f"data_batch_{i + 1}", slice(10 * i, 10 * i + 10)
    yield "test_batch", PARTS["test"]


def python2(data, labels):
    """A batch as Python 2 wrote it, by protocol 2 with text that is bytes."""
    raw = b"\x80\x02}(U\x0bbatch_labelU\x0dtesting batchU\x06labels]("
    raw += b"".join(b"K" + bytes([label]) for label in labels) + b"eU\x04data"
    raw += b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
    raw += (
        b"K"
        + bytes([len(data)])
        + b"M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ"
    )
    raw += b"\xff\xff\xff\xffK\x00tb\x89T" + data.size.to_bytes(4, "little") + data.tobytes() + b"tbu."
    held = pickle.loads(raw, encoding="bytes")
    assert np.array_equal(held[b"data"], data) and held[b"labels"] == labels
    return raw


def write_python(root, below="cifar-10-batches-py", dump=python2):
    (root / below).mkdir(parents=True)
    for name, part in files():
        (root / below / name).write_bytes(dump(*records(part)))


def write_python3(root):
    write_python(root, ".", lambda data, labels: pickle.dumps({"data": data, "labels": labels}))


def write_binary(root):
    root.mkdir()
    for name, part in files():
        rows = (bytes([label]) + row.tobytes() for row, label in zip(*records(part), strict=True))
        (root / f"{name}.bin").write_bytes(b"".join(rows))


def png(colours):
    file = io.BytesIO()
    Image.fromarray(colours).save(file, format="PNG")
    return file.getvalue()


def write_parquet(root):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    (root / "plain_text").mkdir(parents=True)
    for name, part in PARTS.items():
        pictures = [{"bytes": png(each), "path": None} for each in COLOURS[part]]
        table = pyarrow.table({"img": pictures, "label": LABELS[part]})
        parquet.write_table(table, root / "plain_text" / f"{name}-00000-of-00001.parquet")


def check(data):
    ranges = {"train": slice(0, 45), "dev": slice(45, 50), "test": slice(50, 70)}
    for split, part in ranges.items():
        read = open_split("image", split, data)
        ids, labels = read.batch(range(len(read)), 1024)
        assert labels.tolist() == LABELS[part]
        assert np.array_equal(ids, GREY[part])
        assert read.mask(range(len(read)), 1024).all()
    assert verify("image", data) == {"train": 45, "dev": 5, "test": 20}


@pytest.mark.parametrize("write", [write_python, write_python3, write_binary, write_parquet])
def test_every_form_gives_the_same_grey_pictures(write, tmp_path):
    write(tmp_path / "files")
    assert build("image", tmp_path / "data", origin=str(tmp_path / "files"))
    check(tmp_path / "data")
    assert "first 90 %" in read_manifest("image", tmp_path / "data")["split_rule"]
    assert not build("image", tmp_path / "data", origin=str(tmp_path / "files"))


@pytest.mark.parametrize("as_pictures", [True, False])
def test_sets_of_the_hub_are_read_through_its_library(as_pictures):
    def load(name, part):
        assert name == "uoft-cs/cifar10"
        for colours, label in zip(COLOURS[PARTS[part]], LABELS[PARTS[part]], strict=True):
            yield {"img": Image.fromarray(colours) if as_pictures else {"bytes": png(colours)}, "label": label}

    plan = cifar.plan_hub(Request(task=TASKS["image"], origin="uoft-cs/cifar10"), load)
    (dev,) = plan.splits()["dev"]
    assert np.array_equal(dev.batch(range(5), 1024)[0], GREY[45:50])


def test_grey_is_the_formula_but_for_the_rounding_of_float32():
    colours = RNG.integers(0, 256, (400_000, 3))
    level, rest = np.divmod(colours @ np.array([2989, 5870, 1140]) * 511, 5_100_000)
    found = cifar.grey(colours.astype(np.uint8))
    higher = found != level
    assert (found[higher] == level[higher] + 1).all() and (rest[higher] > 5_100_000 - 200).all()
    assert higher.mean() < 1e-4


def test_grey_is_the_formula_for_every_grey_and_primary_colour():
    ramp = np.arange(256, dtype=np.uint8)
    for channels in ((0, 1, 2), (0,), (1,), (2,), (0, 1), (1, 2), (0, 2)):
        colours = np.zeros((256, 3), np.uint8)
        colours[:, channels] = ramp[:, None]
        assert cifar.grey(colours).tolist() == [exact_grey(colour) for colour in colours.tolist()]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("write", "name", "damage", "told"),
    [
        (write_binary, "data_batch_2.bin", truncate, "is truncated: its .* not a multiple of the 3073"),
        (write_binary, "test_batch.bin", lambda path: path.write_bytes(b""), "is truncated"),
        (
            write_binary,
            "data_batch_1.bin",
            lambda path: path.write_bytes(b"\x0a" + bytes(3072)),
            "label 0 must be one of",
        ),
        (write_python3, "data_batch_3", truncate, "is truncated or not a valid pickle"),
        (write_python3, "test_batch", lambda path: path.write_bytes(pickle.dumps([1])), "is not a dict"),
        (
            write_python3,
            "test_batch",
            lambda path: path.write_bytes(pickle.dumps({"data": np.zeros((2, 784), np.uint8), "labels": [1, 2]})),
            r"'data' must be bytes of shape \(pictures, 3072\)",
        ),
        (
            write_python3,
            "test_batch",
            lambda path: path.write_bytes(pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1]})),
            "'labels' must be a list of 2 integers",
        ),
        (
            write_python3,
            "test_batch",
            lambda path: path.write_bytes(pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [1, 10]})),
            "label 1 must be one of 0 … 9. Got 10",
        ),
        (write_python3, "data_batch_4", lambda path: path.write_bytes(pickle.dumps(print)), "the name '.*print'"),
        (write_binary, "data_batch_5.bin", lambda path: path.unlink(), "There is no .*data_batch_5.bin"),
    ],
)
def test_damaged_files_are_named(write, name, damage, told, tmp_path):
    write(tmp_path / "files")
    damage(tmp_path / "files" / name)
    with pytest.raises((ValueError, FileNotFoundError), match=told) as raised:
        build("image", tmp_path / "data", origin=str(tmp_path / "files"))
    assert name in str(raised.value)
    assert not list(tmp_path.glob("data/*"))


@pytest.mark.parametrize(
    ("picture", "label", "told"),
    [
        (png(np.zeros((28, 32, 3), np.uint8)), 1, "must have 32 × 32 pixels of mode RGB. Got 32 × 28"),
        (png(np.zeros((32, 32), np.uint8)), 1, "Got 32 × 32 of mode L"),
        (b"GIF89a", 1, "truncated or not a PNG"),
        (png(np.zeros((32, 32, 3), np.uint8))[:60], 1, "truncated or not a PNG"),
        (None, 1, "is not a picture"),
        (png(np.zeros((32, 32, 3), np.uint8)), 10, "label must be one of 0 … 9. Got 10"),
    ],
)
def test_pictures_that_do_not_fit_are_named(picture, label, told):
    plan = cifar.plan_hub(
        Request(task=TASKS["image"], origin="a/b"), lambda name, part: [{"img": {"bytes": picture}, "label": label}]
    )
    with pytest.raises(ValueError, match=rf"a/b, train row 0.*{told}"):
        plan.splits()
