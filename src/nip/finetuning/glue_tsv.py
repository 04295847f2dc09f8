"""The official files of GLUE, as its archive holds them, read as Datasets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nip.finetuning.glue_tasks import GlueTask

UNKNOWN = -1
MRPC_OLD = {"train": "msr_paraphrase_train.txt", "test": "msr_paraphrase_test.txt"}
MRPC_DEV_IDS = ("dev_ids.tsv", "mrpc_dev_ids.tsv")
AX_FILES = ("AX.tsv", "ax.tsv", "diagnostic.tsv")
FILES = {
    "train": ("train.tsv",),
    "validation": ("dev.tsv",),
    "validation_matched": ("dev_matched.tsv",),
    "validation_mismatched": ("dev_mismatched.tsv",),
    "test": ("test.tsv",),
    "test_matched": ("test_matched.tsv",),
    "test_mismatched": ("test_mismatched.tsv",),
}


def task_folder(data_dir: Path, task: GlueTask) -> Path:
    """The task's own folder: the one that is named, or one in it.

    Raises
    ------
    ValueError
        If neither holds the task's files.
    """
    if not data_dir.is_dir():
        raise ValueError(f"--data_dir: there is no folder {data_dir}.")
    wanted = {task.name, task.folder.lower(), task.folder.lower().replace("-", "")}
    if task.name == "ax":
        wanted |= {"diagnostic", "mnli"}
    inner = sorted(each for each in data_dir.iterdir() if each.is_dir() and each.name.lower() in wanted)
    for folder in (*inner, data_dir):
        if any((folder / name).is_file() for name in _names(task)):
            return folder
    raise ValueError(
        f"--data_dir: neither {data_dir} nor a folder {task.folder} in it holds the files of {task.name}, such as "
        f"{_names(task)[0]}."
    )


def read_split(folder: Path, task: GlueTask, split: str) -> tuple[Any, int]:
    """A split as a Dataset with the task's columns, ``label`` and ``idx``, and how many lines were left out.

    Left out are lines that lack a text or have a label that is none: the archive has some. In a test set without labels
    all are `UNKNOWN`.

    Raises
    ------
    ValueError
        If the file is missing, lacks a column, or has labels that are not the task's.
    """
    import datasets

    tests = split.startswith("test")
    path, rows = _rows(folder, task, split)
    texts: list[list[str]] = [[] for _ in task.columns]
    labels: list[int | float] = []
    idx: list[int] = []
    dropped, strange = 0, ""
    for number, (index, fields, label) in enumerate(rows):
        if fields is None or (label is None and not tests):
            dropped += 1
            continue
        known = _label(label, task) if label is not None else float(UNKNOWN) if not task.labels else UNKNOWN
        if known is None:
            dropped, strange = dropped + 1, strange or str(label)
            continue
        for column, text in zip(texts, fields, strict=True):
            column.append(text)
        labels.append(known)
        idx.append(index if index is not None else number)
    if not labels:
        reason = (
            f"Their labels are such as {strange!r}, not {_expected(task)}" if strange else "It may be of another task"
        )
        raise ValueError(f"{path} holds no examples of {task.name} that can be used. {reason}.")
    features = {name: datasets.Value("string") for name in task.columns}
    kind = datasets.ClassLabel(names=list(task.labels)) if task.labels else datasets.Value("float32")
    columns: dict[str, Any] = dict(zip(task.columns, texts, strict=True))
    made = datasets.Dataset.from_dict(
        {**columns, "label": labels, "idx": idx},
        features=datasets.Features({**features, "label": kind, "idx": datasets.Value("int64")}),
    )
    return made, dropped


Row = tuple[int | None, "list[str] | None", "str | None"]


def _rows(folder: Path, task: GlueTask, split: str) -> tuple[Path, Iterator[Row]]:
    """The file of a split and its rows: index, texts, label; None where a line lacks them."""
    if task.name == "mrpc" and not (folder / FILES[split][0]).is_file():
        return _mrpc_rows(folder, task, split)
    names = AX_FILES if task.name == "ax" else FILES[split]
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise ValueError(f"{folder} has no {names[0]}, which {task.name} needs for its {split} set.")
    tests = split.startswith("test")
    if task.name == "cola" and not tests:  # no header: source, label, the author's mark, sentence
        return path, (
            (None, [fields[3]], fields[1]) if len(fields) >= 4 else (None, None, None) for fields in _lines(path)
        )
    return path, _with_header(path, task, tests)


def _with_header(path: Path, task: GlueTask, tests: bool) -> Iterator[Row]:
    lines = _lines(path)
    header = next(lines, [])
    *texts, label = task.official
    missing = [name for name in (*texts, *(() if tests else (label,))) if name not in header]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]!r}, which {task.name} has: its columns are {header}.")
    places = [header.index(name) for name in texts]
    label_place = header.index(label) if label in header else None
    index_place = next((header.index(name) for name in ("index", "id", "idx") if name in header), None)

    def rows() -> Iterator[Row]:
        for fields in lines:
            if len(fields) <= max(places) or (label_place is not None and len(fields) <= label_place):
                yield None, None, None
                continue
            index = fields[index_place] if index_place is not None else ""
            yield (
                int(index) if index.isdigit() else None,
                [fields[place] for place in places],
                fields[label_place] if label_place is not None else None,
            )

    return rows()


def _mrpc_rows(folder: Path, task: GlueTask, split: str) -> tuple[Path, Iterator[Row]]:
    """MRPC as Microsoft distributes it; GLUE's development set is a list of pairs of its training set."""
    pairs = next((folder / name for name in MRPC_DEV_IDS if (folder / name).is_file()), None)
    if split == "validation" and pairs is None:
        path = folder / MRPC_OLD["test"]  # it has labels, and nothing else says what to evaluate on
    else:
        path = folder / MRPC_OLD["test" if split == "test" else "train"]
    if not path.is_file():
        raise ValueError(
            f"{folder} has neither {FILES[split][0]} nor {path.name}, which mrpc needs for its {split} set."
        )
    if split == "test" or pairs is None:
        return path, _with_header(path, task, tests=split == "test")
    chosen = {tuple(fields[:2]) for fields in _lines(pairs) if len(fields) >= 2}
    lines = list(_lines(path))
    header = lines[0]
    wanted = ("#1 ID", "#2 ID")
    if any(name not in header for name in wanted):
        raise ValueError(f"{path} has no column {wanted[0]!r}, which mrpc has: its columns are {header}.")
    one, two = (header.index(name) for name in wanted)
    inside = [len(fields) > two and (fields[one], fields[two]) in chosen for fields in lines[1:]]
    rows = list(_with_header(path, task, tests=False))
    return path, (row for row, dev in zip(rows, inside, strict=True) if dev == (split == "validation"))


def _lines(path: Path) -> Iterator[list[str]]:
    """The fields of each line. Quotation marks mean nothing in these files, and only a line feed ends a line."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for line in file:
                if line.strip():
                    yield line.rstrip("\r\n").split("\t")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from error


def _label(text: str, task: GlueTask) -> int | float | None:
    if not task.labels:
        try:
            return float(text)
        except ValueError:
            return None
    if text in task.labels:
        return task.labels.index(text)
    return int(text) if text.isdigit() and int(text) < len(task.labels) else None


def _expected(task: GlueTask) -> str:
    return ", ".join((*task.written[: len(task.labels)],)) if task.labels else "a number"


def _names(task: GlueTask) -> Sequence[str]:
    if task.name == "ax":
        return AX_FILES
    splits = ["train", *(split for _, split in (*task.evaluated, *task.tested))]
    names = [name for split in splits for name in FILES[split]]
    return [*names, *MRPC_OLD.values()] if task.name == "mrpc" else names
