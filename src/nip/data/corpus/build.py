"""Build a corpus: read and clean (`clean`), remove duplicates and split (`dedup`), tokenize (`shards`).

Every step works on parts. A finished part is not done again, so the same command resumes a killed run; the bytes of the
corpus depend neither on interruptions nor on the number of processes. Intermediate files are in ``<folder>/work``; the
manifest is written last.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from nip.atomic import replacing
from nip.data import hub
from nip.data.corpus.clean import Read, chunk_names, clean_part, open_chunk, parts_read, write_array
from nip.data.corpus.corpus import FORMAT, KIND, RULES, read_manifest
from nip.data.corpus.dedup import Fate, fates
from nip.data.corpus.files import Piece, counted, cut, find_files, find_form, search, unpack_large
from nip.data.corpus.original_samples import OriginalSamples, find_samples, write_shards
from nip.data.corpus.processes import Progress, Run, check_jobs, runner
from nip.data.corpus.settings import Settings
from nip.data.corpus.shards import FATES, SPLITS, TOKENIZER, kept, shard_chunk
from nip.data.corpus.tokenizer import (
    TRAINED_ON,
    existing_tokenizer,
    is_saved,
    load_tokenizer,
    save_tokenizer,
    train_wordpiece,
    wordpiece_config,
)
from nip.data.tasks.storage import MANIFEST
from nip.ownership import LOCK, OwnedFolder, removed_on_error
from nip.runs.folder import check_same_run, file_sha256, locked, read_json, write_json

PLAN, WORK, TEXT = "plan.json", "work", "text"
UNPACKED = ".unpacked"  # hidden, like the lock: both exist before the plan


def build_corpus(
    origin: str,
    out: Path,
    settings: Settings,
    *,
    jobs: int = 1,
    licence: str = "as the source says",
    keep_text: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> bool:
    """Build a corpus, resume an interrupted build, or do nothing if the same corpus exists.

    Parameters
    ----------
    origin : str
        A file, a folder, or the name of a data set on the Hugging Face Hub, ``NAME:CONFIG`` if it has several
        configurations. The original's samples are taken as they are, see `nip.data.corpus.original_samples`.
    out : Path
        The folder of the corpus; a new one, or one that an interrupted call left.
    settings : Settings
    jobs : int, default=1
        Number of processes; −1 is one per processor. They are joblib's, so ``joblib.parallel_config`` may select a
        cluster.
    licence : str
        A note on the texts' licence for the manifest.
    keep_text : bool, default=False
        Keep the cleaned documents without duplicates as text files in ``<out>/text``.
    overwrite : bool, default=False
        Replace an existing corpus, finished or not.
    progress : callable, optional
        Called with the name of a step, the number of its finished parts, and of all.

    Returns
    -------
    bool
        False if the corpus existed.

    Raises
    ------
    ValueError
        If the folder contains something else or another corpus; if the source is empty, damaged, changed since the
        build began, or has no document that is kept; if the tokenizer lacks a special token.
    OSError
        If the source does not exist, or the disk is full. Finished parts stay.
    """
    check_jobs(jobs)
    out = Path(out).expanduser()
    samples = find_samples(Path(origin).expanduser())
    if samples is not None:
        settings = samples.settings(settings)
    asked = {"source": origin, "licence": licence, "settings": asdict(settings)}
    source = Path(origin).expanduser().resolve()
    if source == out.resolve() or source in out.resolve().parents:
        raise ValueError(f"{out} is in {origin}, which is the input. Choose another folder with --output-dir.")
    own = corpus_folder(out)
    own.check(mend="Choose another folder with --output-dir.")
    with removed_on_error(out, {LOCK}), locked(out / LOCK):
        own.check(mend="Choose another folder with --output-dir.")
        own.delete_leftovers()
        if overwrite:
            _empty(out)
        if (out / MANIFEST).is_file():
            manifest = read_manifest(out)
            _require_same(out, {key: manifest[key] for key in asked}, asked)
            _require_unchanged(out, origin, manifest.get("source_files"))
            if keep_text and not (out / TEXT).is_dir():
                raise ValueError(f"{out} was made without --keep-text. --overwrite makes it again.")
            _clear(out)  # an earlier run may have been killed right before this
            return False
        try:
            if samples is not None:
                _convert(origin, out, settings, asked, samples)
            else:
                _make(origin, out, settings, asked, jobs, keep_text, progress)
        except OSError as error:
            if error.filename is None and error.errno is not None:  # as from a full disk
                raise OSError(error.errno, f"could not be written: {error.strerror}", str(out)) from error
            raise
    return True


def _make(
    origin: str,
    out: Path,
    settings: Settings,
    asked: dict[str, Any],
    jobs: int,
    keep_text: bool,
    progress: Progress | None,
) -> None:
    work = out / WORK
    files = _source_files(origin)
    run = runner(jobs)
    parts = _planned(origin, out, settings, asked, run("unpacking", progress))
    corpus_folder(out).delete_leftovers()  # those of an earlier start, before the plan made the folder the corpus's
    work.mkdir(exist_ok=True)
    if settings.tokenizer is not None:  # first, so that a wrong name does not cost hours
        _prepare_tokenizer(out, settings, None)
    run("reading", progress)(clean_part, [(work, number, part, settings) for number, part in enumerate(parts)])
    read = parts_read(work, len(parts))
    names = chunk_names(read)
    if not names:
        raise ValueError(f"{origin} contains no document that is kept: {_counted(read)}.")
    begins = np.concatenate([[0], np.cumsum([len(open_chunk(work, name)) for name in names])])
    if not (work / FATES).is_file():
        in_test = None
        if settings.split_by_name:
            of_parts = [not any("train" in Path(piece.path).name for piece in part) for part in parts]
            in_test = [of_parts[int(name.split("-")[0])] for name in names]
        write_array(work / FATES, fates(work, names, settings, run("comparing", progress), in_test))
    found = np.load(work / FATES, allow_pickle=False)
    if not (found == Fate.TRAIN).any():
        raise ValueError(f"{origin} contains no document for the train split: {_counted(read)}.")
    _prepare_tokenizer(out, settings, lambda: _train_texts(work, names, begins, found, read))
    spans = zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True)
    tasks = [(out, work, k, name, *span, settings) for k, (name, span) in enumerate(zip(names, spans, strict=True))]
    run("tokenizing", progress)(shard_chunk, tasks)
    if keep_text:
        _keep_text(out, names, begins, found)
    manifest = _manifest(out, asked, read, found, len(names))
    write_json(out / MANIFEST, {**manifest, "source_files": files}, indent=1)
    _clear(out)


def _convert(origin: str, out: Path, settings: Settings, asked: dict[str, Any], samples: OriginalSamples) -> None:
    """Make a corpus of the original's samples; a stopped conversion begins again."""
    source = _source_files(origin)
    states = [(file, file.stat()) for files in samples.files.values() for file in files]
    files = [[str(file), state.st_size, state.st_mtime_ns] for file, state in states]
    if _begun(out, asked, files) is None:
        write_json(out / PLAN, {"kind": KIND, "asked": asked, "rules": RULES, "files": files, "parts": []}, indent=1)
    corpus_folder(out).delete_leftovers()
    _prepare_tokenizer(out, settings, None)
    shards: dict[str, list[dict[str, Any]]] = {split: [] for split in samples.files}
    for split, entry in write_shards(out, out / TOKENIZER, samples):
        shards[split].append(entry)
    read = sum(entry["samples"] for entries in shards.values() for entry in entries)
    manifest = {
        "format": FORMAT,
        "rules": RULES,
        "kind": KIND,
        **asked,
        "documents": {"read": read, **dict.fromkeys(("too_short", "too_long", "equal", "similar"), 0)},
        "tokenizer": _tokenizer_entry(out),
        "splits": {split: {**_totals(entries), "shards": entries} for split, entries in shards.items()},
        "source_files": source,
    }
    write_json(out / MANIFEST, manifest, indent=1)
    _clear(out)


def _totals(shards: list[dict[str, Any]]) -> dict[str, int]:
    return {key: sum(shard[key] for shard in shards) for key in shards[0] if key not in ("name", "files")}


def _tokenizer_entry(out: Path) -> dict[str, Any]:
    """What the manifest says of the tokenizer."""
    _, vocabulary = load_tokenizer(out / TOKENIZER)
    files = sorted(path for path in (out / TOKENIZER).iterdir() if path.is_file())
    return {"vocabulary": asdict(vocabulary), "sha256": {path.name: file_sha256(path) for path in files}}


def _clear(out: Path) -> None:
    """Remove the intermediate files."""
    corpus_folder(out).delete([WORK, UNPACKED, PLAN])


def _planned(origin: str, out: Path, settings: Settings, asked: dict[str, Any], run: Run) -> list[tuple[Piece, ...]]:
    """The parts as planned when the build began; raises ValueError if the input files changed since."""
    path = Path(origin).expanduser()
    streamed = not path.exists() and hub.is_name(origin.partition(hub.CONFIG)[0])
    found = [] if streamed else find_files(path)
    inside = out.resolve()
    within = next((file for file in found if inside in file.resolve().parents), None)
    if within is not None:  # reached by a link
        raise ValueError(
            f"{out} is in {origin}, which is the input: {within}. Choose another folder with --output-dir."
        )
    files = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in found]
    before = _begun(out, asked, files)  # first: unpacking takes long
    if streamed:
        parts: list[tuple[Piece, ...]] = [
            (Piece(origin, "hub", shard),) for shard in range(hub.number_of_shards(origin))
        ]
    else:
        part_bytes = settings.shard_mb << 20
        formed = [(file, find_form(file, settings.form, bad_bytes=settings.bad_bytes)) for file in found]
        parts = cut(unpack_large(formed, out / UNPACKED, part_bytes, run), part_bytes)
        if settings.split_by_name:  # every part belongs to one split
            parts = [(piece,) for part in parts for piece in part]
    planned = [[asdict(piece) for piece in part] for part in parts]
    if before is None:
        write_json(
            out / PLAN, {"kind": KIND, "asked": asked, "rules": RULES, "files": files, "parts": planned}, indent=1
        )
    elif before != planned:
        raise _changed(origin, out)
    return parts


def _begun(out: Path, asked: dict[str, Any], files: list[list[Any]]) -> list[Any] | None:
    """The plan's parts if the same call began to build the corpus from the same files; None if there is no plan."""
    begun = out / PLAN
    if not begun.is_file():
        return None
    try:
        before = json.loads(begun.read_text("utf-8"))
        _require_same(out, before["asked"], asked)
        changed = [name for name, *_ in [each for each in files if each not in before["files"]]]
        parts: list[Any] = before["parts"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{begun} is damaged. Start again with --overwrite.") from error
    if changed:
        raise _changed(changed[0], out)
    if before.get("rules") != RULES:
        raise ValueError(
            f"The build of {out} was begun by another version of nip, which reads text by other rules. "
            "Start again with --overwrite."
        )
    return parts


def _changed(what: str, out: Path) -> ValueError:
    return ValueError(f"{what} has changed since the build of {out} began. Start again with --overwrite.")


def _prepare_tokenizer(out: Path, settings: Settings, texts: Callable[[], Iterator[str]] | None) -> None:
    folder = out / TOKENIZER
    if is_saved(folder):
        return
    if settings.tokenizer is not None:
        tokenizer, config = existing_tokenizer(settings.tokenizer, lower_case=settings.lower_case)
    elif texts is not None:
        tokenizer = train_wordpiece(texts, settings.train_tokenizer, lower_case=settings.lower_case)
        config = wordpiece_config(settings.lower_case)
    save_tokenizer(tokenizer, config, folder)


def _train_texts(work: Path, names: list[str], begins: Any, found: Any, read: list[Read]) -> Iterator[str]:
    """Documents of the train split to train a tokenizer on; every n-th of each batch where there are too many."""
    step = -(-sum(part.characters for part in read) // TRAINED_ON)
    for k, name in enumerate(names):
        for batch in kept(open_chunk(work, name), found[begins[k] : begins[k + 1]], Fate.TRAIN):
            yield from batch[::step]


def _keep_text(out: Path, names: list[str], begins: Any, found: Any) -> None:
    (out / TEXT).mkdir(exist_ok=True)
    for k, name in enumerate(names):
        for split, fate in SPLITS.items():
            path = out / TEXT / f"{split}-{k:05}.txt"
            with replacing(path) as file:
                for batch in kept(open_chunk(out / WORK, name), found[begins[k] : begins[k + 1]], fate):
                    file.write("".join(f"{text}\n\n" for text in batch).encode())


def _manifest(out: Path, asked: dict[str, Any], read: list[Read], found: Any, n_chunks: int) -> dict[str, Any]:
    made = [json.loads((out / WORK / f"shard-{k:05}.json").read_text("utf-8")) for k in range(n_chunks)]
    splits = {}
    for split in SPLITS:
        shards = [each[split] for each in made if split in each]
        if shards:
            splits[split] = {**_totals(shards), "shards": shards}
    if "train" not in splits:
        raise ValueError(f"{asked['source']} contains no text for the train split: {_counted(read)}.")
    return {
        "format": FORMAT,
        "rules": RULES,
        "kind": KIND,
        **asked,
        "documents": {
            "read": sum(part.documents for part in read),
            "too_short": sum(part.too_short for part in read),
            "too_long": sum(part.too_long for part in read),
            "equal": int((found == Fate.EQUAL).sum()),
            "similar": int((found == Fate.SIMILAR).sum()),
            "left_out": dict(sum((part.left_out for part in read), _left_out_files(asked["source"]))),
        },
        "characters": sum(part.characters for part in read),
        "tokenizer": _tokenizer_entry(out),
        "splits": splits,
    }


def _counted(read: list[Read]) -> str:
    total = sum(part.documents for part in read)
    left_out = counted(sum((part.left_out for part in read), Counter()))
    return (
        f"{total} documents were read, {sum(part.too_short for part in read)} were too short "
        f"and {sum(part.too_long for part in read)} too long{left_out and f'; left out: {left_out}'}"
    )


def _left_out_files(origin: str) -> Counter[str]:
    path = Path(origin).expanduser()
    return search(path).left_out if path.is_dir() else Counter()


def _source_files(origin: str) -> dict[str, Any] | None:
    """Number and total size of the input files and a checksum of their names and sizes; None if there are none."""
    path = Path(origin).expanduser()
    if not path.exists():
        return None
    try:
        sizes = [(file.relative_to(path).as_posix(), file.stat().st_size) for file in find_files(path)]
    except ValueError:
        return None
    named = hashlib.sha256(json.dumps(sizes).encode()).hexdigest()
    return {"files": len(sizes), "bytes": sum(size for _, size in sizes), "sha256": named}


def _require_unchanged(out: Path, origin: str, before: dict[str, Any] | None) -> None:
    """Raise ValueError if the source's files differ from those the corpus was made of; they may also be gone."""
    now = _source_files(origin)
    if before is None or now is None or before == now:
        return
    then, here = (f"{each['files']:,} file(s) of {each['bytes']:,} bytes" for each in (before, now))
    raise ValueError(
        f"{origin} has changed since {out} was made: {then} then, {here} now. --overwrite makes the corpus again."
    )


def corpus_folder(path: Path) -> OwnedFolder:
    """The folder of a corpus, finished or not, for what may be deleted in it."""
    chunk = "[0-9][0-9][0-9][0-9][0-9]-[0-9][0-9][0-9][0-9][0-9]"
    shards = [f"{split}-[0-9][0-9][0-9][0-9][0-9]" for split in SPLITS]
    work = ("part-*.json", "shard-*.json", FATES, *(f"{chunk}.{end}" for end in ("txt", "*.npy")))
    names = (
        *(f"{shard}.*.npy" for shard in shards),
        *(f"{TEXT}/{shard}.txt" for shard in shards),
        *(f"{TOKENIZER}/{name}" for name in ("tokenizer.json", "tokenizer_config.json")),
        *(f"{WORK}/{name}" for name in work),
        f"{UNPACKED}/[0-9][0-9][0-9][0-9][0-9]-*",
        *(LOCK, MANIFEST, PLAN),
    )
    return OwnedFolder(path, "corpus", names, is_corpus, early=(UNPACKED,))


def is_corpus(path: Path) -> bool:
    """Whether a folder is that of a corpus, from its manifest, or the plan of one that is not finished."""
    for name, earlier in ((MANIFEST, {"kind"}), (PLAN, {"asked", "files", "parts"})):
        try:
            found = read_json(path / name)
        except (OSError, ValueError):
            continue
        if found.get("kind", KIND) == KIND and ("kind" in found or earlier <= set(found)):
            return True
    return False


def _empty(out: Path) -> None:
    """Delete all files of a corpus but the lock.

    An empty plan stays until everything else is gone, so that the remains after a kill are recognized as a corpus, but
    not resumed.
    """
    own = corpus_folder(out)
    if own.ours():
        write_json(out / PLAN, {"kind": KIND})
        own.delete([MANIFEST])  # from here on the corpus is not finished
        own.delete([name for name in own.names if name not in (LOCK, PLAN)])
        own.delete([PLAN])


def _require_same(out: Path, there: dict[str, Any], asked: dict[str, Any]) -> None:
    flat = [{**each, **each["settings"]} for each in (there, json.loads(json.dumps(asked)))]
    there, asked = ({key: each.get(key) for key in flat[1] if key != "settings"} for each in flat)
    mend = "--overwrite replaces it, --output-dir names another folder."
    check_same_run(out, there, asked, what="corpus", mend=mend)
