"""Rows of CSV and parquet files, in bounded memory."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

_ROWS = 256  # of a parquet file, in memory at a time
_LONGEST = 1 << 24  # characters of a field


def csv_rows(path: Path, columns: Sequence[Sequence[str]]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The rows of a CSV file with a header: their line numbers and the values of some columns.

    Parameters
    ----------
    path : Path
        In UTF-8, fields quoted where necessary.
    columns : sequence of sequences of str
        For each column the names it may have.

    Raises
    ------
    ValueError
        If a column is missing, a row has another number of fields than the header, or the text is not UTF-8.
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
        raise ValueError(f"{path} is not a valid CSV file in UTF-8: {error}.") from error
    finally:
        csv.field_size_limit(before)


def parquet_rows(
    path: Path, columns: Sequence[Sequence[str]], row_groups: range | None = None
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """The rows of a parquet file: their numbers, from 0, and the values of some columns.

    Parameters
    ----------
    path : Path
    columns : sequence of sequences of str
        For each column the names it may have.
    row_groups : range, optional
        Read only these; rows are numbered from the first of them.

    Raises
    ------
    ImportError
        If pyarrow is not installed.
    ValueError
        If a column is missing, or the file is damaged.
    """
    with _parquet_file(path) as file:
        chosen = chosen_columns(path, file.schema_arrow.names, columns)
        batches = file.iter_batches(_ROWS, row_groups=row_groups, columns=chosen, use_threads=False)
        values = ([batch.column(name).to_pylist() for name in chosen] for batch in batches)
        yield from enumerate(row for columns_of in values for row in zip(*columns_of, strict=True))


def parquet_files(folder: Path, split: str) -> list[Path]:
    """The parquet files of a split in a folder or its subfolders, sorted by name."""
    return sorted(folder.glob(f"**/{split}[-.]*parquet")) if folder.is_dir() else []


def row_group_bytes(path: Path) -> list[int]:
    """The size of each row group of a parquet file, unpacked.

    Raises
    ------
    ImportError, ValueError
        See `parquet_rows`.
    """
    with _parquet_file(path) as file:
        return [file.metadata.row_group(group).total_byte_size for group in range(file.metadata.num_row_groups)]


@contextmanager
def _parquet_file(path: Path) -> Iterator[Any]:
    try:
        parquet, pyarrow = import_module("pyarrow.parquet"), import_module("pyarrow")
    except ImportError as error:
        raise ImportError("Reading parquet files needs pyarrow: pip install pyarrow") from error
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path} is truncated or not a parquet file: {error}") from error


def chosen_columns(path: Path | str, names: Sequence[str], columns: Sequence[Sequence[str]]) -> list[str]:
    """The name that each column has among `names`.

    Parameters
    ----------
    path : Path or str
        For the error.
    names : sequence of str
        The columns of the table.
    columns : sequence of sequences of str
        For each column the names it may have, the preferred one first.

    Raises
    ------
    ValueError
        If a column has none of its names.
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
