"""Sets of the hub and of files, made one form."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from nip.finetuning.glue.data import Needed, from_dataset, from_files, from_hub
from nip.finetuning.glue.registry import TASKS

ALL = Needed(train=True, evaluated=True, tested=True)


def mirror(monkeypatch: pytest.MonkeyPatch, sets: dict[str, datasets.Dataset]) -> list[tuple]:
    asked: list[tuple] = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append(a) or datasets.DatasetDict(sets))
    return asked


def rows(**columns: list) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns)


@pytest.mark.parametrize("name", sorted(set(TASKS) - {"ax"}))
def test_every_task_of_the_hub(name: str, monkeypatch: pytest.MonkeyPatch):
    task = TASKS[name]
    label = [0.5, 2.0] if name == "stsb" else [0, 1]
    data = rows(**{column: ["a", "b"] for column in task.columns}, label=label, idx=[0, 1])
    splits = ["train", *(split for _, split in (*task.evaluated, *task.tested))]
    asked = mirror(monkeypatch, dict.fromkeys(splits, data))
    examples = from_hub(name, ALL, None)
    assert asked == [("nyu-mll/glue", name)]
    assert examples.train.to_dict() == data.to_dict()
    assert list(examples.evaluated) == list(examples.tested) == (["", "mm"] if name == "mnli" else [""])
    assert bool(examples.labels) == (name != "stsb")


def test_what_a_set_of_the_hub_lacks_is_told(monkeypatch: pytest.MonkeyPatch):
    mirror(monkeypatch, {"train": rows(sentence1=["a"], sentence2=["b"], label=[1])})
    with pytest.raises(ValueError, match="has no split 'validation'; it has train"):
        from_hub("mrpc", ALL, None)
    mirror(monkeypatch, {"train": rows(sentence1=["a"], label=[1])})
    with pytest.raises(ValueError, match="has no column 'sentence2'; it has sentence1, label"):
        from_hub("mrpc", Needed(True, False, False), None)
    with pytest.raises(ValueError, match="ax has nothing but a test set"):
        from_hub("ax", ALL, None)


def test_another_set_of_the_hub(monkeypatch: pytest.MonkeyPatch):
    data = rows(text=["a", "b", "c"], label=[3, 1, 3])
    asked = mirror(monkeypatch, {"train": data, "validation": data, "test": data.remove_columns("label")})
    examples = from_dataset("imdb", None, ALL, None)
    assert asked == [("imdb", None)]
    assert (examples.columns, examples.labels) == (("text",), ("1", "3"))
    assert examples.train["label"][:] == [1, 0, 1]
    assert examples.tested[""]["label"][:] == [-1, -1, -1]
    assert examples.tested[""]["idx"][:] == [0, 1, 2]


def test_a_guessed_pair_is_told_and_an_id_is_not_read(tmp_path: Path, capsys):
    row = '{"sentence": "the cat", "label": "yes", "%s": "c1"}\n{"sentence": "a dog", "label": "no", "%s": "c2"}\n'
    for name, columns in {"text": ("sentence", "text"), "id": ("sentence",), "idx": ("sentence",)}.items():
        file = tmp_path / f"{name}.jsonl"
        file.write_text(row % (name, name))
        assert from_files({"train": str(file)}, None).columns == columns
        assert ("a pair of texts is read, sentence and text" in capsys.readouterr().err) == (len(columns) == 2)


def test_numbers_in_files_are_regressed(tmp_path: Path):
    file = tmp_path / "a.csv"
    file.write_text("sentence1,label\nthe cat,0.5\na dog,2\n")
    examples = from_files({"train": str(file)}, None)
    assert examples.labels == ()
    assert examples.train["label"][:] == [0.5, 2.0]


@pytest.mark.parametrize("labels", ["-1,-1", "yes,yes", "yes,"])
def test_labels_of_a_test_file_are_not_read(labels: str, tmp_path: Path):
    one, other = labels.split(",")
    (tmp_path / "test.csv").write_text(f"sentence1,label\nthe cat,{one}\na dog,{other}\n")
    (tmp_path / "train.csv").write_text("sentence1,label\nthe cat,yes\na dog,no\n")
    files = {"test": str(tmp_path / "test.csv")}
    assert from_files(files, None).labels == ()
    both = from_files({"train": str(tmp_path / "train.csv"), **files}, None)
    assert both.labels == ("no", "yes")
    assert both.tested[""]["label"][:] == [-1, -1]


def test_files_that_cannot_be_are_refused(tmp_path: Path):
    for name, content in {
        "one.csv": "sentence1,label\na,yes\nb,yes\n",
        "none.csv": "label,idx\n1,2\n",
        "wrong.csv": "sentence1,sentence2,label\na,b,7\n",
        "hole.csv": "sentence1,sentence2,label\na,b,1\nc,d,\n",
        "rows.jsonl": '{"sentence1": "a", "label": 1}\n',
    }.items():
        (tmp_path / name).write_text(content)
    for name, task, sentence in (
        ("one.csv", None, "has only one label, yes"),
        ("none.csv", None, "has no column with a text"),
        ("wrong.csv", TASKS["mrpc"], "are such as '7', not not_equivalent, equivalent"),
        ("hole.csv", TASKS["mrpc"], "has no label"),
    ):
        with pytest.raises(ValueError, match=sentence):
            from_files({"train": str(tmp_path / name)}, task)
    with pytest.raises(ValueError, match="must be of one kind"):
        from_files({"train": str(tmp_path / "one.csv"), "validation": str(tmp_path / "rows.jsonl")}, None)
