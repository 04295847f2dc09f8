"""GLUE's official files."""

from __future__ import annotations

from pathlib import Path

import pytest

from nip.finetuning.glue.data import read_split, task_folder
from nip.finetuning.glue.registry import TASKS, glue_task

MNLI_HEADER = (
    "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse "
    "sentence1 sentence2 label1 gold_label"
)
STSB_HEADER = "index genre filename year old_index source1 source2 sentence1 sentence2 score"


def write(folder: Path, name: str, *lines: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def rows(folder: Path, task: str, split: str) -> tuple[list[dict], int]:
    data, dropped = read_split(folder, TASKS[task], split)
    return data.to_list(), dropped


def test_cola_has_no_header_but_in_its_test_set(tmp_path: Path):
    write(tmp_path, "train.tsv", "gj04\t1\t\tThe car honked.", 'gj04\t0\t*\tThe car "honked.', "ad03\t1\t\tA\tB")
    write(tmp_path, "test.tsv", "index\tsentence", "0\tBill whistled.", "7\tTom.")
    read, dropped = rows(tmp_path, "cola", "train")
    assert [row["sentence"] for row in read] == ["The car honked.", 'The car "honked.', "A"]
    assert ([row["label"] for row in read], dropped) == ([1, 0, 1], 0)
    assert rows(tmp_path, "cola", "test")[0] == [
        {"sentence": "Bill whistled.", "label": -1, "idx": 0},
        {"sentence": "Tom.", "label": -1, "idx": 7},
    ]


def test_sst2(tmp_path: Path):
    write(tmp_path, "dev.tsv", "sentence\tlabel", "fun \t1", "dull\t0")
    assert [(row["sentence"], row["label"]) for row in rows(tmp_path, "sst2", "validation")[0]] == [
        ("fun ", 1),
        ("dull", 0),
    ]


def test_mnli_has_two_of_each_and_labels_that_are_words(tmp_path: Path):
    head = MNLI_HEADER.replace(" ", "\t")
    line = "\t".join(["4", *"bcdefgh", "One.", "Two.", "neutral", "contradiction"])
    for name in ("train", "dev_matched", "dev_mismatched"):
        write(tmp_path, f"{name}.tsv", head, line, line.replace("contradiction", "-"))
    write(tmp_path, "test_mismatched.tsv", head.rsplit("\t", 2)[0], "\t".join(["9", *"bcdefgh", "Three.", "Four."]))
    for split in ("train", "validation_matched", "validation_mismatched"):
        read, dropped = rows(tmp_path, "mnli", split)
        assert read == [{"premise": "One.", "hypothesis": "Two.", "label": 2, "idx": 4}]
        assert dropped == 1  # the one whose writers did not agree
    assert rows(tmp_path, "mnli", "test_mismatched")[0][0]["idx"] == 9


def test_qqp_lines_without_an_answer_are_left_out_and_counted(tmp_path: Path):
    write(
        tmp_path, "train.tsv", "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        "1\t2\t3\tWhy?\tWhy not?\t0", "4\t5\t6\tBroken", "7\t8\t9\tHow?\tHow so?\t1",
    )  # fmt: skip
    read, dropped = rows(tmp_path, "qqp", "train")
    assert ([row["question2"] for row in read], dropped) == (["Why not?", "How so?"], 1)


def test_stsb_has_numbers(tmp_path: Path):
    line = "\t".join(["3", *"abcdef", "Hi.", "Ho.", "3.750"])
    write(tmp_path, "dev.tsv", STSB_HEADER.replace(" ", "\t"), line)
    read, _ = rows(tmp_path, "stsb", "validation")
    assert read == [{"sentence1": "Hi.", "sentence2": "Ho.", "label": 3.75, "idx": 3}]


@pytest.mark.parametrize(("task", "positive"), [("qnli", 0), ("rte", 0)])
def test_entailment_is_the_first_label(task: str, positive: int, tmp_path: Path):
    names = "question\tsentence" if task == "qnli" else "sentence1\tsentence2"
    write(tmp_path, "dev.tsv", f"index\t{names}\tlabel", "0\tA\tB\tentailment", "1\tC\tD\tnot_entailment")
    assert [row["label"] for row in rows(tmp_path, task, "validation")[0]] == [positive, 1 - positive]


def test_wnli_counts_entailment_as_one(tmp_path: Path):
    write(tmp_path, "train.tsv", "index\tsentence1\tsentence2\tlabel", "0\tA\tB\t1")
    assert rows(tmp_path, "wnli", "train")[0][0]["label"] == 1
    assert TASKS["wnli"].labels[1] == "entailment"


def test_ax_is_a_test_set_under_several_names(tmp_path: Path):
    write(tmp_path / "diagnostic", "diagnostic.tsv", "index\tsentence1\tsentence2", "0\tA\tB")
    folder = task_folder(tmp_path, TASKS["ax"])
    assert rows(folder, "ax", "test")[0] == [{"premise": "A", "hypothesis": "B", "label": -1, "idx": 0}]


def test_mrpc_as_microsoft_distributes_it(tmp_path: Path):
    head = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    train = ['1\t10\t11\tA "b\tC', "0\t12\t13\tD\tE", "1\t14\t15\tF\tG"]
    write(tmp_path, "msr_paraphrase_train.txt", head, *train)
    write(tmp_path, "msr_paraphrase_test.txt", head, "0\t20\t21\tH\tI")
    assert [row["sentence1"] for row in rows(tmp_path, "mrpc", "train")[0]] == ['A "b', "D", "F"]
    assert [row["sentence1"] for row in rows(tmp_path, "mrpc", "validation")[0]] == ["H"]
    write(tmp_path, "dev_ids.tsv", "12\t13")  # GLUE's development set: pairs of the training set
    assert [row["sentence1"] for row in rows(tmp_path, "mrpc", "train")[0]] == ['A "b', "F"]
    assert [row["sentence1"] for row in rows(tmp_path, "mrpc", "validation")[0]] == ["D"]
    assert [row["label"] for row in rows(tmp_path, "mrpc", "test")[0]] == [0]


def test_only_a_line_feed_ends_a_line(tmp_path: Path):
    write(tmp_path, "dev.tsv", "sentence\tlabel", "one\u2028and\x85on\t1", "two\r\t0")
    read, _ = rows(tmp_path, "sst2", "validation")
    assert [row["sentence"] for row in read] == ["one\u2028and\x85on", "two\r"]


def test_a_folder_is_the_tasks_own_or_the_one_above(tmp_path: Path):
    inner = write(tmp_path / "STS-B", "dev.tsv", STSB_HEADER.replace(" ", "\t"))
    assert task_folder(tmp_path, TASKS["stsb"]) == inner
    assert task_folder(inner, TASKS["stsb"]) == inner
    with pytest.raises(ValueError, match=r"neither .* nor a folder RTE in it has the files of rte"):
        task_folder(tmp_path, TASKS["rte"])
    with pytest.raises(ValueError, match="there is no folder"):
        task_folder(tmp_path / "nowhere", TASKS["rte"])


def test_files_that_are_another_tasks_or_damaged_are_refused(tmp_path: Path):
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


def test_unknown_tasks_are_refused_with_the_names_of_all():
    with pytest.raises(ValueError, match=r"There is no GLUE task 'glue'. The tasks are cola, .*, ax\."):
        glue_task("glue")
    assert glue_task("MRPC").name == "mrpc"
