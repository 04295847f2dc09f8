"""Reading tables in every format, hashes, and the cache of tokenized datasets."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from finetuning_files import WORDS, write_tokenizer
from nip.finetuning.datasets import dataset_sha256, read_rows, tokenize_dataset, tokenizer_sha256
from nip.runs.folder import file_sha256

ROWS = [{"article": "Long, and\ttold.", "abstract": "Short."}, {"article": "Ünd", "abstract": "so"}]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "lines.json", "list.json", "data.json", "a.jsonl", "a.parquet"])
def test_all_formats_give_the_same_rows(tmp_path, name):
    path = tmp_path / name
    if path.suffix == ".parquet":
        datasets.Dataset.from_list(ROWS).to_parquet(path)
    elif path.suffix in (".csv", ".tsv"):
        datasets.Dataset.from_list(ROWS).to_csv(path, sep="\t" if path.suffix == ".tsv" else ",", index=False)
        if path.suffix == ".tsv":  # where a text has no tabs, and quotation marks are text
            path.write_text(path.read_text().replace('"Long, and\ttold."', "Long, and told."))
    elif path.stem in ("list", "data"):
        path.write_text(json.dumps(ROWS if path.stem == "list" else {"version": 1, "data": ROWS}))
    else:
        path.write_text("\n".join(map(json.dumps, ROWS)))
    expected = [{**row, "article": row["article"].replace("\t", " ")} for row in ROWS]
    assert read_rows(path).to_list() == (expected if path.suffix == ".tsv" else ROWS)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.txt", "", r"must end in one of \.csv, \.tsv, \.json, \.jsonl, \.parquet"),
        ("a.jsonl", "{", "cannot be read as JSONL: "),
        ("a.csv", "a,b\n", "has no rows"),
        ("a.parquet", "none", "not a parquet file"),
        ("a.json", "ÄÖ", "is not UTF-8"),
    ],
)
def test_malformed_files_raise(tmp_path, name, text, says):
    path = tmp_path / name
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=says):
        read_rows(path)
    with pytest.raises(FileNotFoundError):
        read_rows(tmp_path / "none.csv")


@pytest.mark.parametrize("name", ["data[1]", "a*b", "a?", "[!x]", "{a,b}", "a::b", "**"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_characters_of_a_glob_are_characters_of_a_name(tmp_path, name, suffix):
    for written in (name, "data1", "axb", "ab", "a", "b"):
        path = tmp_path / f"{written}{suffix}"
        if suffix == ".parquet":
            pyarrow.parquet.write_table(pyarrow.table({"text": [written]}), path)
        else:
            path.write_text(f'text\n"{written}"\n' if suffix == ".csv" else json.dumps({"text": written}))
    assert read_rows(tmp_path / f"{name}{suffix}").to_list() == [{"text": name}]


def test_no_word_is_a_missing_value(tmp_path):
    words = ["null", "NA", "None", "nan", "N/A", "NaN", "", "plain"]
    path = tmp_path / "a.csv"
    path.write_text("text,n\n" + "".join(f'"{word}",{i}\n' for i, word in enumerate(words)))
    assert read_rows(path).to_list() == [{"text": word or None, "n": i} for i, word in enumerate(words)]


def test_identifiers_keep_their_zeros(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("id,n,text\n007,1,1.50\n12,-3,2\n")
    assert read_rows(path).to_list() == [{"id": "007", "n": 1, "text": "1.50"}, {"id": "12", "n": -3, "text": "2"}]


def test_a_tsv_file_has_a_row_for_each_line_whatever_its_quotes(tmp_path, capsys):
    lines = ['"open and\t1', 'shut"\t0', '5" pipes\t1', '"all"\t0', "short", "long\t1\tmore"]
    path = tmp_path / "a.tsv"
    path.write_text("sentence\tlabel\n" + "\n".join(lines) + "\n")
    assert [row["sentence"] for row in read_rows(path)] == ['"open and', 'shut"', '5" pipes', '"all"', "long"]
    printed = capsys.readouterr().err
    assert "1 lines with fewer fields" in printed
    assert "1 lines have more fields" in printed
    assert "1 lines have a field in quotation marks" in printed


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.jsonl", '{"label": 0}\n{"label": "1"}', "line 2: 'label' is text, '1', and on line 1 a number, 0"),
        ("a.jsonl", '{"id": 7}\n{"id": null}\n{"id": "y"}', "line 3: 'id' is text, 'y', and on line 1 a number, 7"),
        ("a.jsonl", '{"a": true}\n{"a": 1}', "line 2: 'a' is a number, 1, and on line 1 true or false, True"),
        ("a.jsonl", '{"a": 1}\n[1]', "line 2: a row is an object .* Got a list"),
        ("a.json", '{"text": ["a"], "label": [0]}', "is an object of columns; it must be a list of objects"),
        ("a.json", "[1, 2]", "row 0: a row is an object .* Got a number"),
        ("a.jsonl", '{"a": 123456789012345678901234567890}', "not all of one kind, or too large"),
        ("a.csv", "a,b\n1,2\n3\n", "line 3: 1 fields instead of 2"),
        ("a.csv", 'a,b\n1,"2\n3\n', "is not a valid CSV file"),
    ],
)
def test_rows_of_several_kinds_raise_one_sentence(tmp_path, name, text, says):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=says) as raised:
        read_rows(path)
    assert "\n" not in str(raised.value)


def test_numbers_of_both_kinds_and_nested_values_are_read(tmp_path):
    rows = [{"x": 1, "more": {"a": [1]}}, {"x": 0.5, "more": {"b": "c"}}, {"x": None}]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    read = read_rows(path).to_list()
    assert [row["x"] for row in read] == [1.0, 0.5, None]
    assert read[1]["more"] == {"a": None, "b": "c"}


def test_rows_are_stored_in_the_cache_that_was_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a,b\n1,2\n")
    data = read_rows(path, str(tmp_path / "cache"))
    assert all(Path(file["filename"]).is_relative_to(tmp_path / "cache") for file in data.cache_files)
    assert data.cache_files


COLUMNS = st.lists(st.tuples(st.integers(-9, 9), st.text("abé", max_size=3)), min_size=1, max_size=6)


def dataset(rows: list[tuple[int, str]]) -> Any:
    return datasets.Dataset.from_dict({"a": [a for a, _ in rows], "b": [b for _, b in rows]})


@given(COLUMNS, COLUMNS)
def test_hashes_depend_on_content(one: list[tuple[int, str]], other: list[tuple[int, str]]):
    assert (dataset_sha256(dataset(one)) == dataset_sha256(dataset(other))) == (one == other)


def test_hashes_do_not_depend_on_storage(tmp_path: Path):
    rows = [(i, str(i)) for i in range(2500)]
    plain = dataset(rows)
    plain.save_to_disk(tmp_path / "saved")
    parts = datasets.concatenate_datasets([dataset(rows[:7]), dataset(rows[7:])])
    shuffled = dataset(rows[::-1]).select(range(2499, -1, -1))
    keys = {dataset_sha256(each) for each in (plain, datasets.load_from_disk(tmp_path / "saved"), parts, shuffled)}
    assert len(keys) == 1
    assert dataset_sha256(plain.rename_column("a", "c")) not in keys


def test_the_tokenizer_hash_ignores_its_state(tmp_path: Path):
    tokenizer = AutoTokenizer.from_pretrained(write_tokenizer(tmp_path / "one"))
    before = tokenizer_sha256(tokenizer)
    tokenizer("the cat", truncation=True, max_length=3, padding="max_length")
    assert tokenizer_sha256(tokenizer) == before
    assert tokenizer_sha256(AutoTokenizer.from_pretrained(write_tokenizer(tmp_path / "two"))) == before
    assert tokenizer_sha256(AutoTokenizer.from_pretrained(write_tokenizer(tmp_path / "three", WORDS[1:]))) != before


@pytest.fixture
def command(tmp_path: Path) -> Any:
    run = SimpleNamespace(overwrite_cache=False, preprocessing_num_workers=None)
    return SimpleNamespace(run=run, model=SimpleNamespace(cache_dir=str(tmp_path / "cache")))


def test_nothing_is_tokenized_twice(tmp_path: Path, command: Any):
    tokenizer = AutoTokenizer.from_pretrained(write_tokenizer(tmp_path / "tokenizer"))
    calls = []

    def function(batch: dict[str, list[Any]]) -> dict[str, Any]:
        calls.append(len(batch["a"]))
        return {"doubled": [2 * value for value in batch["a"]]}

    def mapped(rows: list[tuple[int, str]], **settings: Any) -> Any:
        return tokenize_dataset(dataset(rows), function, command, tokenizer=tokenizer, settings=settings)["doubled"][:]

    rows = [(1, "a"), (2, "b")]
    assert mapped(rows, length=3) == mapped(list(rows), length=3) == [2, 4]
    assert calls == [2]
    mapped(rows, length=4)
    mapped([*rows, (3, "c")], length=3)
    assert calls == [2, 2, 3]
    command.run.overwrite_cache = True
    mapped(rows, length=3)
    assert calls == [2, 2, 3, 2]


def test_the_hash_of_a_file(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"")
    assert file_sha256(tmp_path / "a") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
