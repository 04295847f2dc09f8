"""The input files of a corpus: their formats, and how they are divided into parts that are read in parallel.

A part is the unit of work of one process, and of resuming: a range of a large file, or several small files. The result
does not depend on which process reads it.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import os
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from nip.atomic import replacing
from nip.data.corpus.processes import Run
from nip.data.offline.corpora import FORMATS
from nip.data.tables import row_group_bytes

FORMS = {
    "text": "text files, documents separated by empty lines",
    "lines": "text files, one document a line",
    "books": "text files, one document a file (BookCorpus)",
    "jsonl": "JSON lines with a column of text (WikiExtractor --json)",
    "extracted": "<doc …> … </doc> (WikiExtractor)",
    "wikipedia": "an XML dump of MediaWiki",
    "csv": "CSV (.csv) and tab-separated (.tsv) files with a column of text",
    "parquet": "parquet files with a column of text",
    **{name: each.description for name, each in FORMATS.items()},
    "hub": "the name of a data set on the Hugging Face Hub",
}
TEXTUAL = ("text", "lines", "books")  # how plain text is divided into documents: the user says so
_BY_BYTES = ("text", "lines", "jsonl", "extracted", "wikipedia")  # can be read from the middle
# How packed files begin, whatever they are called
_PACKED = (
    (re.compile(rb"\x1f\x8b\x08"), gzip.open),
    (re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P)"), bz2.open),
    (re.compile(rb"\xfd7zXZ\0"), lzma.open),
)
_OPENERS = {".gz": gzip.open, ".dz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_BLOCK = 1 << 20  # bytes that are read at once
_HEAD = 4096  # bytes by which a format is recognised
ZEROS = "Move binary files out of the folder; --bad-bytes drop removes single zero bytes from text."
_LARGE = 4  # a compressed file of more than 1/4 of a part is unpacked before it is read
_DAMAGED = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)
_UNSUPPORTED = {
    b"\x28\xb5\x2f\xfd": "packed by zstd. Unpack it first: zstd -d",
    b"PK\x03\x04": "a ZIP archive, as Office documents are, too. Unpack or convert it first",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive. Unpack it first",
    b"Rar!": "a RAR archive. Unpack it first",
    b"\x1f\x9d": "packed by compress. Unpack it first: uncompress",
    b"%PDF-": "a PDF. Convert it first: pdftotext",
    b"{\\rtf": "in the Rich Text Format. Convert it first",
}
_HTML = re.compile(rb"<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE)
_PROLOGUE = re.compile(rb"(?:\s|<\?xml[^>]*>|<!--(?:[^-]|-(?!->))*-->)*")  # of XML
_SEPARATED = {".csv": ",", ".tsv": "\t"}
_JSON_NAMES = (".json", ".jsonl", ".ndjson")
_JSON_STRINGS = re.compile(rb'\[\s*"(?:[^"\\\n]|\\.)*(?:"\s*[,\]]|\Z)')
_SPARSE = 100  # bytes to a zero byte in text; where there are more zeros, a file is binary
# how JSON over several lines begins: an array of objects, or an indented object
_JSON_OF_MANY_LINES = re.compile(rb'\[\s*\{\s*"|\{\s*\n\s*"')


@dataclass(frozen=True)
class Piece:
    """A file, or a range of one.

    Parameters
    ----------
    path : str
        Of the file; or the name of a data set on the hub.
    form : str
        One of `FORMS`.
    begin, end : int
        Bytes of the file, row groups of a parquet file, or shards of a data set on the hub. The piece has the documents
        that begin in [begin, end). `end` is −1 where the piece is the full file.
    """

    path: str
    form: str
    begin: int = 0
    end: int = -1


@dataclass(frozen=True)
class Found:
    """What is in the folder of the input.

    Parameters
    ----------
    files : list of Path
        All files, sorted by name, but for those that are left out.
    left_out : Counter of str
        How many things are left out, by kind.
    folders : set of (int, int)
        Device and inode of every folder.
    """

    files: list[Path]
    left_out: Counter[str]
    folders: set[tuple[int, int]]


def find_files(origin: Path) -> list[Path]:
    """The files of `search`."""
    return search(origin).files


def search(origin: Path) -> Found:
    """The file itself, or all files of a folder and its subfolders.

    Hidden files are left out. Links are followed; a folder that can be reached on several ways is read once.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    ValueError
        If there is no file in the folder.
    OSError
        If a folder cannot be read.
    """
    if origin.is_file():
        return Found([origin], Counter(), set())
    if not origin.is_dir():
        raise FileNotFoundError(f"There is no file or folder {origin}.")
    found = Found([], Counter(), set())
    folders, links = [os.fspath(origin)], list[str]()
    while folders or links:
        # links last, so that a folder of the input keeps its own name
        folder = folders.pop() if folders else links.pop(links.index(min(links)))
        state = Path(folder).stat()
        if (state.st_dev, state.st_ino) in found.folders:
            continue
        found.folders.add((state.st_dev, state.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                kind = _kind(entry)
                if kind == "folder":
                    (links if entry.is_symlink() else folders).append(entry.path)
                elif kind == "file":
                    found.files.append(Path(entry.path))
                else:
                    found.left_out[kind] += 1
    if not found.files:
        left_out = f" ({counted(found.left_out)} left out)" if found.left_out else ""
        raise ValueError(f"{origin} contains no files{left_out}.")
    found.files.sort(key=lambda path: path.relative_to(origin).parts)
    return found


def _kind(entry: os.DirEntry[str]) -> str:
    """What to do with an entry of a folder: a file, a folder, or why it is left out."""
    if entry.name.startswith("."):
        return "hidden files or folders"
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError:  # a link to itself
        return "broken links"
    return "broken links" if entry.is_symlink() else "pipes, sockets and devices"


def counted(numbers: Mapping[str, int]) -> str:
    """Numbers of kinds in words.

    Examples
    --------
    >>> counted({"redirects": 1200, "broken links": 1})
    '1,200 redirects, 1 broken links'
    """
    return ", ".join(f"{number:,} {kind}" for kind, number in numbers.items())


def find_form(path: Path, textual: str = "text", *, bad_bytes: str = "refuse") -> str:
    """The format of a file, recognised by its first bytes; CSV by its name.

    Parameters
    ----------
    path : Path
    textual : {"text", "lines", "books"}, default="text"
        The format of plain text.
    bad_bytes : {"refuse", "drop"}, default="refuse"
        Whether text may have a few zero bytes.

    Returns
    -------
    str
        One of `FORMS`.

    Raises
    ------
    ValueError
        If it is a binary file, encoded in UTF-16 or UTF-32, HTML or other XML, JSON that is not one object a line, or
        compressed and damaged.
    """
    head = _head(path)
    if head.startswith(b"PAR1"):
        return "parquet"
    for name, extra in FORMATS.items():
        if extra.recognises(path, head):
            return name
    for magic, what in _UNSUPPORTED.items():
        if head.startswith(magic):
            raise ValueError(f"{path} is {what}, or move it out of the folder.")
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        raise ValueError(f"{path} is encoded in UTF-16 or UTF-32. Convert it first: iconv -t UTF-8 {path.name}")
    zero = head.find(b"\0")
    if zero >= 0 and (bad_bytes == "refuse" or head.count(b"\0") * _SPARSE > len(head)):
        raise ValueError(f"{path} is not text: byte {zero} is 0. {ZEROS}")
    head = head.removeprefix(codecs.BOM_UTF8).lstrip()
    begin = head[_PROLOGUE.match(head).end() :]  # type: ignore[union-attr]
    if begin.startswith((b"<mediawiki", b"<page>")):
        return "wikipedia"
    if begin.startswith((b"<doc ", b"<doc>")):
        return "extracted"
    if _HTML.match(begin):
        raise ValueError(f"{path} is HTML. Extract its text first, or move it out of the folder.")
    if head.startswith(b"<?xml"):
        raise ValueError(
            f"{path} is XML, but not a dump of MediaWiki. Extract its text first, or move it out of the folder."
        )
    if _JSON_OF_MANY_LINES.match(begin):
        each = ".[]" if begin.startswith(b"[") else "."
        raise ValueError(
            f"{path} is JSON, but not one object per line, which is required. Convert it: jq -c {each} {path.name}"
        )
    if _JSON_STRINGS.match(begin):
        raise ValueError(
            f"{path} is an array of strings in JSON, but one object per line is required. "
            f"Convert it: jq -c '.[] | {{text: .}}' {path.name}"
        )
    if begin.startswith((b'{"', b"{'", b"{ ")):
        return "jsonl"
    suffix = _unpacked_name(path).suffix.lower()
    if suffix in _JSON_NAMES and begin:
        raise ValueError(
            f"{path} is named as JSON, but does not begin with an object, {{…}}. One per line is required."
        )
    return "csv" if suffix in _SEPARATED else textual


def delimiter(path: Path) -> str:
    """The character between two fields of a CSV or tab-separated file, from its name."""
    return _SEPARATED[_unpacked_name(path).suffix.lower()]


def has_mac_line_ends(path: Path) -> bool:
    """Whether lines end with the byte 13 alone, as on a classic Mac: one is in the first bytes, and no byte 10."""
    head = _head(path)
    return b"\r" in head and b"\n" not in head


def _head(path: Path) -> bytes:
    with open_bytes(path) as file, unpacking(path):
        return file.read(_HEAD)


def _unpacked_name(path: Path) -> Path:
    """The path without the ending of a packed file."""
    return path.with_suffix("") if path.suffix in _OPENERS else path


def cut(files: list[tuple[Path, str]], part_bytes: int) -> list[tuple[Piece, ...]]:
    """Divide files into parts of about `part_bytes` each.

    Parameters
    ----------
    files : list of (Path, str)
        Files and their formats.
    part_bytes : int

    Returns
    -------
    list of tuples of Piece
        Large files are cut where their format allows it, small ones are grouped.

    Raises
    ------
    ValueError
        If a parquet file is damaged.
    """
    parts: list[tuple[Piece, ...]] = []
    part: list[Piece] = []
    filled = 0
    for path, form in files:
        for piece, size in _pieces(path, form, part_bytes):
            if part and filled + size > part_bytes:
                parts.append(tuple(part))
                part, filled = [], 0
            part.append(piece)
            filled += size
    return [*parts, tuple(part)] if part else parts


def _pieces(path: Path, form: str, part_bytes: int) -> Iterator[tuple[Piece, int]]:
    """The pieces of a file and their approximate sizes in bytes."""
    size = path.stat().st_size
    if form == "parquet":
        begin = filled = 0
        sizes = row_group_bytes(path)
        for end, group_bytes in enumerate(sizes, start=1):
            filled += group_bytes
            if filled >= part_bytes or end == len(sizes):
                yield Piece(str(path), form, begin, end), filled
                begin, filled = end, 0
    elif form in _BY_BYTES and size > part_bytes and _opener(path) is None:
        for begin in range(0, size, part_bytes):
            end = min(begin + part_bytes, size)
            yield Piece(str(path), form, begin, end), end - begin
    else:
        yield Piece(str(path), form), size


def unpack_large(files: list[tuple[Path, str]], folder: Path, part_bytes: int, run: Run) -> list[tuple[Path, str]]:
    """Unpack the compressed files that are too large for one part, so that `cut` can divide them.

    Parameters
    ----------
    files : list of (Path, str)
        Files and their formats.
    folder : Path
        For the unpacked files; those that an earlier run left are reused.
    part_bytes : int
    run : callable
        See `nip.data.corpus.processes.runner`.

    Returns
    -------
    list of (Path, str)
        The same files; the unpacked one instead of a large compressed one.

    Raises
    ------
    ValueError
        If a file is damaged.
    OSError
        If the disk is full.
    """
    orders: list[tuple[Path, Path]] = []
    read = []
    for number, (path, form) in enumerate(files):
        state = path.stat()
        large = form in _BY_BYTES and state.st_size * _LARGE > part_bytes and _opener(path) is not None
        # named by size and time, so that the unpacked form of another file of that name is not reused
        unpacked = folder / f"{number:05}-{state.st_size}-{state.st_mtime_ns}-{path.stem}"
        if large:
            orders.append((path, unpacked))
        read.append((unpacked if large else path, form))
    missing = [order for order in orders if not order[1].is_file()]
    if missing:
        run(_unpack, missing)
    return read


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, decompressed where it is packed by gzip, dictzip, bzip2 or xz, whatever its name.

    Raises
    ------
    ValueError
        If its name ends in .zst, .zip, .7z or .tar.
    """
    if path.suffix in (".zst", ".zip", ".7z", ".tar", ".tgz"):
        raise ValueError(f"{path} has an unsupported compression. Unpack it first; .gz, .bz2 and .xz are supported.")
    opener = _opener(path)
    return path.open("rb") if opener is None else opener(path, "rb")


def _opener(path: Path) -> Callable[..., IO[bytes]] | None:
    """The function that opens a packed file; None if it is not packed."""
    with path.open("rb") as file:
        head = file.read(10)
    for begins, opener in _PACKED:
        if begins.match(head):
            return opener  # type: ignore[return-value]
    return _OPENERS.get(path.suffix)  # type: ignore[return-value]


def unpacked_blocks(file: IO[bytes], path: Path, longest: int, *, mac: bool = False) -> Iterator[bytes]:
    """The bytes of a file in blocks of complete lines; only lines longer than `longest` bytes span several blocks.

    Parameters
    ----------
    file : binary file
    path : Path
        Of the file, for errors.
    longest : int
        Bytes.
    mac : bool, default=False
        Lines end with the byte 13, which becomes 10.

    Raises
    ------
    ValueError
        If it is compressed and damaged.
    """
    rest = b""
    with unpacking(path):
        while read := file.read(_BLOCK):
            if mac:
                read = read.replace(b"\r", b"\n")
            end = read.rfind(b"\n") + 1
            if end:
                yield rest + read[:end]
                rest = read[end:]
            else:
                rest += read
            if len(rest) >= longest:
                yield rest
                rest = b""
    if rest:
        yield rest


def _unpack(path: Path, to: Path) -> None:
    to.parent.mkdir(exist_ok=True)
    with open_bytes(path) as packed, replacing(to) as file, unpacking(path):
        shutil.copyfileobj(packed, file, _BLOCK)


@contextmanager
def unpacking(path: Path) -> Iterator[None]:
    """Raise ValueError with the name of the file where decompression fails."""
    try:
        yield
    except _DAMAGED as error:
        raise ValueError(f"{path} is truncated or damaged: {error}.") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{path} is truncated or damaged: {error}.") from error  # bz2 has no class of its own
