"""Text for masked language modelling, from the hub, text files or tables, stored or as a stream."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset

from nip.data.tables import table_rows
from nip.finetuning.datasets import FILE_FORMATS, from_rows, read_hub, read_rows, unchanged_settings

TEXT_FORMATS = (".txt", ".text", ".md")
STREAMED_EVALUATION = 1000  # texts of a stream that are evaluated by default


def read_text(path: Path, cache_dir: str | None = None) -> Any:
    """A file as a Dataset, of a text file one row per line.

    Parameters
    ----------
    path : Path
    cache_dir : str, optional
        Folder of the memory-mapped file, by default that of `datasets`.

    Raises
    ------
    ValueError
        If the format is unknown or the file is empty.
    OSError
        If the file does not exist.
    """
    import datasets

    check_format(path)
    if path.suffix not in TEXT_FORMATS:
        return read_rows(path, cache_dir)
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty.")
    return from_rows(_lines, path, datasets.Features({"text": datasets.Value("string")}), cache_dir)


def stream_file(path: Path) -> Any:
    """A file as a stream of rows; errors as of `read_text`."""
    import datasets

    check_format(path)
    return datasets.IterableDataset.from_generator(_streamed, gen_kwargs={"path": str(path)})


def _streamed(path: str) -> Iterator[dict[str, Any]]:
    if Path(path).suffix in TEXT_FORMATS:
        yield from _lines(path)
    else:
        yield from (row for _, row in table_rows(Path(path)))


def _lines(path: str, digest: str = "", version: int = 0) -> Iterator[dict[str, Any]]:
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            for line in file:
                yield {"text": line.rstrip("\n")}
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} cannot be read as text: it is not UTF-8 ({error}).") from error


def check_format(path: Path) -> None:
    """Raise ValueError if a file's format is unknown, FileNotFoundError if it does not exist."""
    if path.suffix not in (*TEXT_FORMATS, *FILE_FORMATS):
        raise ValueError(f"{path} must end in one of {', '.join((*TEXT_FORMATS, *FILE_FORMATS))}.")
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))


def find_text_column(names: list[str], asked: str | None, source: str) -> str:
    """The column with the text.

    Parameters
    ----------
    names : list of str
        Of all columns.
    asked : str or None
        The column that was asked for; by default ``text``, or the only column.
    source : str
        What has the columns, for errors.

    Raises
    ------
    ValueError
        If the column does not exist, or which it is is unknown.
    """
    if asked is not None:
        if asked not in names:
            raise ValueError(f"{source} has no column {asked!r}; it has {', '.join(names)}.")
        return asked
    if "text" in names:
        return "text"
    if len(names) == 1:
        return names[0]
    raise ValueError(f"{source} has the columns {', '.join(names)}: name the one with the text with --text_column.")


def check_text(data: Any, column: str, source: str) -> None:
    """Check that a column contains text: the model would learn the Python representation of lists or numbers.

    Parameters
    ----------
    data : Dataset or IterableDataset
    column : str
    source : str
        What has the column, for errors.

    Raises
    ------
    ValueError
        If the first value is not a string.
    """
    value = next((row[column] for row in data if row[column] is not None), "")
    if not isinstance(value, str):
        raise ValueError(f"{source} has no text in its column {column!r}, but values such as {str(value)[:40]!r}.")


def read_sets(
    *,
    dataset: tuple[str, str | None] | None,
    train_file: str | None,
    validation_file: str | None,
    percentage: int,
    needs_training: bool,
    needs_evaluation: bool,
    cache_dir: str | None,
) -> tuple[Any, Any]:
    """The training set and the validation set, None where not needed.

    Parameters
    ----------
    dataset : tuple of str or None
        Name and configuration on the hub; None: read the files.
    train_file, validation_file : str or None
    percentage : int
        Without a validation set, these first percent of the training set become it.
    needs_training, needs_evaluation : bool
    cache_dir : str or None
        For files of the hub, and tables in memory-mapped form.

    Returns
    -------
    train, validation : Dataset or None

    Raises
    ------
    ValueError
        If a file cannot be read, the dataset has neither split, or the training set is too small to split.
    """
    if dataset is not None:
        hub = read_hub(*dataset, cache_dir=cache_dir)
        train, validation = hub.get("train"), hub.get("validation")
        if validation is None and train is None:
            raise ValueError(f"{dataset[0]} has no split 'train' or 'validation'; it has {', '.join(hub)}.")
    else:
        own = needs_evaluation and validation_file is not None
        validation = read_text(Path(str(validation_file)), cache_dir) if own else None
        wanted = train_file is not None and (needs_training or (needs_evaluation and validation is None))
        train = read_text(Path(str(train_file)), cache_dir) if wanted else None
    if needs_evaluation and validation is None and train is not None:
        n = max(1, len(train) * percentage // 100)
        if n >= len(train):
            raise ValueError("The training set is too small to take texts to evaluate from: give --validation_file.")
        validation, train = train.select(range(n)), train.select(range(n, len(train)))
    return (train if needs_training else None), (validation if needs_evaluation else None)


def tokenize_text(
    batch: Mapping[str, list[Any]], tokenizer: Any, column: str, length: int, by_line: bool
) -> dict[str, Any]:
    """Tokenize texts into inputs of at most `length` tokens.

    Parameters
    ----------
    batch : mapping of str to list
        Columns.
    tokenizer : PreTrainedTokenizerBase
    column : str
        With the texts.
    length : int
    by_line : bool
        Each text is an input, truncated. Otherwise the texts of the batch are concatenated and split into inputs of
        exactly `length` tokens; only the last may be shorter, so that nothing is lost.

    Returns
    -------
    dict of str to list
        ``input_ids`` and ``special_tokens_mask``.
    """
    strange = next((text for text in batch[column] if text is not None and not isinstance(text, str)), None)
    if strange is not None:  # of a stream, of which only the first row was checked
        raise ValueError(f"The column {column!r} must have text. Got {str(strange)[:40]!r} in a row.")
    texts = [text for text in batch[column] if text is not None and not text.isspace() and text]
    if not texts:
        return {"input_ids": [], "special_tokens_mask": []}
    cut: dict[str, Any] = {"truncation": True, "max_length": length} if by_line else {}
    with unchanged_settings(tokenizer):  # a stream is tokenized while training
        read = tokenizer(texts, return_special_tokens_mask=True, return_attention_mask=False, verbose=False, **cut)
    columns = {name: read[name] for name in ("input_ids", "special_tokens_mask")}
    if by_line:
        return columns
    joined = {name: list(itertools.chain.from_iterable(rows)) for name, rows in columns.items()}
    n = len(joined["input_ids"])
    return {name: [row[i : i + length] for i in range(0, n, length)] for name, row in joined.items()}


class RepeatingStream(IterableDataset):  # type: ignore[type-arg]
    """A stream that starts again at its end, its examples numbered consecutively.

    To resume, the Trainer skips the examples that it has seen.

    Parameters
    ----------
    stream : datasets.IterableDataset
        Of texts.
    encode : callable
        Tokenizes a batch of texts.
    """

    def __init__(self, stream: Any, encode: Callable[[Mapping[str, list[Any]]], Mapping[str, list[Any]]]) -> None:
        self.stream, self.encode = stream, encode

    def __iter__(self) -> Iterator[dict[str, Any]]:
        number = 0
        for epoch in itertools.count():
            self.stream.set_epoch(epoch)
            before = number
            for batch in self.stream.iter(batch_size=1000):
                made = self.encode(batch)
                for ids, special in zip(made["input_ids"], made["special_tokens_mask"], strict=True):
                    yield {"input_ids": ids, "special_tokens_mask": special, "idx": number}
                    number += 1
            if number == before:
                raise ValueError("The stream of training texts is empty.")
