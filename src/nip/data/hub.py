"""Data sets of the Hugging Face Hub, streamed row by row with the `datasets` library; nothing is kept on disk."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from nip.data.tables import chosen_columns

Load = Callable[[str, str], Iterable[Mapping[str, Any]]]

CONFIG = ":"  # separates the name of a data set from that of its configuration: wikimedia/wikipedia:20231101.en
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def is_name(origin: str) -> bool:
    """Whether a text can be the name of a data set: ``owner/name``, or ``name``."""
    return _NAME.fullmatch(origin) is not None


def load(name: str, split: str) -> Any:
    """The rows of a split as a `datasets.IterableDataset`.

    Raises
    ------
    ImportError
        If `datasets` is not installed.
    """
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise ImportError(f"Reading {name} from the Hugging Face Hub needs datasets: pip install datasets") from error
    return datasets.load_dataset(*name.split(CONFIG, 1), split=split, streaming=True)


def load_shard(name: str, split: str, shard: int) -> Any:
    """The rows of one shard of a split.

    Parameters
    ----------
    name : str
        A data set on the hub.
    split : str
    shard : int
        Counted from 0.
    """
    stream = load(name, split)
    return stream.shard(num_shards=stream.num_shards, index=shard)


def number_of_shards(name: str, split: str = "train") -> int:
    """The number of shards of a split.

    Raises
    ------
    ImportError
        If `datasets` is not installed.
    OSError
        If the data set is not available: there is no network, or no such set.
    """
    try:
        return int(load(name, split).num_shards)
    except ImportError:
        raise
    except Exception as error:
        raise _unavailable(name, 0, error) from error


def rows(load: Load, name: str, split: str, columns: Sequence[Sequence[str]]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """The rows of a split: their numbers, from 0, and the values of some columns.

    Parameters
    ----------
    load : callable
        `load`, or another function of name and split that returns an iterable of rows.
    name, split : str
    columns : sequence of sequences of str
        For each column the names it may have.

    Raises
    ------
    OSError
        If the data set is not available: there is no network, or no such set.
    ValueError
        If a column is missing.
    """
    chosen: list[str] = []
    for number, row in enumerate(_fetched(load, name, split)):
        chosen = chosen or chosen_columns(name, list(row), columns)
        yield number, tuple(row[column] for column in chosen)


def _fetched(load: Load, name: str, split: str) -> Iterator[Mapping[str, Any]]:
    number = 0
    try:
        for row in load(name, split):
            yield row
            number += 1
    except ImportError:
        raise
    except Exception as error:  # network libraries raise classes of their own, which need not be installed here
        raise _unavailable(name, number, error) from error


def _unavailable(name: str, number: int, error: Exception) -> OSError:
    where = "nor could it be fetched" if number == 0 else f"and fetching it failed after row {number}"
    return OSError(
        f"There is no file or folder {name}, {where} from the Hugging Face Hub ({type(error).__name__}: {error})."
    )
