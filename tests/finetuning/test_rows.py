"""Files of rows in each form."""

import json

import datasets
import pytest

from nip.finetuning.rows import read_rows

ROWS = [{"article": "Long, and\ttold.", "abstract": "Short."}, {"article": "Ünd", "abstract": "so"}]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "lines.json", "list.json", "data.json", "a.jsonl", "a.parquet"])
def test_all_forms_give_the_same(tmp_path, name):
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
        ("a.csv", "a,b\n", "holds no rows"),
        ("a.parquet", "none", "cannot be read as PARQUET"),
        ("a.json", "ÄÖ", "is not UTF-8"),
    ],
)
def test_others_are_refused(tmp_path, name, text, says):
    path = tmp_path / name
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=says):
        read_rows(path)
    with pytest.raises(FileNotFoundError):
        read_rows(tmp_path / "none.csv")
