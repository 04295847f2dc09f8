"""Documents of files of every format: `documents(piece)` yields them one by one, as they are in the file.

A piece that is a range of bytes has the documents that begin in it, so the pieces of a file together give what the full
file gives, wherever it is cut. A paragraph of text begins at the empty line before it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from html import unescape
from io import BytesIO
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

from nip.data import hub
from nip.data.corpus.files import Piece, open_bytes, unpacked_blocks
from nip.data.corpus.normalize import LONGEST
from nip.data.offline.corpora import FORMATS
from nip.data.tables import chosen_columns, parquet_rows

COLUMNS = ("text", "content", "article", "body", "document")  # that may have the text, in this order
_PAGE = LONGEST * 16  # bytes of the longest line, article or page that is read
_EMPTY_LINES = re.compile(rb"\n\s*\n")  # and the end of the line before them
_DOC = re.compile(rb"<doc\b[^>]*>\s*$")
# Links to these are pictures, categories and other languages, not words of the article.
_NOT_SAID = re.compile(r"^\s*:?\s*(?:File|Image|Media|Category|[a-z]{2,3}(?:-[a-z]+)?)\s*:", re.IGNORECASE)
_TAGS = ("ref", "table", "gallery", "math", "timeline", "score", "imagemap", "syntaxhighlight", "source", "code", "pre")
# All that follows these headings is lists of links.
_TAIL = ("references", "external links", "see also", "further reading", "notes", "bibliography", "sources", "footnotes")


def documents(
    piece: Piece, *, encoding: str = "utf-8", bad_bytes: str = "refuse", column: str | None = None
) -> Iterator[str]:
    """The documents of a piece, as they are in the file; one of more than `LONGEST` characters may come in several.

    Parameters
    ----------
    piece : Piece
    encoding : str, default="utf-8"
        Of text.
    bad_bytes : {"refuse", "drop"}, default="refuse"
        What to do with bytes that the encoding cannot decode; "drop" replaces them by U+FFFD.
    column : str, optional
        The column with the text in JSON lines, parquet files and data sets of the hub; by default the first of
        `COLUMNS`.

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
    if piece.form in FORMATS:
        yield from FORMATS[piece.form].documents(path)
    elif piece.form in _RAW:
        with open_bytes(path) as file:
            for offset, raw in _RAW[piece.form](file, piece):
                yield from _decoded(raw, path, offset, piece.form, (encoding, bad_bytes), columns)
    else:
        if piece.form == "parquet":
            rows, part = parquet_rows(path, [columns], range(piece.begin, piece.end)), "row group {} and after"
        else:
            load = partial(hub.load_shard, shard=piece.begin)
            rows, part = hub.rows(load, piece.path, "train", [columns]), "shard {}"
        for number, (value,) in rows:
            text = _cell(value, piece.path, f"row {number} of {part.format(piece.begin)}")
            if text:
                yield text


def _decoded(
    raw: bytes, path: Path, offset: int, form: str, how: tuple[str, str], columns: Sequence[str]
) -> Iterator[str]:
    """The text of a document that begins at byte `offset` of the file; nothing if it is empty."""
    encoding, bad_bytes = how
    try:
        text = raw.decode(encoding, "strict" if bad_bytes == "refuse" else "replace")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}, byte {offset + error.start}: {error.reason}; it is not encoded in {encoding}. "
            "Name its encoding with --encoding, or drop such bytes with --bad-bytes drop."
        ) from error
    if form == "jsonl":
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, byte {offset}: the line is not JSON ({error}).") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, byte {offset}: the line is not a JSON object.")
        text = _cell(row[chosen_columns(path, list(row), [columns])[0]], path, f"byte {offset}")
    elif form == "wikipedia":
        text = article(text, path, offset)
    elif form == "extracted":
        text = unescape(text)
    if text:
        yield text


def _cell(value: Any, path: Path | str, place: str) -> str:
    """The text of a cell, "" if it is null."""
    if value is None or isinstance(value, str):
        return value or ""
    raise ValueError(f"{path}, {place}: the text is {type(value).__name__}, not a string. Name a column with --column.")


def _raw_lines(file: IO[bytes], piece: Piece) -> Iterator[tuple[int, bytes]]:
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


def _raw_paragraphs(file: IO[bytes], piece: Piece) -> Iterator[tuple[int, bytes]]:
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


def _raw_books(file: IO[bytes], piece: Piece) -> Iterator[tuple[int, bytes]]:
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


def _raw_extracted(file: IO[bytes], piece: Piece) -> Iterator[tuple[int, bytes]]:
    for start, raw in _between(file, piece, _DOC, b"</doc>", keep=False):
        title, _, body = raw.partition(b"\n")  # the title is repeated as the first line
        if body.strip():
            yield start + len(title) + 1, body


def _raw_pages(file: IO[bytes], piece: Piece) -> Iterator[tuple[int, bytes]]:
    return _between(file, piece, re.compile(rb"<page>\s*$"), b"</page>", keep=True)


_RAW = {
    "text": _raw_paragraphs,
    "lines": _raw_lines,
    "jsonl": _raw_lines,
    "books": _raw_books,
    "extracted": _raw_extracted,
    "wikipedia": _raw_pages,
}


def _between(
    file: IO[bytes], piece: Piece, opens: re.Pattern[bytes], closes: bytes, keep: bool
) -> Iterator[tuple[int, bytes]]:
    """The lines between one that opens and one that closes, including these two if `keep`."""
    lines: list[bytes] | None = None
    start = length = 0
    for place, line in _lines(file, piece):
        if lines is None:
            if opens.match(line.lstrip()):
                if _beyond(place, piece):
                    return
                lines, start, length = ([line] if keep else []), place if keep else place + len(line), 0
            continue
        if line.strip() == closes:
            yield start, b"".join([*lines, line] if keep else lines)
            lines = None
            continue
        lines.append(line)
        length += len(line)
        if length > _PAGE:
            raise ValueError(f"{piece.path}, byte {start}: a page of more than {_PAGE:,} bytes.")
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
    blocks = unpacked_blocks(file, Path(piece.path), LONGEST)
    if piece.begin:
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


def article(page: str, path: Path, offset: int) -> str:
    """The text of a page of a MediaWiki dump; "" for redirects and for pages that are not articles.

    Parameters
    ----------
    page : str
        From ``<page>`` to ``</page>``.
    path : Path
    offset : int
        Where the page begins in the file, in bytes, for errors.

    Raises
    ------
    ValueError
        If the page is not XML.
    ImportError
        If mwparserfromhell is not installed.
    """
    try:
        found = ElementTree.fromstring(page)
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}, byte {offset}: the page is not XML ({error}).") from error
    if found.findtext("ns", "0") != "0" or found.find("redirect") is not None:
        return ""
    return plain(found.findtext("revision/text") or "")


def plain(markup: str) -> str:
    """The sentences of wiki markup as a reader sees them: no templates, tables, references, pictures or link lists.

    Raises
    ------
    ImportError
        If mwparserfromhell is not installed.
    """
    try:
        import mwparserfromhell
    except ImportError as error:
        raise ImportError("Reading Wikipedia dumps needs mwparserfromhell: pip install 'nip[pretrain]'") from error

    try:
        return "".join(_said(mwparserfromhell.parse(markup).nodes))
    except mwparserfromhell.parser.ParserError:
        return ""  # one page in millions has markup that the parser rejects


def _said(nodes: Iterable[Any]) -> Iterator[str]:
    """The words of parsed markup, in one pass; the library's own `remove` takes quadratic time."""
    from mwparserfromhell import nodes as kinds

    for node in nodes:
        if isinstance(node, kinds.Text):
            yield str(node)
        elif isinstance(node, kinds.HTMLEntity):
            yield node.normalize()
        elif isinstance(node, kinds.Heading):
            title = "".join(_said(node.title.nodes)).strip()
            if node.level <= 2 and title.lower() in _TAIL:
                return
            yield f"\n{title}\n"
        elif isinstance(node, kinds.Wikilink) and not _NOT_SAID.match(str(node.title)):
            yield from _said((node.text or node.title).nodes)
        elif isinstance(node, kinds.ExternalLink) and node.title is not None:
            yield from _said(node.title.nodes)
        elif isinstance(node, kinds.Tag):
            name = str(node.tag).strip().lower()
            if name in ("br", "li", "dt", "dd"):
                yield "\n"
            if name not in _TAGS and node.contents is not None:
                yield from _said(node.contents.nodes)
