"""Running text for masked language modelling: from the hub, text files, or files of rows; stored or as a stream."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset

from nip.finetuning.datasets import KINDS, json_options, read_hub, read_rows

TEXT_KINDS = (".txt", ".text", ".md")
STREAMED_EVALUATION = 1000  # texts, where a stream is evaluated and nobody says how many


def read_text(path: Path) -> Any:
    """A file as a Dataset: text a line a row, else rows.

    Raises
    ------
    ValueError
        If it is of no known kind or holds nothing.
    OSError
        If there is no such file.
    """
    import datasets

    if path.suffix not in TEXT_KINDS:
        if path.suffix not in KINDS:
            raise ValueError(f"{path} must end in one of {', '.join((*TEXT_KINDS, *KINDS))}.")
        return read_rows(path)
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty.")
    try:
        return datasets.load_dataset("text", data_files=str(path), split="train")
    except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as text: {error.__cause__ or error}") from error


def stream_file(path: Path) -> Any:
    """A file as a stream of rows, read as it is needed."""
    import datasets

    kind = "text" if path.suffix in TEXT_KINDS else KINDS.get(path.suffix)
    if kind is None:
        raise ValueError(f"{path} must end in one of {', '.join((*TEXT_KINDS, *KINDS))}.")
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    options: dict[str, Any] = {"sep": "\t"} if path.suffix == ".tsv" else json_options(path)
    return datasets.load_dataset(kind, data_files=str(path), split="train", streaming=True, **options)


def text_column(names: list[str], told: str | None, source: str) -> str:
    """The column that holds the text: as told, else ``text``, else the only one.

    Raises
    ------
    ValueError
        If it is not there, or nothing says which it is.
    """
    if told is not None:
        if told not in names:
            raise ValueError(f"{source} has no column {told!r}; it has {', '.join(names)}.")
        return told
    if "text" in names:
        return "text"
    if len(names) == 1:
        return names[0]
    raise ValueError(f"{source} has the columns {', '.join(names)}: say with --text_column which is the text.")


def check_text(data: Any, column: str, source: str) -> None:
    """Refuse a column, of stored rows or of a stream, whose first value is no text: its Python form would be learnt.

    Raises
    ------
    ValueError
        If it is a list, a number or the like.
    """
    value = next((row[column] for row in data if row[column] is not None), "")
    if not isinstance(value, str):
        raise ValueError(f"{source} does not hold text in its column {column!r}, but such as {str(value)[:40]!r}.")


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
    """The training set and the one to evaluate, each None where it is not needed.

    Where there is none to evaluate, the first `percentage` percent of the training set are taken for it.
    """
    if dataset is not None:
        hub = read_hub(*dataset, cache_dir=cache_dir)
        train, validation = hub.get("train"), hub.get("validation")
        if validation is None and train is None:
            raise ValueError(f"{dataset[0]} has no split 'train' or 'validation'; it has {', '.join(hub)}.")
    else:
        own = needs_evaluation and validation_file is not None
        validation = read_text(Path(str(validation_file))) if own else None
        wanted = train_file is not None and (needs_training or (needs_evaluation and validation is None))
        train = read_text(Path(str(train_file))) if wanted else None
    if needs_evaluation and validation is None and train is not None:
        n = max(1, len(train) * percentage // 100)
        if n >= len(train):
            raise ValueError("The training set is too small to take texts to evaluate from: give --validation_file.")
        validation, train = train.select(range(n)), train.select(range(n, len(train)))
    return (train if needs_training else None), (validation if needs_evaluation else None)


def pieces(batch: Mapping[str, list[Any]], tokenizer: Any, column: str, length: int, by_line: bool) -> dict[str, Any]:
    """Texts as pieces of at most `length` tokens: `input_ids` and `special_tokens_mask`.

    Parameters
    ----------
    batch : mapping of str to list
        Columns.
    tokenizer : PreTrainedTokenizerBase
    column : str
        Of the texts.
    length : int
    by_line : bool
        A text a piece, what is longer cut off. Else the texts are joined and cut into pieces of exactly that length;
        only the last of a batch of texts may be shorter, so that nothing is lost.
    """
    texts = [str(text) for text in batch[column] if text is not None and not str(text).isspace() and str(text)]
    if not texts:
        return {"input_ids": [], "special_tokens_mask": []}
    cut: dict[str, Any] = {"truncation": True, "max_length": length} if by_line else {}
    read = tokenizer(texts, return_special_tokens_mask=True, return_attention_mask=False, verbose=False, **cut)
    columns = {name: read[name] for name in ("input_ids", "special_tokens_mask")}
    if by_line:
        return columns
    joined = {name: list(itertools.chain.from_iterable(rows)) for name, rows in columns.items()}
    n = len(joined["input_ids"])
    return {name: [row[i : i + length] for i in range(0, n, length)] for name, row in joined.items()}


class RepeatingStream(IterableDataset):  # type: ignore[type-arg]
    """A stream that begins again at its end, its examples numbered throughout.

    To go on after a restart is then to skip as many as were seen, which the Trainer does.

    Parameters
    ----------
    stream : datasets.IterableDataset
        Of texts.
    encode : callable
        Makes pieces of a batch of texts.
    """

    def __init__(self, stream: Any, encode: Callable[[Mapping[str, list[Any]]], Mapping[str, list[Any]]]) -> None:
        self.stream, self.encode = stream, encode

    def __iter__(self) -> Iterator[dict[str, Any]]:
        number = 0
        for turn in itertools.count():
            self.stream.set_epoch(turn)
            before = number
            for batch in self.stream.iter(batch_size=1000):
                made = self.encode(batch)
                for ids, special in zip(made["input_ids"], made["special_tokens_mask"], strict=True):
                    yield {"input_ids": ids, "special_tokens_mask": special, "idx": number}
                    number += 1
            if number == before:
                raise ValueError("The stream of training texts is empty.")
