"""Sets of the Hugging Face Hub, read through the `datasets` library row by row."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from nip.data.tables import chosen_columns

Load = Callable[[str, str], Iterable[Mapping[str, Any]]]

_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def is_name(origin: str) -> bool:
    """Whether a text can be the name of a set: ``owner/name``, or ``name``."""
    return _NAME.fullmatch(origin) is not None


def load(name: str, part: str) -> Iterable[Mapping[str, Any]]:
    """The rows of a part of a set, fetched as they are asked for.

    Raises
    ------
    ImportError
        If `datasets` is not installed.
    """
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise ImportError(f"Reading {name} from the Hugging Face Hub needs datasets: pip install datasets") from error

    rows: Iterable[Mapping[str, Any]] = datasets.load_dataset(name, split=part, streaming=True)
    return rows


def rows(load: Load, name: str, part: str, columns: Sequence[Sequence[str]]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """The rows of a part: their numbers, from 0, and the columns asked for.

    Raises
    ------
    OSError
        If the set cannot be had: there is no network, or no such set.
    ValueError
        If it has no such column.
    """
    number = 0
    try:
        chosen: list[str] = []
        for row in load(name, part):
            chosen = chosen or chosen_columns(name, list(row), columns)
            yield number, tuple(row[column] for column in chosen)
            number += 1
    except (ValueError, ImportError):
        raise
    except Exception as error:  # network libraries raise classes of their own, which need not be installed here
        where = "nor could it be fetched" if number == 0 else f"and fetching it failed after row {number}"
        raise OSError(
            f"There is no file or folder {name}, {where} from the Hugging Face Hub ({type(error).__name__}: {error})."
        ) from error
