"""A row an example: files in CSV, TSV, JSON, JSON lines or Parquet, and sets of the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
