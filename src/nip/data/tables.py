"""Rows of CSV, TSV, JSON and parquet files, in bounded memory.

A file is read the same way by every command: no word stands for a missing value, only an empty field of CSV or TSV and
``null`` in JSON do.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import IO, Any

_ROWS = 256  # of a parquet file, in memory at a time
_LONGEST = 1 << 24  # characters of a field


def csv_rows(
    path: Path, columns: Sequence[Sequence[str]], *, file: IO[str] | None = None, tabs: bool = False
) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The rows of a CSV file with a header: their line numbers and the values of some columns.

    Parameters
    ----------
    path : Path
        In UTF-8, fields quoted where necessary.
    columns : sequence of sequences of str
        For each column the names it may have.
    file : text file, optional
        The open file, where it is packed or has another encoding.
    tabs : bool, default=False
        Fields are separated by tabs and never quoted.

    Raises
    ------
    ValueError
        If a column is missing, a row has another number of fields than the header, or the text is not UTF-8.
    """
    before = csv.field_size_limit(_LONGEST)
    try:
        with path.open(encoding="utf-8-sig", newline="") if file is None else nullcontext(file) as lines:
            form: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {}
            reader = csv.reader(lines, strict=True, **form)
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


def table_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of a table: the place of each, for errors, and its values by column.

    Parameters
    ----------
    path : Path
        By the end of its name: ``.csv``, with fields in quotation marks where necessary; ``.tsv``, where quotation
        marks are text; ``.jsonl``, an object per line; ``.json``, the same, or a list of objects, or an object with
        such a list under ``data``; ``.parquet``. Fields of CSV and TSV are text, or None if they are empty.

    Raises
    ------
    ValueError
        If the file is malformed; the message names the line.
    """
    if path.suffix == ".csv":
        yield from _csv_dicts(path)
    elif path.suffix == ".tsv":
        yield from _tsv_dicts(path)
    elif path.suffix == ".parquet":
        with _parquet_file(path) as file:
            names = file.schema_arrow.names
        for number, row in parquet_rows(path, [[name] for name in names]):
            yield f"row {number}", dict(zip(names, row, strict=True))
    else:
        yield from _json_dicts(path)


def _csv_dicts(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    before = csv.field_size_limit(_LONGEST)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            names = _named(next(reader, []))
            for row in reader:
                if not row:
                    continue
                if len(row) != len(names):
                    raise ValueError(f"{path}, line {reader.line_num}: {len(row)} fields instead of {len(names)}.")
                yield f"line {reader.line_num}", {name: text or None for name, text in zip(names, row, strict=True)}
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a valid CSV file in UTF-8: {error}.") from error
    finally:
        csv.field_size_limit(before)


def _tsv_dicts(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = tsv_lines(path)
    names = _named(next(lines, []))
    for number, row in enumerate(lines, 2):
        if len(row) >= len(names):  # `irregular_lines` counts the others
            yield f"line {number}", {name: text or None for name, text in zip(names, row, strict=False)}


def tsv_lines(path: Path) -> Iterator[list[str]]:
    """The fields of each line. Quotation marks have no meaning in these files, and only a line feed ends a line.

    `pyarrow.csv` and pandas (behind `datasets`) read other rows: the former also ends lines at a carriage return and
    drops lines with extra fields; the latter shifts such fields to the left and refuses empty first fields.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for line in file:
                if line.strip():
                    yield line.rstrip("\r\n").split("\t")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from error


def irregular_lines(path: Path) -> dict[str, int]:
    """The number of lines of a TSV file with fewer fields than the header, with more, and with fields in quotes."""
    lines = tsv_lines(path)
    n = len(next(lines, []))
    found: Counter[str] = Counter()
    for row in lines:
        found["fewer"] += len(row) < n
        found["more"] += len(row) > n
        found["quoted"] += any(len(text) > 1 and text[0] == text[-1] == '"' for text in row)
    return dict(found)


def _named(header: Sequence[str]) -> list[str]:
    """The names of columns: those without a name are numbered, and the second of two equal names, as pandas does."""
    names: list[str] = []
    for place, written in enumerate(header):
        name = written.strip() or f"Unnamed: {place}"
        again = next(number for number in range(len(header)) if (f"{name}.{number}" if number else name) not in names)
        names.append(f"{name}.{again}" if again else name)
    return names


def _json_dicts(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    def checked(value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValueError(f'{path}, {where}: a row is an object such as {{"text": …}}. Got {_kind(value)} instead.')
        return value

    if path.suffix == ".json" and not _is_json_lines(path):
        value = _parsed(path.read_bytes(), path, "")
        if isinstance(value, dict) and isinstance(value.get("data"), list):
            value = value["data"]
        if isinstance(value, dict) and any(isinstance(column, list) for column in value.values()):
            raise ValueError(
                f"{path} is an object of columns; it must be a list of objects, one for each row, or of lines of them."
            )
        rows = value if isinstance(value, list) else [value]
        yield from ((f"row {number}", checked(row, f"row {number}")) for number, row in enumerate(rows))
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if text.strip():
                yield f"line {number}", checked(_parsed(text, path, f"line {number}, "), f"line {number}")


def _is_json_lines(path: Path) -> bool:
    """Whether a file's first line is an object, and there is a second: it is not parsed as a whole."""
    with path.open("rb") as file:
        lines = [line for line in (file.readline(), file.readline()) if line.strip()]
    try:
        return len(lines) == 2 and isinstance(json.loads(lines[0].decode("utf-8-sig")), dict)
    except (ValueError, RecursionError):
        return False


def _parsed(text: bytes, path: Path, where: str) -> Any:
    try:
        return json.loads(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as {path.suffix[1:].upper()}: {where}{error}") from error


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return "null" if value is None else kinds.get(type(value), type(value).__name__)


def column_types(path: Path) -> dict[str, Any]:
    """The pyarrow type of each column of a table, from all its rows; empty if it has none.

    A column of CSV or TSV whose fields are all integers becomes one of integers, if they are written as Python writes
    them: no digit is lost.

    Raises
    ------
    ValueError
        If a column has values of several kinds, such as numbers and texts: the first such place.
    """
    import pyarrow

    if path.suffix == ".parquet":
        with _parquet_file(path) as file:
            known = zip(file.schema_arrow.names, file.schema_arrow.types, strict=True)
            return dict(known) if file.metadata.num_rows else {}
    if path.suffix in (".csv", ".tsv"):
        header: list[str] = []
        texts: set[str] = set()  # columns with a field that is not an integer
        filled: set[str] = set()
        for _, row in table_rows(path):
            header = header or list(row)
            filled.update(name for name, text in row.items() if text is not None)
            texts.update(n for n, text in row.items() if text is not None and n not in texts and not _is_integer(text))
        return {name: pyarrow.int64() if name in filled - texts else pyarrow.string() for name in header}
    types: dict[str, Any] = {}
    first: dict[str, tuple[str, Any]] = {}
    for batch in _batches(table_rows(path)):
        for name in dict.fromkeys(name for _, row in batch for name in row):
            values = [row.get(name) for _, row in batch]
            for (where, _), value in zip(batch, values, strict=True):
                if value is None:
                    continue
                at, one = first.setdefault(name, (where, value))
                if _kind(one) != _kind(value):
                    raise ValueError(
                        f"{path}, {where}: {name!r} is {_kind(value)}, {_shown(value)}, and on {at} {_kind(one)}, "
                        f"{_shown(one)}. All rows need one kind."
                    )
            try:
                found = pyarrow.array(values).type
                schemas = [pyarrow.schema([(name, each)]) for each in (types.get(name, found), found)]
                types[name] = pyarrow.unify_schemas(schemas, promote_options="permissive").field(0).type
            except (pyarrow.ArrowException, OverflowError) as error:
                raise ValueError(
                    f"{path}, {batch[0][0]} to {batch[-1][0]}: the values of {name!r} are not all of one kind, or too "
                    f"large ({str(error).splitlines()[0]})."
                ) from error
    return {name: pyarrow.string() if pyarrow.types.is_null(found) else found for name, found in types.items()}


def typed_rows(path: Path, types: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of a table with values of these types, as `column_types` returns them; None where a value is missing."""
    whole = {name for name, found in types.items() if path.suffix in (".csv", ".tsv") and str(found) == "int64"}
    for _, row in table_rows(path):
        yield {name: int(row[name]) if name in whole and row[name] is not None else row.get(name) for name in types}


def _batches(rows: Iterator[tuple[str, dict[str, Any]]]) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    while batch := list(islice(rows, _ROWS)):
        yield batch


def _is_integer(text: str) -> bool:
    """Whether Python writes the integer in this way, and it fits 64 bits."""
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdecimal() and len(digits) < 19 and str(int(text)) == text


def _shown(value: Any) -> str:
    return repr(value) if len(repr(value)) <= 40 else f"{repr(value)[:39]}…"


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


def parquet_columns(path: Path) -> list[str]:
    """The names of the columns of a parquet file. Raises as `parquet_rows`."""
    with _parquet_file(path) as file:
        return list(file.schema_arrow.names)


def parquet_batches(path: Path, columns: Sequence[str], size: int) -> Iterator[Any]:
    """Some columns of a parquet file in pyarrow's record batches of at most `size` rows. Raises as `parquet_rows`."""
    with _parquet_file(path) as file:
        yield from file.iter_batches(size, columns=list(columns), use_threads=False)


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
