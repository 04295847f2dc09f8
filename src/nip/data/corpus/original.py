"""The original's text preprocessing: one article per line, then shards of sentences, then fewer shards.

`nip.data.corpus.build` does not need it; it serves users of the original's scripts and their files.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Literal

from nip.atomic import replacing
from nip.data.corpus.files import Piece, cut, find_files, find_form, unpack_large
from nip.data.corpus.minhash import text_hash
from nip.data.corpus.normalize import normalize, sentences
from nip.data.corpus.processes import check_jobs, runner
from nip.data.corpus.read import documents
from nip.ownership import MARKER, move_into
from nip.runs.folder import read_json, write_json

OWN_FILES = ".nip-texts.json"  # names of the files that these commands wrote; hidden, since all others are shards
_PART = 32 << 20  # bytes per task
_BUFFER = 1 << 18  # characters of a shard that are kept in memory


def one_article_per_line(origin: Path, out: Path, kind: Literal["wiki", "bookcorpus"], *, jobs: int = 1) -> Path:
    """Write all articles or books to one file, one per line.

    Parameters
    ----------
    origin : Path
        A dump of Wikipedia or the output of WikiExtractor; or a folder with one book per file.
    out : Path
        The folder for ``<kind>_one_article_per_line.txt``.
    kind : {"wiki", "bookcorpus"}
    jobs : int, default=1
        Number of processes.

    Returns
    -------
    Path
        The written file.

    Raises
    ------
    ValueError
        If a file is damaged or has another format, or there is no article, or a file of this name that these commands
        did not write is in `out`.
    """
    check_jobs(jobs)
    files = [(file, find_form(file, "books")) for file in find_files(origin)]
    if kind == "wiki":
        strange = [file for file, form in files if form == "books"]
        if strange:
            raise ValueError(f"{strange[0]} is neither a dump of Wikipedia nor output of WikiExtractor.")
    path = out / f"{kind}_one_article_per_line.txt"
    owned = _own(out, [path.name])
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".", suffix=MARKER) as work:
        run = runner(jobs)("reading", None)
        parts = cut(unpack_large(files, Path(work), _PART, run), _PART)
        pieces = [Path(work) / f"{number}.txt" for number in range(len(parts))]
        run(_write_lines, list(zip(parts, pieces, strict=True)))
        if not any(piece.stat().st_size for piece in pieces):
            raise ValueError(f"{origin} contains no article.")
        write_json(out / OWN_FILES, {"owned": owned})
        with replacing(path) as file:
            for piece in pieces:
                with piece.open("rb") as lines:
                    shutil.copyfileobj(lines, file)
    return path


def shard_text(folder: Path, out: Path, *, train: int, test: int, frac_test: float) -> dict[str, int]:
    """Distribute articles over shards: one sentence per line, an empty line after each article.

    Parameters
    ----------
    folder : Path
        With files of one article per line, ``*.txt``.
    out : Path
        The folder for ``training0.txt`` … and ``test0.txt`` ….
    train, test : int
        Number of training and of test shards.
    frac_test : float
        Share of articles in the test shards, in (0, 1). A hash of the article decides.

    Returns
    -------
    dict of str to int
        Number of articles in the ``training`` and the ``test`` shards.

    Raises
    ------
    ValueError
        If there are too few articles to fill every shard, a number is out of range, or files of these names that
        these commands did not write are in `out`.
    """
    if train < 1 or test < 1:
        raise ValueError(f"There must be at least one train and one test shard. Got {train} and {test} instead.")
    if not 0 < frac_test < 1:
        raise ValueError(f"--frac_test must be above 0 and below 1. Got {frac_test} instead.")
    files = [file for file in find_files(folder) if file.suffix == ".txt"]
    names = [f"training{k}.txt" for k in range(train)] + [f"test{k}.txt" for k in range(test)]
    buffers = dict.fromkeys(names, "")
    counts = dict.fromkeys(names, 0)
    owned = _own(out, names)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".", suffix=MARKER) as folder_of_work:
        work = Path(folder_of_work)

        def flush(name: str) -> None:
            with (work / name).open("a", encoding="utf-8") as file:
                file.write(buffers[name])
            buffers[name] = ""

        for file in files:
            for text in _articles((Piece(str(file), "lines"),)):
                digest = text_hash(text.encode())
                which, share = (int.from_bytes(half, "little") for half in (digest[:8], digest[8:]))
                in_test = share < frac_test * 2.0**64
                name = f"test{which % test}.txt" if in_test else f"training{which % train}.txt"
                counts[name] += 1
                buffers[name] += "\n".join(sentences(text)) + "\n\n"
                if len(buffers[name]) > _BUFFER:
                    flush(name)
        empty = [name for name in names if not counts[name]]
        if empty:
            raise ValueError(f"{folder} has too few articles for {train} + {test} shards: {len(empty)} would be empty.")
        for name in names:
            flush(name)
        write_json(out / OWN_FILES, {"owned": owned})
        for name in names:
            move_into(work / name, out / name)
    return {kind: sum(n for name, n in counts.items() if name.startswith(kind)) for kind in ("training", "test")}


def merge_shards(folder: Path, out: Path, *, ratio: int, grep: str = "") -> int:
    """Concatenate text shards.

    Parameters
    ----------
    folder : Path
        With the shards, ``*.txt``.
    out : Path
        The folder for ``shard_0.txt`` …, or ``<grep>_shard_0.txt`` ….
    ratio : int
        Number of shards per new shard.
    grep : str, default=""
        Only shards with this in their name.

    Returns
    -------
    int
        Number of new shards.

    Raises
    ------
    ValueError
        If the number of shards is not a multiple of `ratio`, or files of the new names that these commands did not
        write are in `out`.
    """
    files = [file for file in folder.iterdir() if file.is_file() and file.suffix == ".txt" and grep in file.name]
    files.sort(key=lambda file: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)])
    if ratio < 1 or not files or len(files) % ratio:
        raise ValueError(f"{folder} has {len(files)} shards; they cannot be merged {ratio} at a time.")
    names = [f"{grep}{'_' if grep else ''}shard_{k}.txt" for k in range(len(files) // ratio)]
    owned = _own(out, names)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / OWN_FILES, {"owned": owned})
    for k, name in enumerate(names):
        with replacing(out / name) as file:
            for shard in files[k * ratio : (k + 1) * ratio]:
                with shard.open("rb") as lines:
                    shutil.copyfileobj(lines, file)
    return len(files) // ratio


def _own(out: Path, names: Collection[str]) -> list[str]:
    """The names of the files in a folder that these commands write: earlier ones, and those given.

    Raises
    ------
    ValueError
        If a file of one of the names is another's.
    """
    owned = set(read_json(out / OWN_FILES).get("owned", ())) if (out / OWN_FILES).is_file() else set()
    for name in names:
        if (out / name).exists() and name not in owned:
            raise ValueError(
                f"{out / name} exists, and {OWN_FILES} in its folder does not say that nip wrote it. Nothing was "
                "changed: name another folder, or remove the file."
            )
    return sorted(owned.union(names))


def _articles(part: tuple[Piece, ...]) -> Iterator[str]:
    for piece in part:
        for raw in documents(piece):
            text = normalize(raw)
            if text:
                yield text


def _write_lines(part: tuple[Piece, ...], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(" ".join(text.split("\n")) + "\n" for text in _articles(part))
