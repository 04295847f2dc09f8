"""Film reviews for the text task: IMDb's folder, CSV and parquet files, and data sets of the Hugging Face Hub.

The data set has no development split. The original tests on the examples that select its checkpoint
(``--split-rule test-as-dev``); by default the last tenth of the training reviews of each class becomes dev. Reviews are
numbered film by film, so hardly any film is in both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nip.data import hub, tables
from nip.data.tasks.examples import Examples, byte_ids, chunks
from nip.data.tasks.registry import Task
from nip.data.tasks.source import Plan, Request
from nip.runs.folder import file_sha256

# from "train" or "test" to its reviews (place in the files, label, text), the same at every call
Rows = Callable[[str], Iterator[tuple[str, int, bytes]]]

SPLIT_RULES = ("carved", "test-as-dev")
_FOLDERS = {"neg": 0, "pos": 1}
_LABELS = {"0": 0, "1": 1, "neg": 0, "pos": 1, "negative": 0, "positive": 1}
_COLUMNS = (("text", "review", "sentence"), ("label", "sentiment"))
_LICENCE = "That of the files. The reviews are from IMDb (Maas et al., ACL 2011), for research."


def recognises_folder(path: Path, task: Task) -> bool:
    """Whether the folder, or ``aclImdb`` in it, has ``train/pos`` and the like."""
    return _root(path) is not None


def plan_folder(request: Request) -> Plan:
    """Read IMDb's own folder: a file per review, in ``{train,test}/{neg,pos}``."""
    root = _root(request.path) or request.path
    files = {part: {name: _reviews(root / part / name) for name in _FOLDERS} for part in ("train", "test")}

    def rows(part: str) -> Iterator[tuple[str, int, bytes]]:
        for name, label in _FOLDERS.items():
            for path in files[part][name]:
                yield str(path), label, path.read_bytes()

    found = {f"{part}/{name}": len(paths) for part, named in files.items() for name, paths in named.items()}
    digest = hashlib.sha256()
    for paths in (paths for named in files.values() for paths in named.values()):
        for path in paths:
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()} {len(content)} ".encode() + content)
    return _plan(request, "IMDb's folder", {**found, "sha256": digest.hexdigest()}, rows)


def recognises_csv(path: Path, task: Task) -> bool:
    """Whether it is a CSV file, or a folder with train.csv and test.csv."""
    return path.suffix == ".csv" if path.is_file() else (path / "train.csv").is_file()


def plan_csv(request: Request) -> Plan:
    """Read ``train.csv`` and ``test.csv`` of a folder, or one file whose halves are train and test."""
    path = request.path
    if path.is_file():
        half = sum(1 for _ in tables.csv_rows(path, _COLUMNS)) // 2
        ranges = {"train": (path, 0, half), "test": (path, half, 1 << 62)}
        halves = f" Train is the first half of the file ({half:,} reviews), test the rest."
    else:
        ranges = {part: (path / f"{part}.csv", 0, 1 << 62) for part in ("train", "test")}
        halves = ""

    def rows(part: str) -> Iterator[tuple[str, int, bytes]]:
        file, first, end = ranges[part]
        for number, (line, (text, label)) in enumerate(tables.csv_rows(file, _COLUMNS)):
            if first <= number < end:
                where = f"{file}, line {line}"
                yield where, _label(label, where), text.encode()

    return _plan(request, "CSV files", _sums([file for file, *_ in ranges.values()]), rows, halves)


def plan_parquet(request: Request) -> Plan:
    """Read parquet files with the columns text and label, as on the Hugging Face Hub."""
    files = {part: tables.parquet_files(request.path, part) for part in ("train", "test")}

    def rows(part: str) -> Iterator[tuple[str, int, bytes]]:
        for file in files[part]:
            for number, (text, label) in tables.parquet_rows(file, _COLUMNS):
                yield _row(f"{file}, row {number}", text, label)

    return _plan(request, "parquet files", _sums([*files["train"], *files["test"]]), rows)


def plan_hub(request: Request, load: hub.Load = hub.load) -> Plan:
    """Read a data set of the Hugging Face Hub with the columns text and label, such as ``stanfordnlp/imdb``."""
    name = str(request.origin)

    def rows(part: str) -> Iterator[tuple[str, int, bytes]]:
        for number, (text, label) in hub.rows(load, name, part, _COLUMNS):
            yield _row(f"{name}, {part} row {number}", text, label)

    return _plan(request, "Hugging Face Hub", {"name": name}, rows)


def _plan(request: Request, source: str, parameters: dict[str, Any], rows: Rows, halves: str = "") -> Plan:
    task, rule = request.task, request.split_rule or SPLIT_RULES[0]

    def splits() -> dict[str, Iterator[Examples]]:
        kept = {"train": lambda: rows("train"), "dev": lambda: rows("test"), "test": lambda: rows("test")}
        if rule == "carved":
            carved = _last_tenths(rows("train"))
            kept["train"] = lambda: _chosen(rows("train"), carved, wanted=False)
            kept["dev"] = lambda: _chosen(rows("train"), carved, wanted=True)
        return {split: _examples(task, split, taken) for split, taken in kept.items()}

    says = {
        "carved": "The last tenth of the training reviews of each class is dev, the rest train; test is test.",
        "test-as-dev": "As in Long Range Arena: dev is the test part again, so that test examples choose the weights.",
    }
    parameters = {**parameters, "split_rule": rule}
    return Plan(
        {"source": source, "parameters": parameters, "split_rule": says[rule] + halves, "licence": _LICENCE}, splits
    )


def _examples(task: Task, split: str, rows: Callable[[], Iterator[tuple[str, int, bytes]]]) -> Iterator[Examples]:
    return chunks(task, split, ((label, [byte_ids(text, task)]) for _, label, text in rows()))


def _last_tenths(rows: Iterator[tuple[str, int, bytes]]) -> set[int]:
    """The numbers of the rows in the last tenth of their class."""
    by_label: dict[int, list[int]] = {0: [], 1: []}
    for number, (_, label, _) in enumerate(rows):
        by_label[label].append(number)
    return {number for numbers in by_label.values() for number in numbers[len(numbers) - len(numbers) // 10 :]}


def _chosen(
    rows: Iterator[tuple[str, int, bytes]], numbers: set[int], *, wanted: bool
) -> Iterator[tuple[str, int, bytes]]:
    return (row for number, row in enumerate(rows) if (number in numbers) == wanted)


def _row(where: str, text: Any, label: Any) -> tuple[str, int, bytes]:
    if not isinstance(text, str):
        raise ValueError(f"{where}: there must be a text. Got {type(text).__name__} instead.")
    return where, _label(label, where), text.encode()


def _label(label: Any, where: str) -> int:
    found = _LABELS.get(str(label).strip().lower())
    if found is None:
        raise ValueError(f"{where}: the label must be 0 or 1 (neg or pos). Got {str(label)[:40]!r} instead.")
    return found


def _reviews(folder: Path) -> list[Path]:
    """The reviews of a folder, named ``<number>_<rating>.txt``, sorted by number."""
    paths = list(folder.glob("*.txt"))
    if not paths:
        raise FileNotFoundError(
            f"There is no review in {folder}: IMDb's folder has train/neg, train/pos, test/neg, test/pos."
        )
    return sorted(paths, key=lambda path: (_number(path), path.name))


def _number(path: Path) -> int:
    digits = path.stem.partition("_")[0]
    return int(digits) if digits.isascii() and digits.isdigit() else 0


def _sums(files: list[Path]) -> dict[str, str]:
    return {file.name: file_sha256(file) for file in dict.fromkeys(files)}


def _root(path: Path) -> Path | None:
    for root in (path, path / "aclImdb"):
        if any((root / part / name).is_dir() for part in ("train", "test") for name in _FOLDERS):
            return root
    return None
