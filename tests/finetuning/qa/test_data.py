"""Reading questions in every format, and their windows."""

import csv
import json
import re

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from nip.finetuning.qa.data import (
    WindowRules,
    check_questions,
    check_tokenizer,
    read_squad,
    references,
    tokenize_windows,
)

CONTEXT = "Bergen lies by the sea. It was founded in 1070 by Olav Kyrre."
QUESTIONS = [
    {"id": "when", "question": "When?", "answers": {"text": ["1070", "in 1070"], "answer_start": [42, 39]}},
    {"id": "who", "question": "Who?", "answers": {"text": ["Olav Kyrre"], "answer_start": [50]}},
]
NONE = {"id": "why", "question": "Why?", "answers": {"text": [], "answer_start": []}}


def read(path, *, with_negative, need=True):
    return check_questions(read_squad(path), str(path), with_negative=with_negative, labelled=need)


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
def test_all_formats_give_the_same_rows(tmp_path, name):
    data = read(write(tmp_path / name, QUESTIONS), with_negative=False)
    assert data.to_list() == [{k: row[k] for k in ("id", "question", "context", "answers")} for row in rows(QUESTIONS)]
    assert references(data) == {"when": ["1070", "in 1070"], "who": ["Olav Kyrre"]}


def test_an_unanswerable_question(tmp_path):
    path = write(tmp_path / "official.json", [NONE, *QUESTIONS])
    assert references(read(path, with_negative=True))["why"] == []
    with pytest.raises(
        ValueError, match=r"question 'why' has no answer\. If that is intended, add --version_2_with_negati"
    ):
        read(path, with_negative=False)
    assert len(read(path, with_negative=False, need=False)) == 3
    plausible = official([QUESTIONS[0]], is_impossible=True)
    path.write_text(json.dumps(plausible))
    assert references(read(path, with_negative=True)) == {"when": []}


def test_a_changed_file_is_read_again(tmp_path):
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
        ({"answers": {"text": ["Kyrre."], "answer_start": [500]}}, "is not at character 500"),
        ({"answers": {"text": ["1070"], "answer_start": [-19]}}, "is not at character -19"),
        ({"answers": {"text": [""], "answer_start": [0]}}, "the answer ''"),
        ({"answers": {"text": ["1070"], "answer_start": []}}, "has 1 texts and 0 positions"),
        ({"answers": {"text": ["1070"]}}, "must be"),
        ({"answers": {"text": ["1070"], "answer_start": ["5"]}}, "must have integers. Got '5'"),
        ({"answers": {"text": [1070], "answer_start": [5]}}, "must have texts. Got 1070"),
        ({"answers": {"text": None, "answer_start": [5]}}, "must have texts. Got None"),
        ({"id": "who"}, "two questions with the id 'who'"),
        ({"context": None}, "question 'when' has no context"),
    ],
)
def test_malformed_rows_raise(row, says):
    data = datasets.Dataset.from_list([rows(QUESTIONS)[0] | row]) if "id" not in row else None
    if data is None:
        data = datasets.Dataset.from_list([rows(QUESTIONS)[0] | row, rows(QUESTIONS)[1]])
    with pytest.raises(ValueError, match=says):
        check_questions(data, "here", with_negative=True)


def test_malformed_files_raise(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.json", with_negative=False)
    for name, text, says in (
        ("a.txt", "", r"must end in one of \.csv"),
        ("broken.json", "{", "cannot be read as JSON"),
        ("empty.json", '{"data": [{"title": "", "paragraphs": []}]}', "has no questions"),
        ("half.json", '{"data": [{"paragraphs": [{"context": "", "qas": [{"id": 1}]}]}]}', "'question'"),
        ("latin.json", "ÄÖ", "is not UTF-8"),
        ("answers.csv", "id,question,context,answers\n1,Who?,Bergen,{\n", "of question .* are not JSON"),
    ):
        path = tmp_path / name
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=says):
            read(path, with_negative=False)


WORDS = [f"w{i}" for i in range(40)]


def word_tokenizer(padding_side="right"):
    """A word is a token."""
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", unk_token="[UNK]",
        padding_side=padding_side,
    )  # fmt: skip


@st.composite
def questions(draw):
    words = draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=30))
    spaces = draw(st.lists(st.sampled_from([" ", "  ", "\n"]), min_size=len(words), max_size=len(words)))
    context = "".join(word + space for word, space in zip(words, spaces, strict=True))
    first = draw(st.integers(0, len(words) - 1))
    last = draw(st.integers(first, len(words) - 1))
    found = list(re.finditer(r"\S+", context))
    begin, end = found[first].start(), found[last].end()
    question = " ".join(draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4)))
    return words, context, question, (first, last), {"text": [context[begin:end]], "answer_start": [begin]}


@given(questions(), st.integers(0, 5), st.integers(1, 9), st.booleans(), st.sampled_from(["right", "left"]))
def test_windows_cover_the_context_and_find_the_answer(question, stride, new, pad, side):
    words, context, asked, (first, last), answers = question
    tokenizer = word_tokenizer(side)
    n_question = len(asked.split())
    rules = WindowRules(n_question + 3 + stride + new, stride, pad)
    batch = {"id": ["q"], "question": [f"  {asked}"], "context": [context], "answers": [answers]}
    rows = tokenize_windows(batch, tokenizer, rules)
    room = stride + new
    begins = range(0, max(1, len(words) - stride), new)  # each window begins `new` words after the one before
    assert len(rows["input_ids"]) == len(begins)
    for row, begin in enumerate(begins):
        held = words[begin : begin + room]
        ids = rows["input_ids"][row]
        at, to = rows["first"][row], rows["last"][row]
        assert tokenizer.convert_ids_to_tokens(ids[at : to + 1]) == held
        assert [context[b:e] for b, e in rows["offsets"][row]] == held
        real = [token for token in tokenizer.convert_ids_to_tokens(ids) if token != "[PAD]"]
        parts = [asked.split(), held] if side == "right" else [held, asked.split()]
        assert real == ["[CLS]", *parts[0], "[SEP]", *parts[1], "[SEP]"]
        assert len(ids) == (rules.max_seq_length if pad else len(real))
        assert ids[rows["null"][row]] == tokenizer.cls_token_id
        span = (rows["start_positions"][row], rows["end_positions"][row])
        if begin <= first and last < begin + len(held):
            assert span == (at + first - begin, at + last - begin)
        else:
            assert span == (rows["null"][row],) * 2


def test_an_answer_inside_words_is_extended_to_them():
    batch = {
        "id": ["q", "none"], "question": ["w1"] * 2, "context": ["w10 w20 w30"] * 2,
        "answers": [{"text": ["0 w2"], "answer_start": [2]}, {"text": [], "answer_start": []}],
    }  # fmt: skip
    rows = tokenize_windows(batch, word_tokenizer(), WindowRules(16, 2))
    assert rows["start_positions"] == [3, 0] and rows["end_positions"] == [4, 0]
    assert rows["example_id"] == ["q", "none"]


def test_a_question_that_is_too_long_raises():
    batch = {"id": ["q"], "question": ["w1 w2 w3"], "context": ["w4"], "answers": [{"text": [], "answer_start": []}]}
    assert tokenize_windows(batch, word_tokenizer(), WindowRules(9, 2))["input_ids"]
    with pytest.raises(
        ValueError, match="Question 'q' has 3 tokens: with 3 special ones and --doc_stride 2 --max_seq_length 8 has no"
    ):
        tokenize_windows(batch, word_tokenizer(), WindowRules(8, 2))


def test_invalid_settings_raise():
    with pytest.raises(ValueError, match=r"--max_seq_length must be .* at least 1\. Got 0"):
        WindowRules(0)
    with pytest.raises(ValueError, match=r"--doc_stride must be .* at least 0\. Got -1"):
        WindowRules(8, -1)
    with pytest.raises(ValueError, match=r"--doc_stride 8, .* must be below --max_seq_length 8"):
        WindowRules(8, 8)
    with pytest.raises(ValueError, match=r"PreTrainedTokenizer is no fast tokenizer"):
        check_tokenizer(type("PreTrainedTokenizer", (), {})(), WindowRules())
    with pytest.raises(ValueError, match="pads on the left"):
        check_tokenizer(word_tokenizer("left"), WindowRules(pad_to_max_length=False))
    check_tokenizer(word_tokenizer(), WindowRules(pad_to_max_length=False))
