"""The files of a corpus: which form each has, and how they are cut into parts that are read side by side.

A part is what one worker reads at a time, and what is not read again once it is finished: a range of a large file, or
several small files. Which worker reads it changes nothing.
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
from nip.data.offline.corpora import HEADER

# What is read, by name: documents parted by empty lines, one a line, one a file; and files of other makers.
FORMS = {
    "text": "text files, documents parted by empty lines",
    "lines": "text files, one document a line",
    "books": "text files, one document a file (BookCorpus)",
    "jsonl": "JSON lines with a column of text (WikiExtractor --json)",
    "extracted": "<doc …> … </doc> (WikiExtractor)",
    "wikipedia": "an XML dump of MediaWiki",
    "parquet": "parquet files with a column of text",
    "bible": "bible.data of Debian's bible-kjv-text",
    "brown": "a text of the Brown corpus, words with their tags",
    "hub": "the name of a set on the Hugging Face Hub",
}
TEXTUAL = ("text", "lines", "books")  # told apart by what they mean, not by what they look like
_BY_BYTES = ("text", "lines", "jsonl", "extracted", "wikipedia")  # can be read from the middle
_OPENERS = {".gz": gzip.open, ".dz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_BROWN_NAME, _TAGGED = re.compile(r"c[a-r]\d\d"), re.compile(rb"\S+/\S+\s+\S+/\S+\s")
_BLOCK = 1 << 20  # bytes that are read at once
_HEAD = 4096  # bytes by which a form is known
_LARGE = 4  # times as many bytes are in a part as in a packed file that is worth unpacking for itself, or more
_DAMAGED = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error)
# what JSON over several lines begins with: an array of objects, or an object that is indented
_JSON_OF_MANY_LINES = re.compile(rb'\[\s*\{\s*"|\{\s*\n\s*"')


@dataclass(frozen=True)
class Piece:
    """A file, or a range of one.

    Parameters
    ----------
    path : str
        Of the file; the name of a set on the hub.
    form : str
        One of `FORMS`.
    begin, end : int
        Bytes of the file, row groups of a parquet file, or shards of a set on the hub. Documents that begin in that
        range are of the piece. `end` is −1 where there is no other piece of the file.
    """

    path: str
    form: str
    begin: int = 0
    end: int = -1


def find_files(origin: Path) -> list[Path]:
    """The file itself, or all files of a folder and of the folders in it, by name; hidden ones are left out.

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
        raise ValueError(f"{origin} holds no file: there is nothing to read.")
    return sorted(files, key=lambda path: path.relative_to(origin).parts)


def find_form(path: Path, textual: str = "text") -> str:
    """The form of a file, by how it begins.

    Parameters
    ----------
    path : Path
    textual : {"text", "lines", "books"}, default="text"
        What plain text means.

    Raises
    ------
    ValueError
        If it is a binary file, encoded in UTF-16 or UTF-32, JSON that is not one object a line, or packed and damaged.
    """
    with open_bytes(path) as file, _unpacking(path):
        head = file.read(_HEAD)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(HEADER):
        return "bible"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)):
        raise ValueError(f"{path} is encoded in UTF-16 or UTF-32. Convert it first: iconv -t UTF-8 {path.name}")
    zero = head.find(b"\0")
    if zero >= 0:
        raise ValueError(f"{path} is no text: byte {zero} is 0. Move binary files out of the folder.")
    begin = head.removeprefix(codecs.BOM_UTF8).lstrip()
    if begin.startswith(b"<mediawiki"):
        return "wikipedia"
    if begin.startswith(b"<doc "):
        return "extracted"
    if _JSON_OF_MANY_LINES.match(begin):
        each = ".[]" if begin.startswith(b"[") else "."
        raise ValueError(
            f"{path} is JSON, but not one object a line, as is wanted. Convert it: jq -c {each} {path.name}"
        )
    if _BROWN_NAME.fullmatch(path.name) and _TAGGED.match(begin):
        return "brown"
    return "jsonl" if begin.startswith((b'{"', b"{'", b"{ ")) else textual


def cut(files: list[tuple[Path, str]], part_bytes: int) -> list[tuple[Piece, ...]]:
    """Parts of about `part_bytes` each: large files are cut where their form allows it, small ones are put together."""
    parts: list[tuple[Piece, ...]] = []
    small: list[Piece] = []
    filled = 0
    for path, form in files:
        for piece, size in _pieces(path, form, part_bytes):
            if small and filled + size > part_bytes:
                parts.append(tuple(small))
                small, filled = [], 0
            small.append(piece)
            filled += size
    return [*parts, tuple(small)] if small else parts


def unpack_large(files: list[tuple[Path, str]], folder: Path, part_bytes: int, run: Run) -> list[tuple[Path, str]]:
    """Unpack the packed files that would hardly fit into a part, for `cut` to cut them; others stay as they are.

    Parameters
    ----------
    files : list of (Path, str)
        Files and their forms.
    folder : Path
        Where what is unpacked goes, unless it is there from a run before.
    part_bytes : int
    run : callable
        See `nip.data.corpus.processes.runner`.

    Returns
    -------
    list of (Path, str)
        The files to be cut.

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
        # size and time: of another file of that name nothing is taken over
        unpacked = folder / f"{number:05}-{state.st_size}-{state.st_mtime_ns}-{path.stem}"
        if large:
            orders.append((path, unpacked))
        read.append((unpacked if large else path, form))
    missing = [order for order in orders if not order[1].is_file()]
    if missing:
        run(_unpack, missing)
    return read


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file to read, unpacked where its name ends in .gz, .dz (of dictionaries), .bz2 or .xz.

    Raises
    ------
    ValueError
        If its name ends in .zst, .zip, .7z or .tar.
    """
    if path.suffix in (".zst", ".zip", ".7z", ".tar", ".tgz"):
        raise ValueError(f"{path} is packed in a form that is not read. Unpack it first; .gz, .bz2 and .xz are read.")
    opener = _OPENERS.get(path.suffix)
    return path.open("rb") if opener is None else opener(path, "rb")  # type: ignore[operator]


def unpacked_blocks(file: IO[bytes], path: Path, longest: int) -> Iterator[bytes]:
    """The bytes of a file, whole lines at a time; only lines longer than `longest` bytes come in several blocks.

    Raises
    ------
    ValueError
        If it is packed and damaged.
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
    """Let what unpackers raise where a file is damaged name the file."""
    try:
        yield
    except _DAMAGED as error:
        raise ValueError(f"{path} is cut short or damaged: {error}.") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise ValueError(f"{path} is cut short or damaged: {error}.") from error  # bz2 has no class of its own


def _pieces(path: Path, form: str, part_bytes: int) -> Iterator[tuple[Piece, int]]:
    """The pieces of a file and about how many bytes each has."""
    size = path.stat().st_size
    if form == "parquet":
        yield from _row_groups(path, part_bytes)
    elif form in _BY_BYTES and path.suffix not in _OPENERS and size > part_bytes:
        for begin in range(0, size, part_bytes):
            end = min(begin + part_bytes, size)
            yield Piece(str(path), form, begin, end), end - begin
    else:
        yield Piece(str(path), form), size


def _row_groups(path: Path, part_bytes: int) -> Iterator[tuple[Piece, int]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("Reading parquet files needs pyarrow: pip install 'nip[pretrain]'") from error
    try:
        metadata = parquet.read_metadata(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is truncated or no parquet file: {error}") from error
    begin = filled = 0
    for group in range(metadata.num_row_groups):
        filled += metadata.row_group(group).total_byte_size
        if filled >= part_bytes or group + 1 == metadata.num_row_groups:
            yield Piece(str(path), "parquet", begin, group + 1), filled
            begin, filled = group + 1, 0
