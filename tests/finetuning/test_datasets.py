"""Reading tables in every format, hashes, and the cache of tokenized datasets."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
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
    elif path.stem in ("list", "data"):
        path.write_text(json.dumps(ROWS if path.stem == "list" else {"version": 1, "data": ROWS}))
    else:
        path.write_text("\n".join(map(json.dumps, ROWS)))
    assert read_rows(path).to_list() == ROWS


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.txt", "", r"must end in one of \.csv, \.tsv, \.json, \.jsonl, \.parquet"),
        ("a.jsonl", "{", "cannot be read as JSONL: "),
        ("a.csv", "a,b\n", "has no rows"),
        ("a.parquet", "none", "cannot be read as PARQUET"),
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
