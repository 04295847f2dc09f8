"""Reading and tokenizing text."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from finetuning_files import WORDS
from nip.finetuning.masked_lm.data import (
    RepeatingStream,
    check_text,
    find_text_column,
    read_sets,
    read_text,
    stream_file,
    tokenize_text,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    from finetuning_files import write_tokenizer

    return AutoTokenizer.from_pretrained(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.mark.parametrize("name", ["data[1].txt", "a*.csv", "a?.jsonl"])
def test_characters_of_a_glob_are_characters_of_a_name(name: str, tmp_path: Path):
    path, suffix = tmp_path / name, Path(name).suffix
    for written in (name, f"data1{suffix}", f"ab{suffix}"):
        row = {".csv": f"text\n{written}\n", ".jsonl": json.dumps({"text": written})}
        (tmp_path / written).write_text(row.get(suffix, f"{written}\n"))
    assert read_text(path, str(tmp_path / "cache"))["text"][:] == [name]
    assert [row["text"] for row in stream_file(path)] == [name]
    assert (tmp_path / "cache").is_dir()


def test_words_for_missing_values_are_words(tmp_path: Path):
    words = ["null", "NA", "a line", "None", "nan"]
    path = tmp_path / "a.csv"
    path.write_text("text\n" + "\n".join(words) + "\n")
    assert read_text(path)["text"][:] == words
    assert [row["text"] for row in stream_file(path)] == words


@given(
    texts=st.lists(st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join), max_size=8), length=st.integers(1, 12)
)
def test_concatenation_loses_no_token(texts: list[str], length: int, tokenizer):
    made = tokenize_text({"text": [*texts, " ", None]}, tokenizer, "text", length, by_line=False)
    full = list(itertools.chain.from_iterable(tokenizer(text)["input_ids"] for text in texts if text))
    assert list(itertools.chain.from_iterable(made["input_ids"])) == full
    assert all(len(piece) == length for piece in made["input_ids"][:-1])
    for ids, special in zip(made["input_ids"], made["special_tokens_mask"], strict=True):
        assert [token in (2, 3) for token in ids] == [bool(mark) for mark in special]


@given(texts=st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join), max_size=6))
def test_lines_are_truncated(texts: list[str], tokenizer):
    made = tokenize_text({"text": texts}, tokenizer, "text", 6, by_line=True)
    assert made["input_ids"] == [tokenizer(text, truncation=True, max_length=6)["input_ids"] for text in texts]


def test_a_stream_restarts_with_new_numbers(tmp_path: Path):
    file = tmp_path / "a.txt"
    file.write_text("a\nb\nc\n")
    stream = datasets.load_dataset("text", data_files=str(file), split="train", streaming=True)
    encode = lambda batch: {"input_ids": batch["text"], "special_tokens_mask": [[0]] * len(batch["text"])}  # noqa: E731
    first = list(itertools.islice(RepeatingStream(stream, encode), 7))
    assert [each["input_ids"] for each in first] == list("abcabca")
    assert [each["idx"] for each in first] == list(range(7))
    shuffled = RepeatingStream(stream.shuffle(seed=1, buffer_size=3), encode)
    read = [each["input_ids"] for each in itertools.islice(shuffled, 30)]
    assert all(sorted(read[i : i + 3]) == ["a", "b", "c"] for i in range(0, 30, 3))
    assert len({tuple(read[i : i + 3]) for i in range(0, 30, 3)}) > 1
    assert read == [each["input_ids"] for each in itertools.islice(shuffled, 30)]  # as after a restart
    empty = RepeatingStream(stream, lambda batch: {"input_ids": [], "special_tokens_mask": []})
    with pytest.raises(ValueError, match="stream of training texts is empty"):
        next(iter(empty))


def test_the_text_column():
    assert find_text_column(["id", "text"], None, "It") == "text"
    assert find_text_column(["body"], None, "It") == "body"
    assert find_text_column(["id", "body"], "body", "It") == "body"
    with pytest.raises(ValueError, match="It has no column 'body'; it has id"):
        find_text_column(["id"], "body", "It")
    with pytest.raises(ValueError, match="--text_column"):
        find_text_column(["id", "body"], None, "It")


@pytest.mark.parametrize("indent", [None, 1])
def test_rows_under_data_are_streamed(indent: int | None, tmp_path: Path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"data": [{"text": "one"}, {"text": "two"}]}, indent=indent))
    assert list(stream_file(file)) == list(read_text(file)) == [{"text": "one"}, {"text": "two"}]
    file.write_text('{"text": "one", "data": [1]}\n{"text": "two", "data": [2]}\n')
    assert [row["text"] for row in stream_file(file)] == [row["text"] for row in read_text(file)] == ["one", "two"]


def test_a_column_without_text_raises():
    data = datasets.Dataset.from_dict({"text": [None, "one"], "data": [None, [{"text": "one"}]], "id": [1, 2]})
    check_text(data, "text", "The set")
    for rows, column in ((data, "data"), (data.to_iterable_dataset(), "id")):
        with pytest.raises(ValueError, match=f"The set has no text in its column '{column}', but values such as"):
            check_text(rows, column, "The set")


def test_the_validation_set_is_split_off_the_training_set(tmp_path: Path):
    file = tmp_path / "a.txt"
    file.write_text("".join(f"{i}\n" for i in range(40)))
    asked = {"dataset": None, "train_file": str(file), "percentage": 10, "cache_dir": None}
    train, dev = read_sets(**asked, validation_file=None, needs_training=True, needs_evaluation=True)
    assert (dev["text"][:], train["text"][:]) == ([str(i) for i in range(4)], [str(i) for i in range(4, 40)])
    train, dev = read_sets(**asked, validation_file=str(file), needs_training=True, needs_evaluation=True)
    assert (len(train), len(dev)) == (40, 40)
    train, dev = read_sets(**asked, validation_file=None, needs_training=True, needs_evaluation=False)
    assert (len(train), dev) == (40, None)
    with pytest.raises(OSError, match="no such file"):
        read_text(tmp_path / "nowhere.txt")
