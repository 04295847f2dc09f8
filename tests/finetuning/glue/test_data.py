"""Examples of the hub, of GLUE's official files and of tables."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from nip.finetuning.glue.data import Needed, from_dataset, from_files, from_hub, read_split, task_folder
from nip.finetuning.glue.registry import TASKS, glue_task

ALL = Needed(train=True, evaluated=True, tested=True)
MNLI_HEADER = (
    "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse "
    "sentence1 sentence2 label1 gold_label"
)
STSB_HEADER = "index genre filename year old_index source1 source2 sentence1 sentence2 score"


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


def test_missing_splits_and_columns_of_the_hub_raise(monkeypatch: pytest.MonkeyPatch):
    mirror(monkeypatch, {"train": rows(sentence1=["a"], sentence2=["b"], label=[1])})
    with pytest.raises(ValueError, match="has no split 'validation'; it has train"):
        from_hub("mrpc", ALL, None)
    mirror(monkeypatch, {"train": rows(sentence1=["a"], label=[1])})
    with pytest.raises(ValueError, match="has no column 'sentence2'; it has sentence1, label"):
        from_hub("mrpc", Needed(True, False, False), None)
    with pytest.raises(ValueError, match="ax has nothing but a test set"):
        from_hub("ax", ALL, None)


def test_another_dataset_of_the_hub(monkeypatch: pytest.MonkeyPatch):
    data = rows(text=["a", "b", "c"], label=[3, 1, 3])
    asked = mirror(monkeypatch, {"train": data, "validation": data, "test": data.remove_columns("label")})
    examples = from_dataset("imdb", None, ALL, None)
    assert asked == [("imdb", None)]
    assert (examples.columns, examples.labels) == (("text",), ("1", "3"))
    assert examples.train["label"][:] == [1, 0, 1]
    assert examples.tested[""]["label"][:] == [-1, -1, -1]
    assert examples.tested[""]["idx"][:] == [0, 1, 2]


def test_a_guessed_pair_gives_a_notice_and_ids_are_not_read(tmp_path: Path, capsys):
    row = '{"sentence": "the cat", "label": "yes", "%s": "c1"}\n{"sentence": "a dog", "label": "no", "%s": "c2"}\n'
    for name, columns in {"text": ("sentence", "text"), "id": ("sentence",), "idx": ("sentence",)}.items():
        file = tmp_path / f"{name}.jsonl"
        file.write_text(row % (name, name))
        assert from_files({"train": str(file)}, None).columns == columns
        assert ("a pair of texts is read, sentence and text" in capsys.readouterr().err) == (len(columns) == 2)


def test_numeric_labels_mean_regression(tmp_path: Path):
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


@pytest.mark.parametrize(("suffix", "sep"), [(".csv", ","), (".tsv", "\t")])
def test_label_minus_one_means_no_label(suffix: str, sep: str, tmp_path: Path):
    file = tmp_path / f"train{suffix}"
    file.write_text("\n".join(sep.join(row) for row in (("text", "label"), ("a", "0"), ("b", "-1"), ("c", "1"))) + "\n")
    examples = from_files({"train": str(file)}, None)
    assert examples.labels == ("0", "1")
    assert examples.train["label"][:] == [0, -1, 1]


def test_words_for_missing_values_are_labels_and_texts(tmp_path: Path):
    file = tmp_path / "train.csv"
    file.write_text("text,label\nnull,NA\nNone,EU\nnan,NA\n")
    examples = from_files({"train": str(file)}, None)
    assert examples.labels == ("EU", "NA")
    assert examples.train["text"][:] == ["null", "None", "nan"]


@pytest.mark.parametrize("word", ["nan", "NaN", "inf", "-inf", "1e999"])
def test_labels_that_are_nan_or_inf_raise(word: str, tmp_path: Path):
    file = tmp_path / "train.csv"
    file.write_text(f"text,label\na,0.5\nb,{word}\n")
    with pytest.raises(ValueError, match=r"label of row 1 of the train set .* is NaN or Inf"):
        from_files({"train": str(file)}, None)
    header = STSB_HEADER.split()
    write(tmp_path, "train.tsv", "\t".join(header), "\t".join(["0"] * 9 + ["0.5"]), "\t".join(["1"] * 9 + [word]))
    with pytest.raises(ValueError, match=f"the label '{word}' of row 1 is NaN or Inf"):
        read_split(tmp_path, TASKS["stsb"], "train")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"text": ["a", "b"], "label": %d}', "The column 'text' of the train set .* has no text"),
        ('{"text": {"a": 1}, "label": %d}', "The column 'text' of the train set .* has no text"),
        ('{"text": true, "label": %d}', "The column 'text' of the train set .* has no text, but bool"),
        ('{"text": "a", "label": [0, %d]}', "A label of the train set .* is a list or an object"),
    ],
)
def test_lists_and_objects_are_not_learned_in_pythons_spelling(row: str, says: str, tmp_path: Path):
    file = tmp_path / "train.jsonl"
    file.write_text("\n".join(row % number for number in (0, 1)))
    with pytest.raises(ValueError, match=says):
        from_files({"train": str(file)}, None)


def test_a_tsv_file_has_the_same_rows_through_both_flags(tmp_path: Path):
    texts = ['"open', 'shut"', 'in 5" steps', '"both"', "plain"] * 20
    write(tmp_path, "train.tsv", "sentence\tlabel", *(f"{text}\t{number % 2}" for number, text in enumerate(texts)))
    task = TASKS["sst2"]
    by_flag = from_files({"train": str(tmp_path / "train.tsv")}, task).train
    official, _ = read_split(tmp_path, task, "train")
    assert by_flag["sentence"][:] == official["sentence"][:] == texts
    assert by_flag["label"][:] == official["label"][:]


@pytest.mark.parametrize("labels", [["-1"] * 3, ["hidden"] * 3, ["-1", "entailment", "-1"], ["", "7", "hidden"]])
def test_an_official_test_set_is_read_whole_whatever_its_labels(labels: list[str], tmp_path: Path):
    lines = [f"{number}\tone\ttwo\t{label}" for number, label in enumerate(labels)]
    write(tmp_path, "test.tsv", "index\tsentence1\tsentence2\tlabel", *lines, "3\tone\ttwo")
    data, dropped = read_split(tmp_path, TASKS["rte"], "test")
    assert data["idx"][:] == [0, 1, 2, 3]
    assert dropped == 0


def test_malformed_tables_raise(tmp_path: Path):
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


def write(folder: Path, name: str, *lines: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def read_rows(folder: Path, task: str, split: str) -> tuple[list[dict], int]:
    data, dropped = read_split(folder, TASKS[task], split)
    return data.to_list(), dropped


def test_cola_has_no_header_but_in_its_test_set(tmp_path: Path):
    write(tmp_path, "train.tsv", "gj04\t1\t\tThe car honked.", 'gj04\t0\t*\tThe car "honked.', "ad03\t1\t\tA\tB")
    write(tmp_path, "test.tsv", "index\tsentence", "0\tBill whistled.", "7\tTom.")
    read, dropped = read_rows(tmp_path, "cola", "train")
    assert [row["sentence"] for row in read] == ["The car honked.", 'The car "honked.', "A"]
    assert ([row["label"] for row in read], dropped) == ([1, 0, 1], 0)
    assert read_rows(tmp_path, "cola", "test")[0] == [
        {"sentence": "Bill whistled.", "label": -1, "idx": 0},
        {"sentence": "Tom.", "label": -1, "idx": 7},
    ]


def test_sst2(tmp_path: Path):
    write(tmp_path, "dev.tsv", "sentence\tlabel", "fun \t1", "dull\t0")
    assert [(row["sentence"], row["label"]) for row in read_rows(tmp_path, "sst2", "validation")[0]] == [
        ("fun ", 1),
        ("dull", 0),
    ]


def test_mnli_has_two_evaluation_sets_and_text_labels(tmp_path: Path):
    head = MNLI_HEADER.replace(" ", "\t")
    line = "\t".join(["4", *"bcdefgh", "One.", "Two.", "neutral", "contradiction"])
    for name in ("train", "dev_matched", "dev_mismatched"):
        write(tmp_path, f"{name}.tsv", head, line, line.replace("contradiction", "-"))
    write(tmp_path, "test_mismatched.tsv", head.rsplit("\t", 2)[0], "\t".join(["9", *"bcdefgh", "Three.", "Four."]))
    for split in ("train", "validation_matched", "validation_mismatched"):
        read, dropped = read_rows(tmp_path, "mnli", split)
        assert read == [{"premise": "One.", "hypothesis": "Two.", "label": 2, "idx": 4}]
        assert dropped == 1  # the one whose writers did not agree
    assert read_rows(tmp_path, "mnli", "test_mismatched")[0][0]["idx"] == 9


def test_qqp_lines_without_a_label_are_dropped_and_counted(tmp_path: Path):
    write(
        tmp_path, "train.tsv", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        "1\t2\t3\tWhy?\tWhy not?\t0", "4\t5\t6\tBroken", "7\t8\t9\tHow?\tHow so?\t1",
    )  # fmt: skip
    read, dropped = read_rows(tmp_path, "qqp", "train")
    assert ([row["question2"] for row in read], dropped) == (["Why not?", "How so?"], 1)


def test_stsb_has_numeric_labels(tmp_path: Path):
    line = "\t".join(["3", *"abcdef", "Hi.", "Ho.", "3.750"])
    write(tmp_path, "dev.tsv", STSB_HEADER.replace(" ", "\t"), line)
    read, _ = read_rows(tmp_path, "stsb", "validation")
    assert read == [{"sentence1": "Hi.", "sentence2": "Ho.", "label": 3.75, "idx": 3}]


@pytest.mark.parametrize(("task", "positive"), [("qnli", 0), ("rte", 0)])
def test_entailment_is_the_first_label(task: str, positive: int, tmp_path: Path):
    names = "question\tsentence" if task == "qnli" else "sentence1\tsentence2"
    write(tmp_path, "dev.tsv", f"index\t{names}\tlabel", "0\tA\tB\tentailment", "1\tC\tD\tnot_entailment")
    assert [row["label"] for row in read_rows(tmp_path, task, "validation")[0]] == [positive, 1 - positive]


def test_wnli_encodes_entailment_as_one(tmp_path: Path):
    write(tmp_path, "train.tsv", "index\tsentence1\tsentence2\tlabel", "0\tA\tB\t1")
    assert read_rows(tmp_path, "wnli", "train")[0][0]["label"] == 1
    assert TASKS["wnli"].labels[1] == "entailment"


def test_ax_has_a_test_file_of_several_names(tmp_path: Path):
    write(tmp_path / "diagnostic", "diagnostic.tsv", "index\tsentence1\tsentence2", "0\tA\tB")
    folder = task_folder(tmp_path, TASKS["ax"])
    assert read_rows(folder, "ax", "test")[0] == [{"premise": "A", "hypothesis": "B", "label": -1, "idx": 0}]


def test_mrpc_as_distributed_by_microsoft(tmp_path: Path):
    head = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    train = ['1\t10\t11\tA "b\tC', "0\t12\t13\tD\tE", "1\t14\t15\tF\tG"]
    write(tmp_path, "msr_paraphrase_train.txt", head, *train)
    write(tmp_path, "msr_paraphrase_test.txt", head, "0\t20\t21\tH\tI")
    assert [row["sentence1"] for row in read_rows(tmp_path, "mrpc", "train")[0]] == ['A "b', "D", "F"]
    assert [row["sentence1"] for row in read_rows(tmp_path, "mrpc", "validation")[0]] == ["H"]
    write(tmp_path, "dev_ids.tsv", "12\t13")  # GLUE's development set: pairs of the training set
    assert [row["sentence1"] for row in read_rows(tmp_path, "mrpc", "train")[0]] == ['A "b', "F"]
    assert [row["sentence1"] for row in read_rows(tmp_path, "mrpc", "validation")[0]] == ["D"]
    assert [row["label"] for row in read_rows(tmp_path, "mrpc", "test")[0]] == [0]


def test_only_a_line_feed_ends_a_line(tmp_path: Path):
    write(tmp_path, "dev.tsv", "sentence\tlabel", "one\u2028and\x85on\t1", "two\r\t0")
    read, _ = read_rows(tmp_path, "sst2", "validation")
    assert [row["sentence"] for row in read] == ["one\u2028and\x85on", "two\r"]


def test_the_folder_is_the_tasks_or_its_parent(tmp_path: Path):
    inner = write(tmp_path / "STS-B", "dev.tsv", STSB_HEADER.replace(" ", "\t"))
    assert task_folder(tmp_path, TASKS["stsb"]) == inner
    assert task_folder(inner, TASKS["stsb"]) == inner
    with pytest.raises(ValueError, match=r"neither .* nor a folder RTE in it has the files of rte"):
        task_folder(tmp_path, TASKS["rte"])
    with pytest.raises(ValueError, match="there is no folder"):
        task_folder(tmp_path / "nowhere", TASKS["rte"])


def test_malformed_files_and_those_of_other_tasks_raise(tmp_path: Path):
    write(tmp_path, "train.tsv", "sentence\tlabel", "fun\t1")
    with pytest.raises(ValueError, match="has no column 'sentence1', which rte has"):
        read_split(tmp_path, TASKS["rte"], "train")
    with pytest.raises(ValueError, match=r"has no dev.tsv, which sst2 needs for its validation set"):
        read_split(tmp_path, TASKS["sst2"], "validation")
    write(tmp_path, "train.tsv", "sentence\tlabel", "fun\tpositively")
    with pytest.raises(ValueError, match="labels are such as 'positively', not 0, 1"):
        read_split(tmp_path, TASKS["sst2"], "train")
    (tmp_path / "train.tsv").write_bytes(b"sentence\tlabel\nf\xffun\t1\n")
    with pytest.raises(ValueError, match="is not UTF-8"):
        read_split(tmp_path, TASKS["sst2"], "train")


def test_unknown_tasks_raise_with_all_names():
    with pytest.raises(ValueError, match=r"There is no GLUE task 'glue'. The tasks are cola, .*, ax\."):
        glue_task("glue")
    assert glue_task("MRPC").name == "mrpc"
