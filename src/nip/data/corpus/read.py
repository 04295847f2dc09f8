"""Documents of files of every format: `documents(piece)` yields them one by one, as they are in the file.

A piece that is a range of bytes has the documents that begin in it, so the pieces of a file together give what the full
file gives, wherever it is cut. A paragraph of text begins at the empty line before it.
"""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from html import unescape
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import IO, Any

from nip.data import hub
from nip.data.corpus.files import ZEROS, Piece, delimiter, has_mac_line_ends, open_bytes, unpacked_blocks, unpacking
from nip.data.corpus.normalize import LONGEST
from nip.data.corpus.wikitext import Site, article, read_site
from nip.data.offline.corpora import FORMATS
from nip.data.tables import chosen_columns, csv_rows, parquet_rows

COLUMNS = ("text", "content", "article", "body", "document")  # that may have the text, in this order
_PAGE = LONGEST * 16  # bytes of the longest line, article or page that is read
_SPACE = b" \t\r\n\f\v" + codecs.BOM_UTF8  # before a tag; the mark is where files were put together
_EMPTY_LINES = re.compile(rb"\n\s*\n")  # and the end of the line before them
_DOC = re.compile(rb"<doc\b([^>]*)>")
_PAGE_OPENS = re.compile(rb"<page>")
_TITLE = re.compile(rb'\btitle="([^"]*)"')


@dataclass(frozen=True)
class _Reading:
    """How a file is read: see `documents`."""

    path: Path
    form: str
    encoding: str
    bad_bytes: str
    columns: tuple[str, ...]
    site: Site
    left_out: Counter[str]


def documents(
    piece: Piece,
    *,
    encoding: str = "utf-8",
    bad_bytes: str = "refuse",
    column: str | None = None,
    left_out: Counter[str] | None = None,
) -> Iterator[str]:
    """The documents of a piece, as they are in the file; one of more than `LONGEST` characters may come in several.

    Parameters
    ----------
    piece : Piece
    encoding : str, default="utf-8"
        Of text.
    bad_bytes : {"refuse", "drop"}, default="refuse"
        What to do with bytes that the encoding cannot decode, and with zeros; "drop" replaces them by U+FFFD.
    column : str, optional
        The column with the text in JSON lines, CSV and parquet files and data sets of the hub; by default the first of
        `COLUMNS`.
    left_out : Counter of str, optional
        What is read and gives no document is counted here, by kind.

    Raises
    ------
    ValueError
        If a file is damaged, not text in that encoding, or has no such column; the message names the file and place.
    OSError
        If a data set of the hub is not available.
    ImportError
        If a package that the format needs is missing.
    """
    columns = (column,) if column else COLUMNS
    path = Path(piece.path)
    left_out = Counter() if left_out is None else left_out
    if piece.form in FORMATS:
        yield from FORMATS[piece.form].documents(path)
    elif piece.form in _RAW:
        site = Site()
        if piece.form == "wikipedia":
            with open_bytes(path) as file, unpacking(path):
                site = read_site(file)
        how = _Reading(path, piece.form, encoding, bad_bytes, columns, site, left_out)
        with open_bytes(path) as file:
            for offset, raw in _RAW[piece.form](file, piece, left_out):
                yield from _decoded(raw, offset, how)
    else:
        for place, value in _rows(piece, path, columns, encoding, bad_bytes):
            text = _cell(value, piece.path, place)
            if text:
                yield text
            else:
                left_out["rows without text"] += 1


def _rows(
    piece: Piece, path: Path, columns: tuple[str, ...], encoding: str, bad_bytes: str
) -> Iterator[tuple[str, Any]]:
    """The cells with the text of a table, and the place of each in words."""
    if piece.form == "csv":
        codec = "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding
        errors = "strict" if bad_bytes == "refuse" else "replace"
        with open_bytes(path) as raw, unpacking(path), TextIOWrapper(raw, codec, errors, newline="") as file:
            for number, (value,) in csv_rows(path, [columns], file=file, tabs=delimiter(path) == "\t"):
                yield f"line {number}", value
    elif piece.form == "parquet":
        for number, (value,) in parquet_rows(path, [columns], range(piece.begin, piece.end)):
            yield f"row {number} of row group {piece.begin} and after", value
    else:
        load = partial(hub.load_shard, shard=piece.begin)
        for number, (value,) in hub.rows(load, piece.path, "train", [columns]):
            yield f"row {number} of shard {piece.begin}", value


def _decoded(raw: bytes, offset: int, how: _Reading) -> Iterator[str]:
    """The text of a document that begins at byte `offset` of the file; nothing if it is empty."""
    path = how.path
    if how.bad_bytes == "refuse" and (zero := raw.find(b"\0")) >= 0:
        raise ValueError(f"{path}, byte {offset + zero}: it is 0, which no text has. {ZEROS}")
    try:
        text = raw.decode(how.encoding, "strict" if how.bad_bytes == "refuse" else "replace")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}, byte {offset + error.start}: {error.reason}; it is not encoded in {how.encoding}. "
            "Name its encoding with --encoding, or drop such bytes with --bad-bytes drop."
        ) from error
    why = "rows without text"
    if how.form == "jsonl":
        try:
            row = json.loads(text.removeprefix("\ufeff"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, byte {offset}: the line is not JSON ({error}).") from error
        except RecursionError as error:
            raise ValueError(f"{path}, byte {offset}: the line has too many brackets within each other.") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, byte {offset}: the line is not a JSON object.")
        text = _cell(row[chosen_columns(path, list(row), [how.columns])[0]], path, f"byte {offset}")
    elif how.form == "wikipedia":
        text, why = article(text, how.site, path, offset)
    elif how.form == "extracted":
        text = unescape(text)
    if text:
        yield text
    else:
        how.left_out[why] += 1


def _cell(value: Any, path: Path | str, place: str) -> str:
    """The text of a cell, "" if it is null."""
    if value is None or isinstance(value, str):
        return value or ""
    raise ValueError(f"{path}, {place}: the text is {type(value).__name__}, not a string. Name a column with --column.")


def _raw_lines(file: IO[bytes], piece: Piece, left_out: Counter[str]) -> Iterator[tuple[int, bytes]]:
    whole: list[bytes] = []
    start = length = 0
    for place, line in _lines(file, piece):
        if not whole:
            if _beyond(place, piece):
                return
            start, length = place, 0
        whole.append(line)
        length += len(line)
        if length > _PAGE:
            raise ValueError(f"{piece.path}, byte {start}: a line of more than {_PAGE:,} bytes.")
        if line.endswith(b"\n"):
            if not line.isspace() or len(whole) > 1:
                yield start, b"".join(whole)
            whole = []
    if whole:
        yield start, b"".join(whole)


def _raw_paragraphs(file: IO[bytes], piece: Piece, left_out: Counter[str]) -> Iterator[tuple[int, bytes]]:
    """Documents separated by empty lines; long ones are split, at the end of a word if there is one."""
    lines: list[bytes] = []
    start = length = 0
    ours = piece.begin == 0  # else the lines before the first empty one belong to the piece before
    for begin, stretch in _stretches(file, piece):
        place = begin
        if not stretch:
            if lines:
                yield start, b"".join(lines)
                lines, length = [], 0
            if _beyond(place, piece):
                return
            ours = True
        elif ours:
            # line by line where it gets long, so that it is split at the same line wherever a stretch ends
            for line in (stretch,) if length + len(stretch) <= LONGEST else BytesIO(stretch):
                if not lines:
                    start = place
                lines.append(line)
                length += len(line)
                place += len(line)
                if length > LONGEST:
                    whole, rest = _complete_words(b"".join(lines))
                    yield start, whole
                    lines, start, length = ([rest] if rest else []), place - len(rest), len(rest)
    if lines:
        yield start, b"".join(lines)


def _raw_books(file: IO[bytes], piece: Piece, left_out: Counter[str]) -> Iterator[tuple[int, bytes]]:
    """One document per file, empty lines included; a long one is split."""
    lines: list[bytes] = []
    start = length = 0
    for place, line in _lines(file, piece):
        if not lines:
            start, length = place, 0
        lines.append(line)
        length += len(line)
        if length > LONGEST:
            whole, rest = _complete_words(b"".join(lines))
            yield start, whole
            lines, start, length = ([rest] if rest else []), place + len(line) - len(rest), len(rest)
    if lines:
        yield start, b"".join(lines)


def _raw_extracted(file: IO[bytes], piece: Piece, left_out: Counter[str]) -> Iterator[tuple[int, bytes]]:
    """Articles without their title, which is repeated as the first line."""
    for tag, opens, content in _between(file, piece, _DOC, b"</doc>", left_out):
        space, raw = _blank_line(content)
        start = tag + len(opens) + space
        first, end, rest = raw.partition(b"\n")
        title = _TITLE.search(opens)
        is_title = title is None or _shown(title[1]) == _shown(first)
        body = rest if is_title or not first.strip() else raw
        if body.strip():
            yield start + (len(first + end) if body is rest else 0), body
        else:
            left_out["articles without text"] += 1


def _blank_line(content: bytes) -> tuple[int, bytes]:
    """The length of the first line if it is blank, and the rest."""
    first, end, rest = content.partition(b"\n")
    return (0, content) if first.strip() else (len(first + end), rest)


def _shown(title: bytes) -> str:
    """A title, however often it was escaped."""
    return " ".join(unescape(unescape(title.decode("utf-8", "replace"))).split())


def _raw_pages(file: IO[bytes], piece: Piece, left_out: Counter[str]) -> Iterator[tuple[int, bytes]]:
    for tag, opens, raw in _between(file, piece, _PAGE_OPENS, b"</page>", None):
        yield tag, opens + raw + b"</page>"


_RAW = {
    "text": _raw_paragraphs,
    "lines": _raw_lines,
    "jsonl": _raw_lines,
    "books": _raw_books,
    "extracted": _raw_extracted,
    "wikipedia": _raw_pages,
}


def _between(
    file: IO[bytes], piece: Piece, opens: re.Pattern[bytes], closes: bytes, left_out: Counter[str] | None
) -> Iterator[tuple[int, bytes, bytes]]:
    """What is between a tag that begins a line and the one that closes it: the offset of the tag, it, the bytes after.

    Lines outside of these are counted in `left_out`, from the first tag of the piece on: earlier ones are of the piece
    before.
    """
    lines: list[bytes] | None = None
    opening = b""
    start = length = 0
    counts = piece.begin == 0
    for begin, line in _lines(file, piece):
        place, rest = begin, line
        while rest:
            if lines is None:
                stripped = rest.lstrip(_SPACE)
                found = opens.match(stripped)
                if found is None:
                    if counts and left_out is not None and stripped:
                        left_out[f"lines outside of <doc> … {closes.decode()}"] += 1
                    break
                if _beyond(begin, piece):
                    return
                counts = True
                start = place + len(rest) - len(stripped)
                place = start + found.end()
                rest = stripped[found.end() :]
                lines, opening, length = [], found[0], 0
                continue
            before, closed, after = rest.partition(closes)
            if closed:
                yield start, opening, b"".join([*lines, before])
                lines = None
                place += len(before) + len(closed)
                rest = after
                continue
            lines.append(rest)
            length += len(rest)
            if length > _PAGE:
                raise ValueError(f"{piece.path}, byte {start}: a page of more than {_PAGE:,} bytes.")
            break
    if lines is not None:
        raise ValueError(f"{piece.path} is truncated: the element at byte {start} has no {closes.decode()}.")


def _stretches(file: IO[bytes], piece: Piece) -> Iterator[tuple[int, bytes]]:
    """The bytes of `_blocks`, split at empty lines; each run of these gives an empty stretch, at the last of them."""
    begins = True  # a very long line comes in several blocks; only its first can be empty
    for place, block in _blocks(file, piece):
        lines, origin = (b"\n" + block, place - 1) if begins else (block, place)
        done = place - origin
        for gap in _EMPTY_LINES.finditer(lines):
            if done <= gap.start():
                yield origin + done, lines[done : gap.start() + 1]
            yield origin + lines.rfind(b"\n", 0, gap.end() - 1) + 1, b""
            done = gap.end()
        if done < len(lines):
            yield origin + done, lines[done:]
        begins = lines.endswith(b"\n")


def _lines(file: IO[bytes], piece: Piece) -> Iterator[tuple[int, bytes]]:
    """The lines of `_blocks`; a very long one comes in several."""
    for begin, block in _blocks(file, piece):
        place = begin
        for line in BytesIO(block):
            yield place, line
            place += len(line)


def _blocks(file: IO[bytes], piece: Piece) -> Iterator[tuple[int, bytes]]:
    """The lines from the piece's begin to the end of the file, many in a block, and the offset of each block."""
    place = piece.begin
    blocks = unpacked_blocks(file, Path(piece.path), LONGEST, mac=has_mac_line_ends(Path(piece.path)))
    if piece.begin == 0:
        first = next(blocks, b"")
        mark = len(codecs.BOM_UTF8) if first.startswith(codecs.BOM_UTF8) else 0
        if first[mark:]:
            yield mark, first[mark:]
        place = len(first)
    else:
        file.seek(piece.begin - 1)  # a line that begins before the piece is not of it
        place -= 1
        for block in blocks:
            end = block.find(b"\n") + 1
            if end:
                yield place + end, block[end:]
            place += len(block)
            if end:
                break
    for block in blocks:
        yield place, block
        place += len(block)


def _beyond(place: int, piece: Piece) -> bool:
    return 0 <= piece.end <= place


def _complete_words(raw: bytes) -> tuple[bytes, bytes]:
    """The bytes up to the end of the last complete word, and the rest; no character is cut."""
    if raw.endswith(b"\n"):
        return raw, b""
    end = max(raw.rfind(b" "), raw.rfind(b"\n")) + 1
    if end <= 0:  # a single word: before the last byte that begins a character of UTF-8
        end = next((i for i in range(len(raw) - 1, max(len(raw) - 5, 0), -1) if raw[i] & 0xC0 != 0x80), len(raw))
    return raw[:end], raw[end:]
