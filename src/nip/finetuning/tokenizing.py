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

from accelerate import PartialState

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
    digest = hashlib.sha256(json.dumps([len(data), data.column_names]).encode())
    for batch in data.with_format(None).iter(ROWS):
        digest.update(json.dumps(batch, default=repr).encode())
    return digest.hexdigest()


def file_key(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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

    Returns
    -------
    Dataset
        Its `_fingerprint` says what it was made of, as the name of the cache does.
    """
    made_of = [key or content_key(data), tokenizer_key(tokenizer), dict(settings), list(remove or data.column_names)]
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


def quiet() -> None:
    """No bars of `datasets` and `transformers` where standard error is no terminal."""
    import datasets
    from transformers.utils import logging

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
        logging.disable_progress_bar()
