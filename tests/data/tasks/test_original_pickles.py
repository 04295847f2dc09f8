"""The original's pickles as its own script writes them: made here with the standard library."""

import pickle

import numpy as np
import pytest

from nip.data import TASKS, baselines, open_split, read_manifest, verify
from nip.data.tasks.build import build
from nip.data.tasks.statistics import statistics

SIZES = {"train": 20, "dev": 6, "test": 7}


def row(ids, length):
    return np.array(list(ids) + [0] * (length - len(ids)), dtype=np.int32)


def example(task, number):
    """What the original's conversion makes of an example; number 0 has zeros within, or nothing."""
    rng = np.random.default_rng(number)
    label = np.int64(number % TASKS[task].n_classes)
    if task == "listops":  # another order of ids than ours, 16 among them
        return {"input_ids_0": row(rng.integers(1, 17, 30 + number), 2048), "label": label}
    if task == "text":
        return {"input_ids_0": row(rng.integers(1, 257, 50 * (number % 20)), 1024), "label": label}
    if task == "retrieval":
        ids = [row(rng.integers(1, 257, size), 4096) for size in (4000, 9 + number)]
        return {"input_ids_0": ids[0], "input_ids_1": ids[1], "label": label}
    return {"input_ids_0": rng.integers(0, 256, 1024).astype(np.int32) * (number > 0), "label": label}


def write(folder, task, change=None, protocol=4):
    folder.mkdir(exist_ok=True)
    made, number = {}, 0
    for split, size in SIZES.items():
        made[split] = [example(task, number + i) for i in range(size)]
        number += size
        if change is not None and split == "dev":
            change(made[split])
        (folder / f"{task}.{split}.pickle").write_bytes(pickle.dumps(made[split], protocol=protocol))
    return made


@pytest.mark.parametrize("task", [name for name in TASKS if name in ("listops", "text", "retrieval", "image")
                                  or name.startswith("pathfinder32-")])  # fmt: skip
def test_ids_are_taken_as_they_are(task, tmp_path):
    made = write(tmp_path / "LRA", task)
    assert build(task, tmp_path / "data", origin=str(tmp_path / "LRA"))
    length = TASKS[task].padded_length
    for split, examples in made.items():
        read = open_split(task, split, tmp_path / "data")
        ids, labels = read.batch(range(len(read)), length)
        assert labels.tolist() == [each["label"] for each in examples]
        parts = ["input_ids_0", "input_ids_1"] if task == "retrieval" else ["input_ids_0"]
        for place, part in enumerate(parts):
            there = ids[:, place] if len(parts) == 2 else ids
            wanted = np.zeros((len(examples), length), int)
            for i, each in enumerate(examples):
                wanted[i, : len(each[part])] = each[part]
            assert np.array_equal(there, wanted)
        assert read.foreign
    manifest = read_manifest(task, tmp_path / "data")
    assert manifest["tokens"] is None
    assert "does not say what they mean" in manifest["vocabulary"]
    assert set(manifest["parameters"]) == {f"{task}.{split}.pickle" for split in SIZES}
    assert verify(task, tmp_path / "data") == SIZES
    assert not build(task, tmp_path / "data", origin=str(tmp_path / "LRA"))


def test_padding_is_left_out_but_black_is_not(tmp_path):
    write(tmp_path / "LRA", "text")
    write(tmp_path / "LRA", "image")
    for task in ("text", "image"):
        build(task, tmp_path / "data", origin=str(tmp_path / "LRA"))
    text = open_split("text", "train", tmp_path / "data")
    assert text.lengths.tolist() == [1, *(50 * number for number in range(1, 20))]
    assert open_split("image", "train", tmp_path / "data").lengths.tolist() == [1024] * 20


def test_nothing_is_claimed_of_foreign_expressions(tmp_path):
    write(tmp_path / "LRA", "listops")
    build("listops", tmp_path / "data", origin=str(tmp_path / "LRA"))
    train = open_split("listops", "train", tmp_path / "data")
    with pytest.raises(ValueError, match="Got token ids of unknown meaning"):
        statistics(train)
    assert set(baselines(train, train)) == {"commonest_label", "root_operator"}


@pytest.mark.parametrize("label", [1, 1.0, np.float32(1), np.array(1), np.array(1.0), np.array([1]), np.uint8(1)])
def test_labels_that_are_whole_numbers_are_taken(label, tmp_path):
    write(tmp_path / "LRA", "text", first(label=label))
    build("text", tmp_path / "data", origin=str(tmp_path / "LRA"))
    assert open_split("text", "dev", tmp_path / "data").labels.tolist() == [0, 1, 1, 1, 0, 1]


def first(**change):
    return lambda examples: examples[2].update(change)


def without(name):
    return lambda examples: examples[2].pop(name)


@pytest.mark.parametrize(
    ("task", "change", "told"),
    [
        ("text", first(label=np.int64(2)), "label must be one of 0 … 1, not 2"),
        ("text", first(label=-1), "label must be one of 0 … 1, not -1"),
        ("text", first(label=0.5), "label must be one of 0 … 1, not 0.5"),
        ("text", first(label=np.array(float("nan"))), "label must be one of 0 … 1, not nan"),
        ("text", first(label=float("inf")), "label must be one of 0 … 1, not inf"),
        ("text", first(input_ids_0=np.array([1, 257])), "has the id 257; the vocabulary of text is 0 … 256"),
        ("text", first(input_ids_0=np.array([1, -4])), "has the id -4"),
        ("text", first(input_ids_0=np.array([1.0, 2.0])), "one-dimensional integers"),
        ("text", first(input_ids_0=np.ones((2, 2), int)), "one-dimensional integers"),
        ("text", without("label"), "a dict with input_ids_0 and label"),
        ("retrieval", without("input_ids_1"), "a dict with input_ids_0, input_ids_1 and label"),
        ("image", first(input_ids_0=np.ones(784, np.int32)), "has 784 pixels instead of 1024"),
        ("image", first(input_ids_0=np.full(1024, 256)), "has the id 256"),
        ("listops", first(input_ids_0=np.array([32])), "has the id 32; the vocabulary of listops is 0 … 31"),
    ],
)
def test_what_does_not_fit_is_named(task, change, told, tmp_path):
    write(tmp_path / "LRA", task, change)
    with pytest.raises(ValueError, match=rf"{task}.dev.pickle, example 2: .*{told}"):
        build(task, tmp_path / "data", origin=str(tmp_path / "LRA"))
    assert not list((tmp_path / "data").iterdir())


def test_a_truncated_pickle_leaves_nothing(tmp_path):
    write(tmp_path / "LRA", "text")
    path = tmp_path / "LRA" / "text.test.pickle"
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ValueError, match=r"text.test.pickle is truncated"):
        build("text", tmp_path / "data", origin=str(tmp_path / "LRA"))
    assert not list((tmp_path / "data").iterdir())
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"There is no .*text.test.pickle"):
        build("text", tmp_path / "data", origin=str(tmp_path / "LRA"))


def test_an_empty_split_is_refused(tmp_path):
    write(tmp_path / "LRA", "text")
    (tmp_path / "LRA" / "text.dev.pickle").write_bytes(pickle.dumps([]))
    with pytest.raises(ValueError, match="The dev split of text has no example"):
        build("text", tmp_path / "data", origin=str(tmp_path / "LRA"))
