"""Documents of files of any form: `documents(piece)` yields them as they stand, one after the other.

A piece that is a range of bytes has the documents that begin in it, so that the pieces of a file give what the whole
file gives, wherever it is cut. In text whose documents are parted by empty lines, what counts is the empty line before.

Sets of the Hugging Face Hub as streams: their train split, shard by shard, nothing of it kept on disk.

``NAME:CONFIG`` names one of several configurations, as in ``wikimedia/wikipedia:20231101.en``.

Articles of a MediaWiki dump as plain text: one ``<page>`` at a time, its markup parsed by mwparserfromhell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import unescape
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

from nip.data.corpus.files import Piece, open_bytes, unpacked_blocks
from nip.data.corpus.normalize import LONGEST
from nip.data.offline import corpora
from nip.data.tables import chosen_columns

CONFIG = ":"  # parts a set's name from that of a configuration


def number_of_shards(name: str) -> int:
    """How many shards the set comes in; each is read on its own.

    Raises
    ------
    ImportError
        If `datasets` is not installed.
    OSError
        If the set cannot be had: there is no network, or no such set.
    """
    return int(_stream(name).num_shards)


def rows(name: str, shard: int) -> Iterator[Mapping[str, Any]]:
    """The rows of one shard, fetched as they are asked for.

    Raises
    ------
    OSError
        If fetching fails.
    """
    stream = _stream(name)
    number = 0
    try:
        for row in stream.shard(num_shards=stream.num_shards, index=shard):
            yield row
            number += 1
    except ImportError:
        raise
    except Exception as error:  # network libraries raise classes of their own, which need not be installed here
        raise _failed(name, f"row {number} of shard {shard}", error) from error


def _stream(name: str) -> Any:
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise ImportError(f"Streaming {name} needs datasets: pip install 'nip[pretrain]'") from error
    try:
        which = name.split(CONFIG, 1)
        return datasets.load_dataset(*which, split="train", streaming=True)
    except ImportError:
        raise
    except Exception as error:
        raise _failed(name, "its list of files", error) from error


def _failed(name: str, what: str, error: Exception) -> OSError:
    return OSError(
        f"There is no file or folder {name}, and {what} could not be fetched from the Hugging Face Hub "
        f"({type(error).__name__}: {error})."
    )


# Links to these are pictures, categories and other languages, no words of the article.
_NOT_SAID = re.compile(r"^\s*:?\s*(?:File|Image|Media|Category|[a-z]{2,3}(?:-[a-z]+)?)\s*:", re.IGNORECASE)
_TAGS = ("ref", "table", "gallery", "math", "timeline", "score", "imagemap", "syntaxhighlight", "source", "code", "pre")
# Whatever follows these headings is lists of links.
_TAIL = ("references", "external links", "see also", "further reading", "notes", "bibliography", "sources", "footnotes")


def article(page: str, path: Path, offset: int) -> str:
    """The text of a page of a dump; nothing of redirects and of pages that are no articles.

    Parameters
    ----------
    page : str
        From ``<page>`` to ``</page>``.
    path : Path
    offset : int
        Where it begins in the file, for messages.

    Raises
    ------
    ValueError
        If the page is no XML.
    ImportError
        If mwparserfromhell is not installed.
    """
    try:
        found = ElementTree.fromstring(page)
    except ElementTree.ParseError as error:
        raise ValueError(f"{path}, byte {offset}: the page is no XML ({error}).") from error
    if found.findtext("ns", "0") != "0" or found.find("redirect") is not None:
        return ""
    return plain(found.findtext("revision/text") or "")


def plain(markup: str) -> str:
    """What a reader of wiki markup sees of its sentences: no templates, tables, references, pictures and link lists.

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
        return ""  # one page in millions whose markup is beyond it


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


COLUMNS = ("text", "content", "article", "body", "document")  # that may hold the text, in this order
_PAGE = LONGEST * 16  # bytes of a line, an article or a page: the longest that is read
_ROWS = 256  # of a parquet file, in memory at a time
_EMPTY_LINES = re.compile(rb"\n\s*\n")  # and the end of the line before them
_DOC = re.compile(rb"<doc\b[^>]*>\s*$")


def documents(
    piece: Piece, *, encoding: str = "utf-8", bad_bytes: str = "refuse", column: str | None = None
) -> Iterator[str]:
    """The documents of a piece, as they stand in the file; those longer than `LONGEST` characters may come in several.

    Parameters
    ----------
    piece : Piece
    encoding : str, default="utf-8"
        Of text.
    bad_bytes : {"refuse", "drop"}, default="refuse"
        Bytes that are no character of the encoding; where they are dropped, U+FFFD stands for them.
    column : str, optional
        Of JSON lines, parquet files and sets of the hub: the one with the text; by default the first of `COLUMNS`.

    Raises
    ------
    ValueError
        If a file is damaged, no text of that encoding, or has no such column; the message names the file and the place.
    OSError
        If a set of the hub cannot be had.
    ImportError
        If a package is missing that the form needs.
    """
    columns = (column,) if column else COLUMNS
    if piece.form == "parquet":
        yield from _parquet(piece, columns)
    elif piece.form == "hub":
        yield from _hub(piece, columns)
    elif piece.form == "bible":
        yield from (text.content.decode("latin-1") for text in corpora.read_bible(Path(piece.path)))
    elif piece.form == "brown":
        yield corpora.untagged(Path(piece.path)).decode("latin-1")
    else:
        path = Path(piece.path)
        with open_bytes(path) as file:
            for offset, raw in _RAW[piece.form](file, piece):
                yield from _decoded(raw, path, offset, piece.form, (encoding, bad_bytes), columns)


def _decoded(
    raw: bytes, path: Path, offset: int, form: str, how: tuple[str, str], columns: Sequence[str]
) -> Iterator[str]:
    """The text in the bytes of a document that begins at byte `offset` of the file."""
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
            raise ValueError(f"{path}, byte {offset}: the line is no JSON ({error}).") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}, byte {offset}: the line is no JSON object.")
        found = _cell(row[chosen_columns(path, list(row), [columns])[0]], path, f"byte {offset}")
    elif form == "wikipedia":
        from nip.data.corpus.read import article

        found = article(text, path, offset)
    else:
        found = unescape(text) if form == "extracted" else text
    if found:
        yield found


def _cell(value: Any, path: Path | str, place: str) -> str:
    """The text of a cell; nothing where it is empty."""
    if value is None or isinstance(value, str):
        return value or ""
    raise ValueError(f"{path}, {place}: the text is {type(value).__name__}, not a string. Name a column with --column.")


def _blocks(file: IO[bytes], piece: Piece) -> Iterator[tuple[int, bytes]]:
    """Lines that begin at or after the piece's begin, to the end of the file, many at a time; and where they begin."""
    place = piece.begin
    blocks = unpacked_blocks(file, Path(piece.path), LONGEST)
    if piece.begin:
        file.seek(piece.begin - 1)  # the line that ends right before the piece is not of it, nor is one that goes on
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


def _lines(file: IO[bytes], piece: Piece) -> Iterator[tuple[int, bytes]]:
    """Those of `_blocks` one by one; a very long one comes in several."""
    for begin, block in _blocks(file, piece):
        place = begin
        for line in BytesIO(block):
            yield place, line
            place += len(line)


def _stretches(file: IO[bytes], piece: Piece) -> Iterator[tuple[int, bytes]]:
    """Those of `_blocks`, parted at empty lines; for each run of these an empty stretch, at the last of them."""
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


def _beyond(place: int, piece: Piece) -> bool:
    return 0 <= piece.end <= place


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
    """Documents parted by empty lines; long ones are handed out in several, at the end of a word where there is one."""
    lines: list[bytes] = []
    start = length = 0
    ours = piece.begin == 0  # else the lines before the first empty one are of the piece before
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
            # line by line where it gets long: it is cut at the same line wherever a stretch ends
            for line in (stretch,) if length + len(stretch) <= LONGEST else BytesIO(stretch):
                if not lines:
                    start = place
                lines.append(line)
                length += len(line)
                place += len(line)
                if length > LONGEST:
                    whole, rest = _whole_characters(b"".join(lines))
                    yield start, whole
                    lines, start, length = ([rest] if rest else []), place - len(rest), len(rest)
    if lines:
        yield start, b"".join(lines)


def _whole_characters(raw: bytes) -> tuple[bytes, bytes]:
    """Bytes up to where the last word ends, and the rest, so that no character is cut."""
    if raw.endswith(b"\n"):
        return raw, b""
    end = max(raw.rfind(b" "), raw.rfind(b"\n")) + 1
    if end <= 0:  # one endless word: before the last byte that begins a character of UTF-8
        end = next((i for i in range(len(raw) - 1, max(len(raw) - 5, 0), -1) if raw[i] & 0xC0 != 0x80), len(raw))
    return raw[:end], raw[end:]


def _raw_whole(file: IO[bytes], piece: Piece) -> Iterator[tuple[int, bytes]]:
    """One document a file: empty lines are dropped, and it is handed out in several if it is long."""
    lines: list[bytes] = []
    start = length = 0
    for place, line in _lines(file, piece):
        if not lines:
            start, length = place, 0
        lines.append(line)
        length += len(line)
        if length > LONGEST:
            whole, rest = _whole_characters(b"".join(lines))
            yield start, whole
            lines, start, length = ([rest] if rest else []), place + len(line) - len(rest), len(rest)
    if lines:
        yield start, b"".join(lines)


def _between(
    file: IO[bytes], piece: Piece, opens: re.Pattern[bytes], closes: bytes, keep: bool
) -> Iterator[tuple[int, bytes]]:
    """What stands between a line that opens and one that closes; with these lines if `keep`."""
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
        raise ValueError(f"{piece.path} is cut short: what begins at byte {start} has no {closes.decode()}.")


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
    "books": _raw_whole,
    "extracted": _raw_extracted,
    "wikipedia": _raw_pages,
}


def _parquet(piece: Piece, columns: Sequence[str]) -> Iterator[str]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(piece.path) as file:
            (chosen,) = chosen_columns(piece.path, file.schema_arrow.names, [columns])
            groups = range(piece.begin, piece.end)
            row = 0
            for batch in file.iter_batches(_ROWS, row_groups=groups, columns=[chosen], use_threads=False):
                for value in batch.column(chosen).to_pylist():
                    text = _cell(value, piece.path, f"row {row} of row group {piece.begin} and after")
                    row += 1
                    if text:
                        yield text
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{piece.path} is truncated or no parquet file: {error}") from error


def _hub(piece: Piece, columns: Sequence[str]) -> Iterator[str]:

    chosen: list[str] = []
    for number, row in enumerate(rows(piece.path, piece.begin)):
        chosen = chosen or chosen_columns(piece.path, list(row), [columns])
        text = _cell(row[chosen[0]], piece.path, f"row {number} of shard {piece.begin}")
        if text:
            yield text
