"""Datasets of the finetuning commands: read from files or the hub, tokenized, and cached by content.

A tokenized dataset is found again by its examples, tokenizer and settings, not by file names or times: a file that has
changed is tokenized again, and a mere copy is not.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import PartialState

from nip.data.tables import column_types, irregular_lines, typed_rows
from nip.finetuning.arguments import Command, print_notice
from nip.runs.folder import file_sha256

FILE_FORMATS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
READER_VERSION = 1  # raised when a file is read in another way, so that cached rows are not used
SPLITS = ("train", "validation", "test")
BATCH = 1000  # rows that are tokenized or hashed at a time


def check_data_source(task: Any, example: str) -> None:
    """Check that the flags name one source of data.

    Parameters
    ----------
    task : dataclass
        With ``dataset_name``, ``dataset_config_name``, ``train_file``, ``validation_file``, ``test_file``.
    example : str
        A name on the hub, for the error.

    Raises
    ------
    ValueError
        If they name none, or two.
    """
    files = (task.train_file, task.validation_file, task.test_file)
    if task.dataset_name is not None and any(files):
        raise ValueError("Give --dataset_name or files, not both.")
    if task.dataset_name is None and not any(files):
        raise ValueError(f"Name the data: --dataset_name {example}, or --train_file and --validation_file.")
    if task.dataset_config_name is not None and task.dataset_name is None:
        raise ValueError("--dataset_config_name needs --dataset_name.")


def read_splits(command: Command, read: Callable[[Path, str | None], Any]) -> dict[str, tuple[str, Any]]:
    """The splits that the command trains on, evaluates and predicts, each with a description of its source.

    Parameters
    ----------
    command : Command
    read : callable
        ``read(path, cache_dir)`` reads a file.

    Returns
    -------
    dict of str to (str, Dataset)
        By split: train, validation, test.

    Raises
    ------
    ValueError
        If a split that is needed is not named, or the dataset lacks it.
    """
    task = command.task
    hub = None
    if task.dataset_name is not None:
        hub = read_hub(task.dataset_name, task.dataset_config_name, cache_dir=command.model.cache_dir)
    found = {}
    for split in needed_splits(command):
        if hub is None:
            file = getattr(task, f"{split}_file")
            if file is None:
                flag = {"train": "train", "validation": "eval", "test": "predict"}[split]
                raise ValueError(f"--do_{flag} needs --{split}_file.")
            found[split] = (file, read(Path(file), command.model.cache_dir))
        elif split in hub:
            found[split] = (f"{task.dataset_name}, {split},", hub[split])
        else:
            raise ValueError(f"The dataset {task.dataset_name} has no {split} split. It has {', '.join(hub)}.")
    return found


def needed_splits(command: Command) -> list[str]:
    """The splits that the command trains on, evaluates and predicts."""
    training = command.training
    evaluates = training.do_eval or (training.do_train and str(training.eval_strategy.value) != "no")
    needed = (training.do_train, evaluates, training.do_predict)
    return [split for split, need in zip(SPLITS, needed, strict=True) if need]


def select_samples(command: Command, split: str, data: Any) -> Any:
    """The first rows of a split, up to the command's limit.

    Parameters
    ----------
    command : Command
    split : {"train", "validation", "test"}
    data : Dataset
    """
    run = command.run
    limit = {"train": run.max_train_samples, "validation": run.max_eval_samples, "test": run.max_predict_samples}[split]
    return data if limit is None else data.select(range(min(limit, len(data))))


def read_rows(path: Path, cache_dir: str | None = None) -> Any:
    """The rows of a file as a memory-mapped Dataset.

    JSON may be an object per line, a list of objects, or an object with such a list under ``data``. No word stands for
    a missing value. In TSV quotation marks are text.

    Parameters
    ----------
    path : Path
    cache_dir : str, optional
        Folder of the memory-mapped file, by default that of `datasets`.

    Raises
    ------
    ValueError
        If the name ends in none of `FILE_FORMATS`, or the file cannot be parsed or has no rows.
    OSError
        If the file does not exist.
    """
    check_table(path)
    types = column_types(path)
    if not types:
        raise ValueError(f"{path} has no rows.")
    if path.suffix == ".tsv":
        report_irregular_lines(path)
    return from_rows(_rows, path, table_features(path, types), cache_dir, types={n: str(t) for n, t in types.items()})


def check_table(path: Path) -> None:
    """Raise ValueError if a table's format is unknown, FileNotFoundError if there is no such file."""
    if path.suffix not in FILE_FORMATS:
        raise ValueError(f"{path} must end in one of {', '.join(FILE_FORMATS)}.")
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))


def table_features(path: Path, types: Mapping[str, Any]) -> Any:
    """The features of a table; those that a parquet file describes itself, such as class labels, are kept."""
    import datasets
    import pyarrow
    import pyarrow.parquet

    if path.suffix == ".parquet":
        return datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(path))
    return datasets.Features.from_arrow_schema(pyarrow.schema(list(types.items())))


def report_irregular_lines(path: Path) -> None:
    """Print what a TSV file has that is read in one of several ways."""
    found = irregular_lines(path)
    if found.get("fewer"):
        print_notice(f"{path}: {found['fewer']:,} lines with fewer fields than the header were left out")
    if found.get("more"):
        print_notice(f"{path}: {found['more']:,} lines have more fields than the header; the last ones are ignored")
    if found.get("quoted"):
        print_notice(
            f"{path}: {found['quoted']:,} lines have a field in quotation marks, which are text in TSV; write a .csv "
            "file where they enclose fields"
        )


def from_rows(
    generate: Callable[..., Iterator[dict[str, Any]]], path: Path, features: Any, cache_dir: str | None, **more: Any
) -> Any:
    """The rows that a function generates of a file, as a memory-mapped Dataset, found again by the file's content.

    The path never reaches `datasets`' own readers, which expand ``[``, ``*`` and ``?`` in it.

    Parameters
    ----------
    generate : callable
        ``generate(path, digest, version, **more)``.
    path : Path
    features : Features
    cache_dir : str or None
    **more
        Further arguments of `generate`.

    Raises
    ------
    ValueError
        As `generate` raises it.
    """
    import datasets

    identity = {"path": str(path), "digest": file_sha256(path), "version": READER_VERSION, **more}
    try:
        return datasets.Dataset.from_generator(generate, features=features, gen_kwargs=identity, cache_dir=cache_dir)
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, ValueError | OSError):
            raise error.__cause__ from error
        raise ValueError(f"{path} cannot be read: {error.__cause__ or error}") from error


def _rows(path: str, digest: str, version: int, types: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    yield from typed_rows(Path(path), types)


def read_json(path: Path) -> Any:
    """The value of a JSON file; None if it is not one JSON value, such as a file of JSON lines.

    Raises
    ------
    ValueError
        If the file is not UTF-8.
    """
    try:
        return json.loads(path.read_bytes())
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from error
    except json.JSONDecodeError:
        return None


def read_hub(name: str, config: str | None = None, *, cache_dir: str | None = None, streaming: bool = False) -> Any:
    """A dataset of the Hugging Face hub, as a DatasetDict.

    Parameters
    ----------
    name : str
    config : str, optional
        Configuration of the dataset.
    cache_dir : str, optional
        For downloaded files.
    streaming : bool, default=False
        Read rows as they are needed.

    Raises
    ------
    ValueError
        If the name or the configuration is wrong.
    OSError
        If the dataset cannot be downloaded.
    """
    import datasets

    both = name if config is None else f"{name} ({config})"
    try:
        return datasets.load_dataset(name, config, cache_dir=cache_dir, streaming=streaming)
    except ValueError as error:
        raise ValueError(f"--dataset_name {both}: {str(error).strip().splitlines()[0]}") from error
    except Exception as error:  # network libraries have their own classes
        reason = str(error).strip().splitlines()[0]
        raise OSError(
            f"--dataset_name: {both} could not be downloaded ({type(error).__name__}: {reason}). Without a network, "
            "give files: --train_file, --validation_file, --test_file."
        ) from error


def tokenize_dataset(
    data: Any,
    function: Callable[[Mapping[str, list[Any]]], Mapping[str, list[Any]]],
    command: Command,
    *,
    tokenizer: Any,
    settings: Mapping[str, Any],
    key: str | None = None,
) -> Any:
    """A Dataset mapped in batches, or its cached result.

    Parameters
    ----------
    data : Dataset
    function : callable
        Takes and returns columns. Apart from the tokenizer, its result must depend on `settings` only.
    command : Command
        Number of processes, and where the cache is and whether to use it.
    tokenizer : PreTrainedTokenizerBase
    settings : mapping
        JSON values.
    key : str, optional
        `dataset_sha256` of the data, if known.

    Returns
    -------
    Dataset
        With the returned columns; its `_fingerprint` identifies data, tokenizer and settings.
    """
    import datasets

    identity = [key or dataset_sha256(data), tokenizer_sha256(tokenizer), dict(settings), list(data.column_names)]
    name = hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()
    folder = Path(command.model.cache_dir or datasets.config.HF_DATASETS_CACHE) / "nip-tokenized"
    folder.mkdir(parents=True, exist_ok=True)
    processes = command.run.preprocessing_num_workers
    if processes is not None and (processes == 1 or len(data) < processes * BATCH):
        processes = None
    # The others find the cached result; the tokenizer is saved later, whether this has run or a result was found.
    with PartialState().main_process_first(), unchanged_settings(tokenizer):
        return data.map(
            function,
            batched=True,
            batch_size=BATCH,
            num_proc=processes,
            remove_columns=list(data.column_names),
            load_from_cache_file=not command.run.overwrite_cache,
            cache_file_name=str(folder / f"{name}.arrow"),
            new_fingerprint=name[:32],
        )


@contextmanager
def unchanged_settings(tokenizer: Any) -> Iterator[None]:
    """Within the block a tokenizer may be called; afterwards its file has the truncation and padding of before."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        yield
        return
    truncation, padding = backend.truncation, backend.padding
    try:
        yield
    finally:
        backend.no_truncation() if truncation is None else backend.enable_truncation(**truncation)
        backend.no_padding() if padding is None else backend.enable_padding(**padding)


def dataset_sha256(data: Any) -> str:
    """SHA-256 of a Dataset's columns and rows, however it is stored.

    Examples
    --------
    >>> from datasets import Dataset
    >>> one, other = Dataset.from_dict({"a": [1, 2]}), Dataset.from_dict({"a": [2, 1]})
    >>> dataset_sha256(one) == dataset_sha256(other.select([1, 0]))
    True
    """
    digest = hashlib.sha256(json.dumps([len(data), data.column_names]).encode())
    for batch in data.with_format(None).iter(BATCH):
        digest.update(json.dumps(batch, default=repr).encode())
    return digest.hexdigest()


def tokenizer_sha256(tokenizer: Any) -> str:
    """SHA-256 of a tokenizer's vocabulary and rules, without its state (padding, truncation)."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        rules.pop("truncation", None)
        rules.pop("padding", None)
    else:
        rules = sorted(tokenizer.get_vocab().items())
    identity = {
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "class": {
            "name": type(tokenizer).__name__,
            "sides": f"{tokenizer.padding_side} {tokenizer.truncation_side}",
        },
    }
    return hashlib.sha256(json.dumps([rules, identity], sort_keys=True).encode()).hexdigest()


def disable_progress_bars() -> None:
    """Turn off the progress bars of `datasets` and `transformers` if standard error is not a terminal."""
    import datasets
    from transformers.utils import logging

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
        logging.disable_progress_bar()
