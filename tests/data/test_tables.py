"""Rows of CSV and parquet files, against what was written."""

import csv
import sys
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nip.data import tables

FIELDS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)


@given(st.lists(st.tuples(FIELDS, FIELDS, FIELDS), max_size=6), st.sampled_from(["\n", "\r\n"]))
@settings(deadline=None, max_examples=60)
def test_csv_rows_are_those_that_were_written(tmp_path_factory, rows, end):
    path = tmp_path_factory.mktemp("tables") / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerow(["first", "second", "third"])
        writer.writerows(rows)
    before = csv.field_size_limit()
    read = [row for _, row in tables.csv_rows(path, (("3rd", "third"), ("first",)))]
    assert read == [(third, first) for first, _, third in rows]
    assert csv.field_size_limit() == before


def test_lines_are_counted_and_a_mark_of_byte_order_is_skipped(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbftext,label\n"two\nlines",1\nx,0\n')
    assert list(tables.csv_rows(path, (("text",), ("label",)))) == [(3, ("two\nlines", "1")), (4, ("x", "0"))]
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"a.csv has no column text. Its columns are none"):
        next(tables.csv_rows(path, (("text",),)))


def test_parquet_rows_are_those_that_were_written_in_bounded_memory(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    texts = [f"{i} " + "x" * 20_000 for i in range(1500)]
    table = pyarrow.table({"label": list(range(1500)), "text": texts, "more": [None] * 1500})
    parquet.write_table(table, path, row_group_size=100, compression="none", use_dictionary=False)
    tracemalloc.start()
    for number, (text, label) in tables.parquet_rows(path, (("review", "text"), ("label",))):
        assert label == number and text == texts[number]
    assert number == 1499
    assert tracemalloc.get_traced_memory()[1] < 20e6  # of 30 MB; pyarrow's own memory is not counted
    tracemalloc.stop()


def test_without_pyarrow_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    with pytest.raises(ImportError, match="Reading parquet files needs pyarrow: pip install pyarrow"):
        next(tables.parquet_rows(tmp_path / "a.parquet", (("text",),)))
