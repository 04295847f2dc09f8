"""Examples for text classification: GLUE from the hub or its official files, other datasets, or tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nip.data.tables import tsv_lines
from nip.finetuning.arguments import print_notice
from nip.finetuning.datasets import read_hub, read_rows
from nip.finetuning.glue.registry import GlueTask, glue_task

HUB_NAME = "nyu-mll/glue"
UNLABELLED = -1
FILES = {
    "train": "train.tsv",
    "validation": "dev.tsv",
    "validation_matched": "dev_matched.tsv",
    "validation_mismatched": "dev_mismatched.tsv",
    "test": "test.tsv",
    "test_matched": "test_matched.tsv",
    "test_mismatched": "test_mismatched.tsv",
}
AX_FILES = ("AX.tsv", "ax.tsv", "diagnostic.tsv")
MRPC_MICROSOFT = {"train": "msr_paraphrase_train.txt", "test": "msr_paraphrase_test.txt"}
MRPC_DEV_IDS = ("dev_ids.tsv", "mrpc_dev_ids.tsv")


@dataclass(frozen=True)
class Examples:
    """Labelled texts, by split.

    Parameters
    ----------
    name : str
        Of the task.
    columns : tuple of str
        One text or two.
    labels : tuple of str
        Names in the order of their ids; empty if the label is a number.
    train : Dataset or None
        With the columns, ``label`` and ``idx``; labels are ids, or -1.
    evaluated, tested : mapping of str to Dataset
        By the prefix of their metrics.
    task : GlueTask or None
        If it is a task of GLUE.
    """

    name: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    train: Any = None
    evaluated: Mapping[str, Any] = field(default_factory=dict)
    tested: Mapping[str, Any] = field(default_factory=dict)
    task: GlueTask | None = None


@dataclass(frozen=True)
class Needed:
    """The sets that a command needs."""

    train: bool
    evaluated: bool
    tested: bool


def from_hub(name: str, needed: Needed, cache_dir: str | None) -> Examples:
    """A task of GLUE from the Hugging Face hub.

    Parameters
    ----------
    name : str
        Of the task.
    needed : Needed
    cache_dir : str or None
        For downloaded files.

    Raises
    ------
    ValueError
        If the task does not exist, or has only a test set and others are needed.
    OSError
        If the dataset cannot be downloaded.
    """
    task = _find_task(name, needed)
    hub = read_hub(HUB_NAME, task.name, cache_dir=cache_dir)
    return _of_task(task, needed, lambda split: _checked(hub, split, task))


def from_folder(name: str, data_dir: Path, needed: Needed) -> Examples:
    """A task of GLUE from its official files.

    Parameters
    ----------
    name : str
        Of the task.
    data_dir : Path
        The task's folder, or its parent.
    needed : Needed

    Raises
    ------
    ValueError
        If files are missing, malformed or another task's.
    """
    task = _find_task(name, needed)
    folder = task_folder(data_dir, task)

    def read(split: str) -> Any:
        data, dropped = read_split(folder, task, split)
        if dropped:
            print_notice(f"{folder.name} {split}: {dropped:,} lines without a text or a label were left out")
        return data

    return _of_task(task, needed, read)


def _find_task(name: str, needed: Needed) -> GlueTask:
    task = glue_task(name)
    if task.name == "ax" and (needed.train or needed.evaluated):
        raise ValueError("ax has nothing but a test set without labels: train on mnli, and give ax with --do_predict.")
    return task


def _of_task(task: GlueTask, needed: Needed, read: Callable[[str], Any]) -> Examples:
    return Examples(
        task.name,
        task.columns,
        task.labels,
        read("train") if needed.train else None,
        {name: read(split) for name, split in task.evaluated} if needed.evaluated else {},
        {name: read(split) for name, split in task.tested} if needed.tested else {},
        task,
    )


def _checked(hub: Any, split: str, task: GlueTask) -> Any:
    if split not in hub:
        raise ValueError(f"{HUB_NAME} ({task.name}) has no split {split!r}; it has {', '.join(hub)}.")
    data = hub[split]
    missing = [name for name in (*task.columns, "label") if name not in data.column_names]
    if missing:
        raise ValueError(
            f"{HUB_NAME} ({task.name}) has no column {missing[0]!r}; it has {', '.join(data.column_names)}."
        )
    return data if "idx" in data.column_names else data.add_column("idx", list(range(len(data))))


def from_dataset(name: str, config: str | None, needed: Needed, cache_dir: str | None) -> Examples:
    """Another dataset of the hub, with the splits train, validation and test.

    Parameters
    ----------
    name : str
    config : str or None
        Its configuration.
    needed : Needed
    cache_dir : str or None
        For downloaded files.

    Raises
    ------
    ValueError
        If a split or column is missing, or labels disagree.
    OSError
        If the dataset cannot be downloaded.
    """
    hub = read_hub(name, config, cache_dir=cache_dir)
    wanted = (("train", needed.train), ("validation", needed.evaluated), ("test", needed.tested))
    for split, need in wanted:
        if need and split not in hub:
            raise ValueError(f"{name} has no split {split!r}; it has {', '.join(hub)}.")
    return _of_rows(config or name, {split: hub[split] for split, need in wanted if need}, name)


def from_files(files: Mapping[str, str], task: GlueTask | None, cache_dir: str | None = None) -> Examples:
    """Tables in CSV, TSV, JSON or Parquet.

    The texts are in ``sentence1`` and ``sentence2``, else in the first one or two columns other than ``label``, ``idx``
    and ``id``; a notice names two.

    Parameters
    ----------
    files : mapping of str to str
        ``train``, ``validation``, ``test`` → path.
    task : GlueTask or None
        The task whose columns, labels and metrics they have.
    cache_dir : str, optional
        Folder of the memory-mapped files, by default that of `datasets`.

    Raises
    ------
    ValueError
        If a file cannot be parsed, a column is missing, or labels disagree.
    """
    suffixes = {Path(file).suffix for split, file in files.items() if split != "test"}
    if len(suffixes) > 1:
        raise ValueError(
            f"--train_file and --validation_file must be of one kind. Got {' and '.join(sorted(suffixes))}."
        )
    read = {split: _with_numbers(read_rows(Path(file), cache_dir), Path(file)) for split, file in files.items()}
    return _of_rows("files" if task is None else task.name, read, " and ".join(files.values()), task)


def _with_numbers(data: Any, path: Path) -> Any:
    """The rows of a CSV or TSV file, whose fields are text, with labels that are numbers if all of them are."""
    import datasets

    if (
        path.suffix not in (".csv", ".tsv")
        or "label" not in data.column_names
        or data.features["label"].dtype != "string"
    ):
        return data
    try:
        _ = [float(text) for text in data.unique("label") if text is not None]
    except ValueError:
        return data
    return data.cast_column("label", datasets.Value("float64"))


def _check_kinds(data: Any, columns: Sequence[str], where: str) -> None:
    """Raise ValueError if a column of texts has something else, or labels are lists: Python's spelling is no text."""
    import datasets

    for name in columns:
        kind = str(getattr(data.features[name], "dtype", type(data.features[name]).__name__.lower()))
        if kind not in ("string", "large_string", "null") and not kind.startswith(("int", "uint")):
            raise ValueError(f"The column {name!r} of {where} has no text, but {kind} values.")
    label = data.features.get("label")
    if label is not None and not isinstance(label, datasets.ClassLabel | datasets.Value):
        raise ValueError(f"A label of {where} is a list or an object; a row has one label, a name or a number.")


def _of_rows(name: str, splits: Mapping[str, Any], source: str, task: GlueTask | None = None) -> Examples:
    columns = task.columns if task is not None else _text_columns(next(iter(splits.values())).column_names, source)
    for split, data in splits.items():
        for column in (*columns, *(() if split == "test" else ("label",))):
            if column not in data.column_names:
                raise ValueError(
                    f"The {split} set of {source} has no column {column!r}; it has {', '.join(data.column_names)}."
                )
        _check_kinds(
            data.remove_columns("label") if split == "test" and "label" in data.column_names else data,
            columns,
            f"the {split} set of {source}",
        )
    labels = task.labels if task is not None else _label_names(splits, source)
    if "test" in splits and "label" in splits["test"].column_names:  # they are not used, and may be anything
        splits = {**splits, "test": splits["test"].remove_columns("label")}
    made = {split: _numbered(data, labels, f"the {split} set of {source}") for split, data in splits.items()}
    evaluated = {"": made["validation"]} if "validation" in made else {}
    tested = {"": made["test"]} if "test" in made else {}
    return Examples(name, columns, labels, made.get("train"), evaluated, tested, task)


def _text_columns(names: list[str], source: str) -> tuple[str, ...]:
    if "sentence1" in names:
        return ("sentence1", "sentence2") if "sentence2" in names else ("sentence1",)
    others = tuple(name for name in names if name not in ("label", "idx", "id", "index"))
    if not others:
        raise ValueError(f"{source} has no column with a text; it has {', '.join(names)}.")
    if len(others) > 1:  # a guess: the second might give the label away
        print_notice(f"{source}: a pair of texts is read, {' and '.join(others[:2])}; call a column id to leave it out")
    return others[:2]


def _label_names(splits: Mapping[str, Any], source: str) -> tuple[str, ...]:
    """The names of the labels, sorted; empty if they are floats.

    The test set counts only if its features list the labels: not all of them may occur in it.
    """
    labelled = {split: data for split, data in splits.items() if "label" in data.column_names}
    if not labelled:
        return ()
    first = next(iter(labelled.values()))
    kind = first.features["label"]
    if hasattr(kind, "names"):
        return tuple(kind.names)
    labelled.pop("test", None)
    if not labelled:
        return ()
    if str(getattr(kind, "dtype", "")).startswith("float"):
        return ()
    found = {
        split: {str(value) for value in data.unique("label") if value is not None} - {str(UNLABELLED)}
        for split, data in labelled.items()
    }
    known = found.get("train", set().union(*found.values()))
    for split, values in found.items():
        if values - known:
            raise ValueError(
                f"The {split} set of {source} has the labels {', '.join(sorted(values - known))}, which the training "
                f"set has not: its labels are {', '.join(sorted(known))}."
            )
    if len(known) < 2:
        raise ValueError(
            f"{source} has only one label, {', '.join(known) or 'none'}: there is nothing to classify. "
            f"({UNLABELLED} means that a row has no label.)"
        )
    try:
        return tuple(sorted(known, key=int))
    except ValueError:
        return tuple(sorted(known))


def _numbered(data: Any, labels: tuple[str, ...], where: str) -> Any:
    """The rows with label ids, -1 if there are none, and ``idx``."""
    import datasets

    if "idx" not in data.column_names:
        data = data.add_column("idx", list(range(len(data))))
    if "label" not in data.column_names:
        return data.add_column("label", [UNLABELLED] * len(data) if labels else [float(UNLABELLED)] * len(data))
    kind = data.features["label"]
    if hasattr(kind, "names"):
        if tuple(kind.names) != labels:
            raise ValueError(f"The labels of {where} are {', '.join(kind.names)}, not {', '.join(labels)}.")
        return data
    column = data["label"][:]
    if None in column:
        raise ValueError(f"A row of {where} has no label.")
    if not labels:
        try:
            numbers_only = data.cast_column("label", datasets.Value("float32"))
        except Exception as error:
            raise ValueError(f"The labels of {where} must be numbers. Got {column[0]!r} among them.") from error
        finite = np.isfinite(np.asarray(numbers_only["label"][:], np.float32))
        if not finite.all():
            row = int(np.argmin(finite))
            raise ValueError(f"The label of row {row} of {where} is NaN or Inf ({column[row]}): it must be a number.")
        return numbers_only
    numbers = {name: number for number, name in enumerate(labels)}
    numbers.update({str(number): number for number in range(len(labels)) if str(number) not in numbers})
    strange = sorted({str(value) for value in column} - set(numbers) - {str(UNLABELLED)})
    if strange:
        raise ValueError(f"The labels of {where} are such as {strange[0]!r}, not {', '.join(labels)}.")
    named = datasets.ClassLabel(names=list(labels))
    chosen = [numbers.get(str(value), UNLABELLED) for value in column]
    return data.remove_columns("label").add_column("label", chosen).cast_column("label", named)


def task_folder(data_dir: Path, task: GlueTask) -> Path:
    """The task's folder: `data_dir`, or a folder in it.

    Raises
    ------
    ValueError
        If neither contains the task's files.
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
        f"--data_dir: neither {data_dir} nor a folder {task.folder} in it has the files of {task.name}, such as "
        f"{_names(task)[0]}."
    )


def read_split(folder: Path, task: GlueTask, split: str) -> tuple[Any, int]:
    """A split of the official files.

    Parameters
    ----------
    folder : Path
        The task's.
    task : GlueTask
    split : str
        A key of `FILES`.

    Returns
    -------
    data : Dataset
        With the task's columns, ``label`` and ``idx``. Labels of a test set without labels are `UNLABELLED`.
    dropped : int
        Number of lines that lack a text or a valid label, which the archive has some of.

    Raises
    ------
    ValueError
        If the file is missing, lacks a column, or has another task's labels.
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
        known = None if label is None else _label(label, task)
        if tests and known is None:  # they are not used, and may be "hidden", -1 or missing
            known = UNLABELLED if task.labels else float(UNLABELLED)
        if isinstance(known, float) and not math.isfinite(known):
            raise ValueError(f"{path}: the label {label!r} of row {number} is NaN or Inf; it must be a number.")
        if known is None:
            dropped, strange = dropped + 1, strange or str(label)
            continue
        for column, text in zip(texts, fields, strict=True):
            column.append(text)
        labels.append(known)
        idx.append(index if index is not None else number)
    if not labels:
        expected = ", ".join(task.written[: len(task.labels)]) if task.labels else "a number"
        reason = f"Their labels are such as {strange!r}, not {expected}" if strange else "It may be another task's"
        raise ValueError(f"{path} has no usable examples of {task.name}. {reason}.")
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
    """The file of a split, and its rows: index, texts, label, None if missing."""
    if task.name == "mrpc" and not (folder / FILES[split]).is_file():
        return _mrpc_rows(folder, task, split)
    names = AX_FILES if task.name == "ax" else (FILES[split],)
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise ValueError(f"{folder} has no {names[0]}, which {task.name} needs for its {split} set.")
    tests = split.startswith("test")
    if task.name == "cola" and not tests:  # no header: source, label, mark, sentence
        return path, (
            (None, [fields[3]], fields[1]) if len(fields) >= 4 else (None, None, None) for fields in tsv_lines(path)
        )
    return path, _with_header(path, task, tests)


def _with_header(path: Path, task: GlueTask, tests: bool) -> Iterator[Row]:
    lines = tsv_lines(path)
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
            if len(fields) <= max(places) or (not tests and label_place is not None and len(fields) <= label_place):
                yield None, None, None
                continue
            index = fields[index_place] if index_place is not None else ""
            yield (
                int(index) if index.isdigit() else None,
                [fields[place] for place in places],
                fields[label_place] if label_place is not None and label_place < len(fields) else None,
            )

    return rows()


def _mrpc_rows(folder: Path, task: GlueTask, split: str) -> tuple[Path, Iterator[Row]]:
    """MRPC as distributed by Microsoft; GLUE's validation set is a list of pairs of its training set."""
    pairs = next((folder / name for name in MRPC_DEV_IDS if (folder / name).is_file()), None)
    if split == "validation" and pairs is None:
        path = folder / MRPC_MICROSOFT["test"]  # it has labels, and there is no list of pairs
    else:
        path = folder / MRPC_MICROSOFT["test" if split == "test" else "train"]
    if not path.is_file():
        raise ValueError(f"{folder} has neither {FILES[split]} nor {path.name}, which mrpc needs for its {split} set.")
    if split == "test" or pairs is None:
        return path, _with_header(path, task, tests=split == "test")
    chosen = {tuple(fields[:2]) for fields in tsv_lines(pairs) if len(fields) >= 2}
    lines = list(tsv_lines(path))
    header = lines[0]
    wanted = ("#1 ID", "#2 ID")
    if any(name not in header for name in wanted):
        raise ValueError(f"{path} has no column {wanted[0]!r}, which mrpc has: its columns are {header}.")
    one, two = (header.index(name) for name in wanted)
    inside = [len(fields) > two and (fields[one], fields[two]) in chosen for fields in lines[1:]]
    rows = list(_with_header(path, task, tests=False))
    return path, (row for row, dev in zip(rows, inside, strict=True) if dev == (split == "validation"))


def _label(text: str, task: GlueTask) -> int | float | None:
    if not task.labels:
        try:
            return float(text)
        except ValueError:
            return None
    if text in task.labels:
        return task.labels.index(text)
    return int(text) if text.isdigit() and int(text) < len(task.labels) else None


def _names(task: GlueTask) -> Sequence[str]:
    if task.name == "ax":
        return AX_FILES
    splits = ["train", *(split for _, split in (*task.evaluated, *task.tested))]
    names = [FILES[split] for split in splits]
    return [*names, *MRPC_MICROSOFT.values()] if task.name == "mrpc" else names
