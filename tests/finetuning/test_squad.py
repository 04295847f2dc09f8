"""Sets of questions in each of their forms, and what is wrong with others."""

import csv
import json

import datasets
import pytest

from nip.finetuning.squad import check, read_squad, references

CONTEXT = "Bergen lies by the sea. It was founded in 1070 by Olav Kyrre."
QUESTIONS = [
    {"id": "when", "question": "When?", "answers": {"text": ["1070", "in 1070"], "answer_start": [42, 39]}},
    {"id": "who", "question": "Who?", "answers": {"text": ["Olav Kyrre"], "answer_start": [50]}},
]
NONE = {"id": "why", "question": "Why?", "answers": {"text": [], "answer_start": []}}


def read(path, *, with_negative, need=True):
    return check(read_squad(path), str(path), with_negative=with_negative, need=need)


def official(questions, **more):
    def answers(question):
        both = question["answers"]
        return [{"text": t, "answer_start": s} for t, s in zip(both["text"], both["answer_start"], strict=True)]

    qas = [{"id": q["id"], "question": q["question"], "answers": answers(q), **more} for q in questions]
    return {"version": "v2.0", "data": [{"title": "Bergen", "paragraphs": [{"context": CONTEXT, "qas": qas}]}]}


def rows(questions):
    return [{**question, "context": CONTEXT} for question in questions]


def write(path, questions):
    if path.name.endswith("official.json"):
        path.write_text(json.dumps(official(questions)))
    elif path.name.endswith("field.json"):
        path.write_text(json.dumps({"version": "x", "data": rows(questions)}))
    elif path.suffix in (".json", ".jsonl"):
        path.write_text("\n".join(json.dumps(row) for row in rows(questions)))
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["id", "question", "context", "answers"])
            writer.writeheader()
            writer.writerows({**row, "answers": json.dumps(row["answers"])} for row in rows(questions))
    else:
        datasets.Dataset.from_list(rows(questions)).to_parquet(path)
    return path


@pytest.mark.parametrize("name", ["official.json", "field.json", "lines.json", "a.jsonl", "a.csv", "a.parquet"])
def test_all_forms_give_the_same(tmp_path, name):
    data = read(write(tmp_path / name, QUESTIONS), with_negative=False)
    assert data.to_list() == [{k: row[k] for k in ("id", "question", "context", "answers")} for row in rows(QUESTIONS)]
    assert references(data) == {"when": ["1070", "in 1070"], "who": ["Olav Kyrre"]}


def test_a_question_without_answer(tmp_path):
    path = write(tmp_path / "official.json", [NONE, *QUESTIONS])
    assert references(read(path, with_negative=True))["why"] == []
    with pytest.raises(
        ValueError, match=r"question 'why' has no answer\. If that is meant, add --version_2_with_negati"
    ):
        read(path, with_negative=False)
    assert len(read(path, with_negative=False, need=False)) == 3
    plausible = official([QUESTIONS[0]], is_impossible=True)
    path.write_text(json.dumps(plausible))
    assert references(read(path, with_negative=True)) == {"when": []}


def test_a_file_that_changed_is_read_again(tmp_path):
    path = write(tmp_path / "official.json", QUESTIONS)
    assert len(read(path, with_negative=False)) == 2
    assert len(read(write(path, QUESTIONS[:1]), with_negative=False)) == 1


def test_a_test_set_needs_no_answers(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text(json.dumps({"id": 1, "question": "When?", "context": CONTEXT}))
    data = read(path, with_negative=False, need=False)
    assert references(data) == {"1": []}
    with pytest.raises(ValueError, match=r"has no column 'answers'\. It needs id, question, context, answers; it has"):
        read(path, with_negative=True)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"answers": {"text": ["1071"], "answer_start": [42]}},
            "the answer '1071' .* at character 42 .* and '1070' there",
        ),
        ({"answers": {"text": ["Kyrre."], "answer_start": [500]}}, "does not stand at character 500"),
        ({"answers": {"text": ["1070"], "answer_start": [-19]}}, "does not stand at character -19"),
        ({"answers": {"text": [""], "answer_start": [0]}}, "the answer ''"),
        ({"answers": {"text": ["1070"], "answer_start": []}}, "has 1 answers and 0 places"),
        ({"answers": {"text": ["1070"]}}, "must be"),
        ({"answers": {"text": ["1070"], "answer_start": ["5"]}}, "must have whole numbers. Got '5'"),
        ({"answers": {"text": [1070], "answer_start": [5]}}, "must have texts. Got 1070"),
        ({"answers": {"text": None, "answer_start": [5]}}, "must have texts. Got None"),
        ({"id": "who"}, "two questions with the id 'who'"),
        ({"context": None}, "question 'when' has no context"),
    ],
)
def test_rows_that_are_wrong(row, says):
    data = datasets.Dataset.from_list([rows(QUESTIONS)[0] | row]) if "id" not in row else None
    if data is None:
        data = datasets.Dataset.from_list([rows(QUESTIONS)[0] | row, rows(QUESTIONS)[1]])
    with pytest.raises(ValueError, match=says):
        check(data, "here", with_negative=True)


def test_files_that_are_wrong(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.json", with_negative=False)
    for name, text, says in (
        ("a.txt", "", r"must end in one of \.csv"),
        ("broken.json", "{", "cannot be read as JSON"),
        ("empty.json", '{"data": [{"title": "", "paragraphs": []}]}', "holds no questions"),
        ("half.json", '{"data": [{"paragraphs": [{"context": "", "qas": [{"id": 1}]}]}]}', "'question'"),
        ("latin.json", "ÄÖ", "is not UTF-8"),
        ("answers.csv", "id,question,context,answers\n1,Who?,Bergen,{\n", "of question .* are not JSON"),
    ):
        path = tmp_path / name
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=says):
            read(path, with_negative=False)
