"""The input files of a corpus: their formats, and how they are divided into parts that are read in parallel.

A part is the unit of work of one process, and of resuming: a range of a large file, or several small files. The result
does not depend on which process reads it.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import re
import shutil
import zlib
from collections.abc import Iterator
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
    "parquet": "parquet files with a column of text",
    **{name: each.description for name, each in FORMATS.items()},
    "hub": "the name of a data set on the Hugging Face Hub",
}
TEXTUAL = ("text", "lines", "books")  # how plain text is divided into documents: the user says so
_BY_BYTES = ("text", "lines", "jsonl", "extracted", "wikipedia")  # can be read from the middle
_OPENERS = {".gz": gzip.open, ".dz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_BLOCK = 1 << 20  # bytes that are read at once
_HEAD = 4096  # bytes by which a format is recognised
_LARGE = 4  # a compressed file of more than 1/4 of a part is unpacked before it is read
_DAMAGED = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)
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


def find_files(origin: Path) -> list[Path]:
    """The file itself, or all files of a folder and its subfolders, sorted by name; hidden files are left out.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder.
    ValueError
        If there is no file in the folder.
    """
    if origin.is_file():
        return [origin]
    if not origin.is_dir():
        raise FileNotFoundError(f"There is no file or folder {origin}.")
    found = (path for path in origin.rglob("*") if path.is_file())
    files = [path for path in found if not any(part.startswith(".") for part in path.relative_to(origin).parts)]
    if not files:
        raise ValueError(f"{origin} contains no files.")
    return sorted(files, key=lambda path: path.relative_to(origin).parts)


def find_form(path: Path, textual: str = "text") -> str:
    """The format of a file, recognised by its first bytes.

    Parameters
    ----------
    path : Path
    textual : {"text", "lines", "books"}, default="text"
        The format of plain text.

    Returns
    -------
    str
        One of `FORMS`.

    Raises
    ------
    ValueError
        If it is a binary file, encoded in UTF-16 or UTF-32, JSON that is not one object a line, or compressed and
        damaged.
    """
    with open_bytes(path) as file, _unpacking(path):
        head = file.read(_HEAD)
    if head.startswith(b"PAR1"):
        return "parquet"
    for name, extra in FORMATS.items():
        if extra.recognises(path, head):
            return name
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        raise ValueError(f"{path} is encoded in UTF-16 or UTF-32. Convert it first: iconv -t UTF-8 {path.name}")
    zero = head.find(b"\0")
    if zero >= 0:
        raise ValueError(f"{path} is not text: byte {zero} is 0. Move binary files out of the folder.")
    begin = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if begin.startswith(b"<mediawiki"):
        return "wikipedia"
    if begin.startswith(b"<doc "):
        return "extracted"
    if _JSON_OF_MANY_LINES.match(begin):
        each = ".[]" if begin.startswith(b"[") else "."
        raise ValueError(
            f"{path} is JSON, but not one object per line, which is required. Convert it: jq -c {each} {path.name}"
        )
    return "jsonl" if begin.startswith((b'{"', b"{'", b"{ ")) else textual


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
    elif form in _BY_BYTES and path.suffix not in _OPENERS and size > part_bytes:
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
        large = form in _BY_BYTES and path.suffix in _OPENERS and state.st_size * _LARGE > part_bytes
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
    """Open a file for reading, decompressed where its name ends in .gz, .dz (dictzip), .bz2 or .xz.

    Raises
    ------
    ValueError
        If its name ends in .zst, .zip, .7z or .tar.
    """
    if path.suffix in (".zst", ".zip", ".7z", ".tar", ".tgz"):
        raise ValueError(f"{path} has an unsupported compression. Unpack it first; .gz, .bz2 and .xz are supported.")
    opener = _OPENERS.get(path.suffix)
    return path.open("rb") if opener is None else opener(path, "rb")  # type: ignore[operator]


def unpacked_blocks(file: IO[bytes], path: Path, longest: int) -> Iterator[bytes]:
    """The bytes of a file in blocks of complete lines; only lines longer than `longest` bytes span several blocks.

    Parameters
    ----------
    file : binary file
    path : Path
        Of the file, for errors.
    longest : int
        Bytes.

    Raises
    ------
    ValueError
        If it is compressed and damaged.
    """
    rest = b""
    with _unpacking(path):
        while read := file.read(_BLOCK):
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
    with open_bytes(path) as packed, replacing(to) as file, _unpacking(path):
        shutil.copyfileobj(packed, file, _BLOCK)


@contextmanager
def _unpacking(path: Path) -> Iterator[None]:
    """Raise ValueError with the name of the file where decompression fails."""
    try:
        yield
    except _DAMAGED as error:
        raise ValueError(f"{path} is truncated or damaged: {error}.") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{path} is truncated or damaged: {error}.") from error  # bz2 has no class of its own
