"""Examples as tokens, kept on the disk under a name that says what they were made of.

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

from nip.finetuning.arguments import Command

ROWS = 1000


def content_key(data: Any) -> str:
    """SHA-256 of a Dataset's columns and rows; how it is stored does not matter.

    Examples
    --------
    >>> from datasets import Dataset
    >>> one, other = Dataset.from_dict({"a": [1, 2]}), Dataset.from_dict({"a": [2, 1]})
    >>> content_key(one) == content_key(other.select([1, 0]))
    True
    """
    import pyarrow

    digest = _Digest()
    writer = None
    for table in data.with_format("arrow").iter(ROWS):
        plain = table.replace_schema_metadata(None).combine_chunks()
        if writer is None:
            writer = pyarrow.ipc.new_stream(pyarrow.PythonFile(digest, mode="w"), plain.schema)
        writer.write_table(plain)
    if writer is not None:
        writer.close()
    return digest.hexdigest()


def tokenizer_key(tokenizer: Any) -> str:
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


def tokenized(
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
    """
    made_of = [key or content_key(data), tokenizer_key(tokenizer), dict(settings), list(remove or data.column_names)]
    name = hashlib.sha256(json.dumps(made_of, sort_keys=True, default=str).encode()).hexdigest()
    folder = cache_folder(command)
    processes = command.run.preprocessing_num_workers
    if processes is not None and (processes == 1 or len(data) < processes * ROWS):
        processes = None
    return data.map(
        function,
        batched=True,
        batch_size=ROWS,
        num_proc=processes,
        remove_columns=list(remove or data.column_names),
        load_from_cache_file=not command.run.overwrite_cache,
        cache_file_name=str(folder / f"{name}.arrow"),
        new_fingerprint=name[:32],
        desc=None,
    )


def cache_folder(command: Command) -> Path:
    """Where tokenized examples are kept: ``--cache_dir``, else beside what `datasets` keeps."""
    import datasets

    base = command.model.cache_dir or datasets.config.HF_DATASETS_CACHE
    folder = Path(base) / "nip-tokenized"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class _Digest:
    """A file to write to whose bytes are only summed up."""

    closed = False

    def __init__(self) -> None:
        self._sum, self._length = hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        self._sum.update(data)
        self._length += len(data)
        return len(data)

    def tell(self) -> int:
        return self._length

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def hexdigest(self) -> str:
        return self._sum.hexdigest()


def quiet() -> None:
    """No bars of `datasets` and `transformers` where standard error is no terminal."""
    import datasets
    from transformers.utils import logging

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
        logging.disable_progress_bar()
