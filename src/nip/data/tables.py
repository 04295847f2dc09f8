"""Rows of CSV and parquet files, a few at a time."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

_ROWS = 256  # of a parquet file, in memory at a time
_LONGEST = 1 << 24  # characters of a field


def csv_rows(path: Path, columns: Sequence[Sequence[str]]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The rows of a CSV file with a header: their line numbers and the columns asked for.

    Parameters
    ----------
    path : Path
        In UTF-8, quoted where need be.
    columns : sequence of sequences of str
        The names that each column may have.

    Raises
    ------
    ValueError
        If a column is missing, a row has another number of fields than the header, or the text is no UTF-8.
    """
    before = csv.field_size_limit(_LONGEST)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            places = [header.index(name) for name in chosen_columns(path, header, columns)]
            for row in reader:
                if len(row) != len(header):
                    raise ValueError(f"{path}, line {reader.line_num}: {len(row)} fields instead of {len(header)}.")
                yield reader.line_num, tuple(row[place] for place in places)
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no sound CSV file in UTF-8: {error}.") from error
    finally:
        csv.field_size_limit(before)


def parquet_rows(path: Path, columns: Sequence[Sequence[str]]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """The rows of a parquet file: their numbers, from 0, and the columns asked for.

    Raises
    ------
    ImportError
        If pyarrow is not installed.
    ValueError
        If a column is missing, or the file is damaged.
    """
    try:
        parquet, pyarrow = import_module("pyarrow.parquet"), import_module("pyarrow")
    except ImportError as error:
        raise ImportError("Reading parquet files needs pyarrow: pip install pyarrow") from error

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            chosen = chosen_columns(path, file.schema_arrow.names, columns)
            for batch in file.iter_batches(batch_size=_ROWS, columns=chosen, use_threads=False):
                values = [batch.column(name).to_pylist() for name in chosen]
                for row in zip(*values, strict=True):
                    yield number, row
                    number += 1
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} is truncated or no parquet file: {error}") from error


def chosen_columns(path: Path | str, names: Sequence[str], columns: Sequence[Sequence[str]]) -> list[str]:
    """The name that each column has among `names`.

    Raises
    ------
    ValueError
        If one has none of the names that it may have.
    """
    chosen = []
    for allowed in columns:
        there = [name for name in allowed if name in names]
        if not there:
            raise ValueError(
                f"{path} has no column {' or '.join(allowed)}. Its columns are {', '.join(names) or 'none'}."
            )
        chosen.append(there[0])
    return chosen
