"""Step 1 of a corpus: normalize and filter the documents of a part, and hash them for the search for duplicates.

A part gives one or more chunks of the size of a shard: ``NAME.txt`` (documents separated by empty lines),
``NAME.offsets.npy`` (where each document begins, and the end), ``NAME.hashes.npy`` (128 bits each) and
``NAME.bands.npy`` (a row per band); and last ``part-NUMBER.json``, the mark of a finished part with its counts.
"""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, AnyStr

import numpy as np
from numpy.typing import NDArray

from nip.atomic import replacing
from nip.data.corpus.files import Piece
from nip.data.corpus.minhash import band_hashes, text_hash
from nip.data.corpus.normalize import normalize, pieces
from nip.data.corpus.read import documents
from nip.data.corpus.settings import Settings
from nip.runs.folder import write_json

_BATCH = 1 << 20  # bytes of text whose MinHashes are computed at once
SEPARATOR = b"\n\n"


@dataclass
class Read:
    """Counts of a part.

    Parameters
    ----------
    chunks : int
        Written chunks.
    documents : int
        Non-empty documents that were read.
    too_short, too_long : int
        Documents dropped by length.
    characters : int
        Of the documents in the chunks.
    left_out : dict of str to int
        What gave no document, by kind.
    """

    chunks: int = 0
    documents: int = 0
    too_short: int = 0
    too_long: int = 0
    characters: int = 0
    left_out: Counter[str] = field(default_factory=Counter)


def clean_part(folder: Path, number: int, part: tuple[Piece, ...], settings: Settings) -> None:
    """Read a part and write its chunks; does nothing if the part is finished.

    Parameters
    ----------
    folder : Path
        For the chunks.
    number : int
        Number of the part.
    part : tuple of Piece
    settings : Settings

    Raises
    ------
    ValueError, OSError
        See `nip.data.corpus.read.documents`.
    """
    done = folder / f"part-{number:05}.json"
    if done.is_file():
        return
    read = Read()
    for chunk in by_size(_clean(part, settings, read), settings.shard_mb << 20):
        _write(folder / f"{number:05}-{read.chunks:05}", chunk, settings)
        read.chunks += 1
    write_json(done, vars(read), indent=1)


def parts_read(folder: Path, n_parts: int) -> list[Read]:
    """The counts of each part; all must be finished."""
    found = (json.loads((folder / f"part-{number:05}.json").read_text()) for number in range(n_parts))
    return [Read(**{**each, "left_out": Counter(each.get("left_out", {}))}) for each in found]


def chunk_names(read: list[Read]) -> list[str]:
    """The chunks of all parts, in the order of the corpus."""
    return [f"{number:05}-{chunk:05}" for number, part in enumerate(read) for chunk in range(part.chunks)]


@dataclass(frozen=True)
class Chunk:
    """The documents of a chunk, mapped into memory."""

    text: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return self.offsets.size - 1

    def document(self, i: int) -> bytes:
        """The text of one document."""
        return self.text[self.offsets[i] : self.offsets[i + 1] - len(SEPARATOR)].tobytes()


def open_chunk(folder: Path, name: str) -> Chunk:
    """Open a finished chunk."""
    text = np.memmap(folder / f"{name}.txt", np.uint8, "r")
    return Chunk(text, np.load(folder / f"{name}.offsets.npy", mmap_mode="r", allow_pickle=False))


def write_array(path: Path, values: NDArray[Any]) -> None:
    """Write an array as .npy, atomically."""
    with replacing(path) as file:
        try:
            np.save(file, values, allow_pickle=False)
        except OSError as error:
            if error.errno is not None:
                raise
            # numpy reports only the number of bytes written, which falls short when the disk is full
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


def _clean(part: tuple[Piece, ...], settings: Settings, read: Read) -> Iterator[bytes]:
    """Normalized documents of the wanted lengths; counts all documents in `read`."""
    how: dict[str, Any] = {name: getattr(settings, name) for name in ("encoding", "bad_bytes", "column")}
    for piece in part:
        before = read.documents + read.left_out.total()
        for raw in documents(piece, **how, left_out=read.left_out):
            empty = True
            for text in pieces(normalize(raw, settings.unicode_form)):
                empty = False
                read.documents += 1
                if len(text) < settings.min_chars:
                    read.too_short += 1
                elif 0 < settings.max_chars < len(text):
                    read.too_long += 1
                else:
                    read.characters += len(text)
                    yield text.encode()
            if empty and raw.strip():
                read.left_out["documents without visible characters"] += 1
        if piece.begin == 0 and piece.end < 0 and read.documents + read.left_out.total() == before:
            read.left_out["files without a document"] += 1


def by_size(texts: Iterable[AnyStr], least: int) -> Iterator[list[AnyStr]]:
    """Texts in lists of at least `least` bytes or characters each; the last list may have fewer."""
    together: list[AnyStr] = []
    filled = 0
    for text in texts:
        together.append(text)
        filled += len(text)
        if filled >= least:
            yield together
            together, filled = [], 0
    if together:
        yield together


def _write(path: Path, texts: list[bytes], settings: Settings) -> None:
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) + len(SEPARATOR) for text in texts], out=offsets[1:])
    with replacing(path.with_name(f"{path.name}.txt")) as file:
        for text in texts:
            file.write(text + SEPARATOR)
    write_array(path.with_name(f"{path.name}.offsets.npy"), offsets)
    hashes = np.frombuffer(b"".join(map(text_hash, texts)), "<u8").reshape(-1, 2)
    write_array(path.with_name(f"{path.name}.hashes.npy"), hashes)
    if settings.near_duplicates:
        bands = [band_hashes(batch, settings.near_duplicates) for batch in by_size(texts, _BATCH)]
        write_array(path.with_name(f"{path.name}.bands.npy"), np.concatenate(bands, axis=1))
