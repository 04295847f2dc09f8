"""Two text corpora that need no download: the King James Version of Debian's package, and the Brown corpus.

``bible.data`` is packed by Unix's `compress` (LZW [1]_), which Python's library cannot unpack: see `decompress`.

References
----------
.. [1] T. A. Welch, *A technique for high-performance data compression*, Computer 17(6), 1984.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

BIBLE = Path("/usr/lib/bible.data")  # of Debian's package
# the books of at least 90,000 bytes, abbreviated as in the file
BOOKS = (
    *("Ge", "Exo", "Lev", "Num", "Deu", "Josh", "Jdgs", "1Sm", "2Sm", "1Ki", "2Ki", "1Chr", "2Chr", "Job", "Psa"),
    *("Isa", "Jer", "Eze", "Mat", "Luke", "John", "Acts"),
)
# in the order of the second letter of the Brown corpus's file names: a … h, j … n, p, r
GENRES = (
    *("news", "editorial", "reviews", "religion", "hobbies", "lore", "belles lettres", "government", "learned"),
    *("fiction", "mystery", "science fiction", "adventure", "romance", "humor"),
)
_HEADER = b"EC02Compressed Data File"
_VERSE = re.compile(rb"(\d?[A-Za-z]+)(\d+):\d+ (.*)")
_MAGIC = b"\x1f\x9d"  # of .Z files
_CLEAR = 256  # the code that resets the table, in block mode
_LETTERS = "abcdefghjklmnpr"  # of the genres, in file names of the Brown corpus
_BROWN_NAME = re.compile(rf"c([{_LETTERS}])\d\d")
_TAGGED = re.compile(rb"(?:\xef\xbb\xbf)?\s*[^\s<\[]\S*/\S+\s+\S+/\S+\s")  # words with tags, not markup or JSON


@dataclass(frozen=True)
class Text:
    """One text of a corpus.

    Parameters
    ----------
    name : str
        Of the book or file.
    label : int
        Its class.
    content : bytes
    """

    name: str
    label: int
    content: bytes


def read_bible(path: Path) -> list[Text]:
    """The books of `BOOKS`, without chapter and verse numbers.

    Raises
    ------
    ValueError
        If the file is damaged, cut short, or lacks a book.
    """
    books: dict[str, list[bytes]] = {}
    for (book, _), verses in read_chapters(path).items():
        books.setdefault(book, []).extend(verses)
    missing = [book for book in BOOKS if book not in books]
    if missing:
        raise ValueError(f"{path} has no verse of {', '.join(missing)}.")
    return [Text(book, label, b" ".join(books[book])) for label, book in enumerate(BOOKS)]


def read_chapters(path: Path) -> dict[tuple[str, int], list[bytes]]:
    """The verses of every chapter, without their numbers, in the order of the file.

    Parameters
    ----------
    path : Path
        ``bible.data``: a header, the offset of each window and of the end, and windows of one size packed by compress.

    Returns
    -------
    dict of (str, int) to list of bytes
        Verses by book and chapter.

    Raises
    ------
    ValueError
        If the file is damaged or truncated.
    """
    data = Path(path).read_bytes()
    if not data.startswith(_HEADER):
        raise ValueError(f"{path} is not bible.data: it does not begin with {_HEADER.decode()!r}.")
    try:
        window, n_windows = struct.unpack_from(">2I", data, 0x54)
        start = 0x5C + 4 * (n_windows + 1)
        (end,) = struct.unpack_from(">I", data, start - 4)
    except struct.error as error:
        raise ValueError(f"{path} is truncated.") from error
    if end != len(data) or data[start : start + 2] != _MAGIC:
        raise ValueError(f"{path} is truncated or damaged: its table ends at {end} and the file at {len(data)}.")
    try:
        content = decompress(data[start:], limit=n_windows * window)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    if len(content) <= (n_windows - 1) * window:
        raise ValueError(f"{path} is damaged: it has {len(content)} bytes, which do not fill {n_windows} windows.")
    chapters: dict[tuple[str, int], list[bytes]] = {}
    for number, line in enumerate(content.splitlines()[1:], start=2):
        found = _VERSE.fullmatch(line)
        if found:
            chapters.setdefault((found[1].decode(), int(found[2])), []).append(found[3])
        elif line:
            raise ValueError(f"{path}, line {number} of the text: {line[:40]!r} is not a verse.")
    return chapters


def bible_file(path: Path) -> Path:
    """The file, given by itself or by its folder."""
    return path / "bible.data" if path.is_dir() else path


def recognises_bible(path: Path, task: object) -> bool:
    """Whether the file, or ``bible.data`` in the folder, begins as ``bible.data`` does."""
    return bible_file(path).is_file() and bible_file(path).open("rb").read(len(_HEADER)) == _HEADER


def decompress(data: bytes, limit: int) -> bytes:
    """Unpack a .Z file.

    Parameters
    ----------
    data : bytes
        Content of the file.
    limit : int
        Maximum size of the result in bytes.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If it is not such a file, damaged, or unpacks to more than `limit`.

    Notes
    -----
    O(n) for n bytes of output. A truncated file is unpacked up to its end: the format has no length or checksum.

    Examples
    --------
    >>> decompress(bytes.fromhex("1f9d9061c4041c08"), 100)
    b'abababa'
    """
    if data[:2] != _MAGIC or len(data) < 3 or not 9 <= data[2] & 31 <= 16:
        raise ValueError("it is not packed by Unix's compress")
    widest, block = data[2] & 31, bool(data[2] & 128)
    singles = [bytes([i]) for i in range(256)] + ([b""] if block else [])
    known = singles.copy()
    out: list[bytes] = []
    size = 0
    before = b""
    width, place = 9, 3
    while place < len(data):
        # codes come in groups of eight, so that a group is a number of bytes; a new width or a reset begins a new group
        group = data[place : place + width]
        place += width
        bits = int.from_bytes(group, "little")
        for _ in range(8 * len(group) // width):
            code = bits & ((1 << width) - 1)
            bits >>= width
            if block and code == _CLEAR:
                known, before, width = singles.copy(), b"", 9
                break
            if code < len(known):
                piece = known[code]
            elif code == len(known) and before:
                piece = before + before[:1]
            else:
                raise ValueError("it has an undefined code")
            out.append(piece)
            size += len(piece)
            if size > limit:
                raise ValueError(f"it unpacks to more than {limit} bytes")
            if before and len(known) < 1 << widest:
                known.append(before + piece[:1])
            before = piece
            if len(known) == 1 << width and width < widest:
                width += 1
                break
    return b"".join(out)


def read_brown(folder: Path) -> list[Text]:
    """The texts of the Brown corpus, words without their tags.

    Parameters
    ----------
    folder : Path
        With the files ``ca01`` … ``cr09``: words with tags (``The/at Fulton/np-tl``), separated by white space.

    Raises
    ------
    ValueError
        If a word has no tag, or a genre has fewer than three texts, one for each split.
    """
    texts = [Text(path.name, _LETTERS.index(path.name[1]), untagged(path)) for path in brown_files(folder)]
    for label, genre in enumerate(GENRES):
        n = sum(text.label == label for text in texts)
        if n < 3:
            raise ValueError(f"{folder} has {n} texts of the genre {genre}; three are needed, one for each split.")
    return texts


def untagged(path: Path) -> bytes:
    """The words of a text of the Brown corpus.

    Raises
    ------
    ValueError
        If a word has no tag.
    """
    words = []
    for word in path.read_bytes().split():
        spelled, slash, tag = word.rpartition(b"/")
        if not (spelled and slash and tag):
            raise ValueError(f"{path} is not a text of the Brown corpus: {word[:40]!r} has no tag.")
        words.append(spelled)
    return b" ".join(words)


def brown_files(folder: Path) -> list[Path]:
    """The files of a folder that are named as in the Brown corpus, in order."""
    return sorted(path for path in Path(folder).iterdir() if _BROWN_NAME.fullmatch(path.name) and path.is_file())


def recognises_brown(path: Path, task: object) -> bool:
    """Whether the folder has a text of the Brown corpus."""
    return path.is_dir() and bool(brown_files(path))


def checksum_of(paths: list[Path]) -> str:
    """SHA-256 of several files and their names, in hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class FileFormat:
    """A file format that `nip.data.corpus` reads in addition to its own.

    Parameters
    ----------
    description : str
    recognises : callable
        Whether a file of this path and these first bytes has the format.
    documents : callable
        The documents of a file.
    """

    description: str
    recognises: Callable[[Path, bytes], bool]
    documents: Callable[[Path], Iterable[str]]


FORMATS = {
    "bible": FileFormat(
        "bible.data of Debian's bible-kjv-text",
        lambda path, head: head.startswith(_HEADER),
        lambda path: (text.content.decode("latin-1") for text in read_bible(path)),
    ),
    "brown": FileFormat(
        "a text of the Brown corpus, words with their tags",
        lambda path, head: bool(b"\0" not in head and _BROWN_NAME.fullmatch(path.name) and _TAGGED.match(head)),
        lambda path: [untagged(path).decode("latin-1")],
    ),
}
