"""`nip data show`: examples as text, and as pictures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from nip.cli.data_options import Folder, TaskName
from nip.cli.options import Json, emit

if TYPE_CHECKING:
    from nip.data import Examples


def show_command(
    task: TaskName,
    split: Annotated[str, typer.Option(help="train, dev or test.")] = "train",
    index: Annotated[int, typer.Option(help="The first example to print, from 0.")] = 0,
    count: Annotated[int, typer.Option(help="How many to print.")] = 1,
    out: Folder = None,
    as_json: Json = False,
) -> None:
    """Print examples as text, with their labels.

    Example: nip data show listops --split dev --index 3 --count 2
    """
    from nip import data

    if count < 1:
        raise ValueError(f"--count must be an integer of at least 1. Got {count} instead.")
    examples = data.open_split(task, split, out)
    rows = [_example(examples, i) for i in range(index, index + count)]
    if as_json:
        emit(json.dumps(rows, indent=2), None)
        return
    for row in rows:
        print(f"{task} {split} {row['index']}: label {row['label']}, {row['length']} tokens\n{row['text']}")


def _example(examples: Examples, index: int) -> dict[str, int | str]:
    from nip.data import decode

    tokens = examples.sequence(index)
    return {
        "index": index,
        "label": int(examples.labels[index]),
        "length": len(tokens),
        "text": decode(tokens),
    }
