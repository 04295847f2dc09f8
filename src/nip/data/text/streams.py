"""Sets of the Hugging Face Hub as streams: their train split, shard by shard, nothing of it kept on disk.

``NAME:CONFIG`` names one of several configurations, as in ``wikimedia/wikipedia:20231101.en``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

CONFIG = ":"  # parts a set's name from that of a configuration


def number_of_shards(name: str) -> int:
    """How many shards the set comes in; each is read on its own.

    Raises
    ------
    ImportError
        If `datasets` is not installed.
    OSError
        If the set cannot be had: there is no network, or no such set.
    """
    return int(_stream(name).num_shards)


def rows(name: str, shard: int) -> Iterator[Mapping[str, Any]]:
    """The rows of one shard, fetched as they are asked for.

    Raises
    ------
    OSError
        If fetching fails.
    """
    stream = _stream(name)
    number = 0
    try:
        for row in stream.shard(num_shards=stream.num_shards, index=shard):
            yield row
            number += 1
    except ImportError:
        raise
    except Exception as error:  # network libraries raise classes of their own, which need not be installed here
        raise _failed(name, f"row {number} of shard {shard}", error) from error


def _stream(name: str) -> Any:
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise ImportError(f"Streaming {name} needs datasets: pip install 'nip[pretrain]'") from error
    try:
        which = name.split(CONFIG, 1)
        return datasets.load_dataset(*which, split="train", streaming=True)
    except ImportError:
        raise
    except Exception as error:
        raise _failed(name, "its list of files", error) from error


def _failed(name: str, what: str, error: Exception) -> OSError:
    return OSError(
        f"There is no file or folder {name}, and {what} could not be fetched from the Hugging Face Hub "
        f"({type(error).__name__}: {error})."
    )
