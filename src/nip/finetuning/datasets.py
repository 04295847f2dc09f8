"""A row an example: files in CSV, TSV, JSON, JSON lines or Parquet, and sets of the hub.

The parts of a set that a command needs: of the hub, or a file each.

Examples as tokens, kept on the disk under a name that says what they were made of.

A cache is found again by content: the examples, the tokenizer and the settings, not by file names or times. So a file
that has changed is tokenized anew, and one that was merely copied is not.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from nip.finetuning.arguments import Command

KINDS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


def read_rows(path: Path) -> Any:
    """The rows of a file as a `datasets.Dataset`, memory-mapped; tokenized sets made of it are kept on disk by content.

    JSON may be an object a line, a list of objects, or an object with such a list under ``data``.

    Raises
    ------
    ValueError
        If its name ends in none of `KINDS`, it cannot be read, or holds no rows.
    OSError
        If there is no such file.
    """
    import datasets

    kind = KINDS.get(path.suffix)
    if kind is None:
        raise ValueError(f"{path} must end in one of {', '.join(KINDS)}.")
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    options: dict[str, Any] = {"sep": "\t"} if path.suffix == ".tsv" else json_options(path)
    try:
        data = datasets.load_dataset(kind, data_files=str(path), split="train", **options)
    except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
        if "corresponds to no data" in str(error):  # what datasets says of a file without rows
            raise ValueError(f"{path} holds no rows.") from error
        said = str(error.__cause__ or error).strip().splitlines()[0]
        raise ValueError(f"{path} cannot be read as {path.suffix[1:].upper()}: {said}") from error
    if data.num_rows == 0:
        raise ValueError(f"{path} holds no rows.")
    return data


def json_options(path: Path) -> dict[str, Any]:
    """What `datasets` must be told to read a JSON file: that the rows are a list under ``data``, where they are."""
    if path.suffix != ".json":
        return {}
    with path.open("rb") as file:
        lines = [line for line in (file.readline(), file.readline()) if line.strip()]
    try:
        if len(lines) == 2 and isinstance(json.loads(lines[0]), dict):
            return {}  # an object a line: not to be read as a whole, for it may not fit memory
    except ValueError:
        pass
    read = read_json(path)
    return {"field": "data"} if isinstance(read, dict) and isinstance(read.get("data"), list) else {}


def read_hub(name: str, config: str | None = None, *, cache_dir: str | None = None, streaming: bool = False) -> Any:
    """A set of the Hugging Face Hub as a `datasets.DatasetDict`.

    Raises
    ------
    ValueError
        If the name or the configuration is wrong.
    OSError
        If the set cannot be had: there is no network, or no such set.
    """
    import datasets

    both = name if config is None else f"{name} ({config})"
    try:
        return datasets.load_dataset(name, config, cache_dir=cache_dir, streaming=streaming)
    except ValueError as error:
        raise ValueError(f"--dataset_name {both}: {str(error).strip().splitlines()[0]}") from error
    except Exception as error:  # network libraries raise classes of their own
        said = str(error).strip().splitlines()[0]
        raise OSError(
            f"--dataset_name: the set {both} could not be fetched ({type(error).__name__}: {said}). Without a network, "
            "give files: --train_file, --validation_file, --test_file."
        ) from error


def read_json(path: Path) -> Any:
    """What a JSON file holds; None if it is none, such as one of JSON lines.

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


SPLITS = ("train", "validation", "test")


def check_data_source(task: Any, example: str) -> None:
    """Refuse settings that name no data, or some in two ways.

    Parameters
    ----------
    task : dataclass
        With ``dataset_name``, ``dataset_config_name``, ``train_file``, ``validation_file``, ``test_file``.
    example : str
        A name on the hub, for the sentence.

    Raises
    ------
    ValueError
    """
    files = (task.train_file, task.validation_file, task.test_file)
    if task.dataset_name is not None and any(files):
        raise ValueError("Give --dataset_name or files, not both.")
    if task.dataset_name is None and not any(files):
        raise ValueError(f"Name the data: --dataset_name {example}, or --train_file and --validation_file.")
    if task.dataset_config_name is not None and task.dataset_name is None:
        raise ValueError("--dataset_config_name needs --dataset_name.")


def needed_splits(command: Command) -> list[str]:
    """The parts that the command trains on, evaluates and predicts."""
    training = command.training
    evaluates = training.do_eval or (training.do_train and str(training.eval_strategy.value) != "no")
    asked = {"train": training.do_train, "validation": evaluates, "test": training.do_predict}
    return [part for part in SPLITS if asked[part]]


def read_splits(command: Command, read: Callable[[Path, str], Any]) -> dict[str, tuple[str, Any]]:
    """Where each part that the command needs is from, in words, and its rows.

    Parameters
    ----------
    command : Command
    read : callable
        ``read(path, part)`` reads a file.

    Raises
    ------
    ValueError
        If a part that is needed is not named, or the set has none.
    """
    task = command.task
    hub = None
    if task.dataset_name is not None:
        hub = read_hub(task.dataset_name, task.dataset_config_name, cache_dir=command.model.cache_dir)
    found = {}
    for part in needed_splits(command):
        if hub is None:
            file = getattr(task, f"{part}_file")
            if file is None:
                flag = {"train": "train", "validation": "eval", "test": "predict"}[part]
                raise ValueError(f"--do_{flag} needs --{part}_file.")
            found[part] = (file, read(Path(file), part))
        elif part in hub:
            found[part] = (f"{task.dataset_name}, {part},", hub[part])
        else:
            raise ValueError(f"The set {task.dataset_name} has no {part} part. It has {', '.join(hub)}.")
    return found


def select_samples(command: Command, part: str, data: Any) -> Any:
    """The first rows of a part, as many as the command uses."""
    run = command.run
    limits: Sequence[int | None] = (run.max_train_samples, run.max_eval_samples, run.max_predict_samples)
    limit = dict(zip(SPLITS, limits, strict=True))[part]
    return data if limit is None else data.select(range(min(limit, len(data))))


ROWS = 1000


def dataset_sha256(data: Any) -> str:
    """SHA-256 of a Dataset's columns and rows; how it is stored does not matter.

    Examples
    --------
    >>> from datasets import Dataset
    >>> one, other = Dataset.from_dict({"a": [1, 2]}), Dataset.from_dict({"a": [2, 1]})
    >>> dataset_sha256(one) == dataset_sha256(other.select([1, 0]))
    True
    """
    digest = hashlib.sha256(json.dumps([len(data), data.column_names]).encode())
    for batch in data.with_format(None).iter(ROWS):
        digest.update(json.dumps(batch, default=repr).encode())
    return digest.hexdigest()


def tokenizer_sha256(tokenizer: Any) -> str:
    """SHA-256 of a tokenizer's vocabulary and rules, without what it was last asked to do."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        rules.pop("truncation", None)
        rules.pop("padding", None)
    else:
        rules = sorted(tokenizer.get_vocab().items())
    told = {"special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()}}
    told["class"] = {"name": type(tokenizer).__name__, "sides": f"{tokenizer.padding_side} {tokenizer.truncation_side}"}
    return hashlib.sha256(json.dumps([rules, told], sort_keys=True).encode()).hexdigest()


def tokenize_dataset(
    data: Any,
    function: Callable[[Mapping[str, list[Any]]], Mapping[str, list[Any]]],
    command: Command,
    *,
    tokenizer: Any,
    settings: Mapping[str, Any],
    key: str | None = None,
    remove: Sequence[str] | None = None,
) -> Any:
    """A Dataset mapped batch by batch, from the cache where it is known.

    Parameters
    ----------
    data : Dataset
    function : callable
        Takes and returns columns. `settings` must say all that decides what it does, beside the tokenizer.
    command : Command
        Says whether to make it anew, how many processes to use, and where the cache is.
    tokenizer : PreTrainedTokenizerBase
    settings : mapping
        JSON values.
    key : str, optional
        The content of the data, where it is known already.
    remove : sequence of str, optional
        Columns to leave out; by default all that the data has.

    Returns
    -------
    Dataset
        Its `_fingerprint` says what it was made of, as the name of the cache does.
    """
    made_of = [
        key or dataset_sha256(data),
        tokenizer_sha256(tokenizer),
        dict(settings),
        list(remove or data.column_names),
    ]
    name = hashlib.sha256(json.dumps(made_of, sort_keys=True, default=str).encode()).hexdigest()
    folder = cache_folder(command)
    processes = command.run.preprocessing_num_workers
    if processes is not None and (processes == 1 or len(data) < processes * ROWS):
        processes = None
    with PartialState().main_process_first():  # the others find what it has made
        return data.map(
            function,
            batched=True,
            batch_size=ROWS,
            num_proc=processes,
            remove_columns=list(remove or data.column_names),
            load_from_cache_file=not command.run.overwrite_cache,
            cache_file_name=str(folder / f"{name}.arrow"),
            new_fingerprint=name[:32],
        )


def cache_folder(command: Command) -> Path:
    """Where tokenized examples are kept: ``--cache_dir``, else beside what `datasets` keeps."""
    import datasets

    base = command.model.cache_dir or datasets.config.HF_DATASETS_CACHE
    folder = Path(base) / "nip-tokenized"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def disable_progress_bars() -> None:
    """No bars of `datasets` and `transformers` where standard error is no terminal."""
    import datasets
    from transformers.utils import logging

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
        logging.disable_progress_bar()
