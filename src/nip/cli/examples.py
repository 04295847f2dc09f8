"""`nip data show`: examples as text, and as pictures."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    picture: Annotated[
        Path | None, typer.Option("--image", help="Draw the examples of an image task into this PNG file instead.")
    ] = None,
    out: Folder = None,
    as_json: Json = False,
) -> None:
    """Print examples with their labels: expressions and texts decoded, images drawn.

    Example: nip data show listops --split dev --index 3 --count 2

    Example: nip data show image --count 50 --image sheet.png
    """
    from nip import data
    from nip.data import pictures

    if count < 1:
        raise ValueError(f"--count must be an integer of at least 1. Got {count} instead.")
    examples = data.open_split(task, split, out)
    if picture is not None:
        if picture.suffix.lower() != ".png":
            raise ValueError(f"--image writes a PNG file. Got {str(picture)!r} instead.")
        pictures.sheet(examples, range(index, index + count), picture)
        print(f"wrote {picture}", file=sys.stderr)
    rows = [_example(examples, i) for i in range(index, index + count)]
    if as_json:
        emit(json.dumps(rows, indent=2, ensure_ascii=False), None)
        return
    for row in rows:
        known = f" ({row['class']})" if "class" in row else ""
        print(f"{task} {split} {row['index']}: label {row['label']}{known}, {row['length']} tokens")
        if "pixels" not in row:
            print("\n\n".join(row.get("texts", [row.get("text")])))
        elif picture is None:
            pixels = pictures.image(examples, row["index"])
            print(pictures.in_blocks(pixels) if sys.stdout.isatty() else pictures.in_letters(pixels))


def _example(examples: Examples, index: int) -> dict[str, Any]:
    """One example as `--json` has it; ``texts`` are the two of a pair."""
    from nip.data.pictures import image

    task = examples.task
    texts = [_text(examples, index, part) for part in range(examples.width)]
    label = int(examples.labels[index])
    return {
        "index": index,
        "label": label,
        **({"class": task.classes[label]} if task.classes else {}),
        "length": int(examples.lengths[index]),
        **(
            {"pixels": image(examples, index).tolist()}
            if task.shape
            else {"texts": texts}
            if task.pair
            else {"text": texts[0]}
        ),
    }


def _text(examples: Examples, index: int, part: int) -> str:
    from nip.data import decode

    task, ids = examples.task, examples.sequence(index, part).tolist()
    if examples.foreign or task.shape:
        return " ".join(map(str, ids))  # nobody says what they mean
    if task.kind == "expression":
        return decode(ids)
    if task.kind == "bytes":
        return bytes(i - 1 for i in ids if i).decode("utf-8", "replace")
    if examples.targets is None:
        return " ".join(task.tokens[i] for i in ids)
    start = int(examples.offsets[examples.width * index + part])
    targets = examples.targets[start : start + len(ids)].tolist()
    return " ".join(
        f"{task.tokens[i]}→{target - 1}" if target else task.tokens[i] for i, target in zip(ids, targets, strict=True)
    )
