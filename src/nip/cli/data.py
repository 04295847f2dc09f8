"""`nip data …`: make, look at and check the data that models are trained on."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from nip.cli.options import Json, emit

if TYPE_CHECKING:
    from nip.data import Examples, Statistics

Folder = Annotated[
    Path | None,
    typer.Option(
        "--out", "--data", help="The data folder, which holds a folder per task (default: $NIP_DATA, else data/)."
    ),
]
TaskName = Annotated[str, typer.Argument(metavar="TASK", help="The task, such as listops.")]


class Tasks(TyperGroup):
    """A group that answers an unknown task with the names there are."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the first word names."""
        if args and args[0] not in self.commands:
            raise ValueError(f"There is no task {args[0]!r}. nip data takes {', '.join(self.commands)}.")
        return super().resolve_command(ctx, args)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    room = typer.Typer(cls=Tasks, no_args_is_help=True, help="Make, look at and check training data.")
    room.command("listops")(listops_command)
    room.command("show")(show_command)
    room.command("verify")(verify_command)
    app.add_typer(room, name="data")


def _number(flag: str, says: str, default: int) -> Any:
    # no default of its own, so that a flag that has no meaning beside --from is noticed
    return typer.Option(flag, help=f"{says.removesuffix('.')} (default: {default:,}).")


def listops_command(
    out: Folder = None,
    seed: Annotated[int | None, _number("--seed", "Another seed, another set.", 0)] = None,
    train: Annotated[int | None, _number("--train", "Training examples.", 96000)] = None,
    dev: Annotated[int | None, _number("--dev", "Development examples.", 2000)] = None,
    test: Annotated[int | None, _number("--test", "Test examples.", 2000)] = None,
    min_length: Annotated[int | None, _number("--min-length", "Examples are longer than this (tokens).", 500)] = None,
    max_length: Annotated[int | None, _number("--max-length", "Examples are shorter than this (tokens).", 2000)] = None,
    max_depth: Annotated[int | None, _number("--max-depth", "Depth of a tree, root and digits counted.", 10)] = None,
    max_args: Annotated[int | None, _number("--max-args", "Arguments of an operator.", 10)] = None,
    files: Annotated[
        Path | None, typer.Option("--from", help="Take the official basic_{train,val,test}.tsv of this folder instead.")
    ] = None,
    tsv: Annotated[
        bool, typer.Option("--tsv", help="Write the official .tsv files too (0.66 GB for the full set).")
    ] = (False),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a set that is there.")] = False,
    as_json: Json = False,
) -> None:
    """Make the ListOps set by the official rule, unless it is there already, and describe it.

    Example: nip data listops --train 5000 --dev 500 --test 500 --min-length 100 --max-length 250
    """
    from nip import data

    began = time.perf_counter()
    sizes = {"train": train, "dev": dev, "test": test}
    rule = {"min_length": min_length, "max_length": max_length, "max_depth": max_depth, "max_args": max_args}
    if files is not None:
        given = [name for name, value in {"seed": seed, **sizes, **rule}.items() if value is not None]
        if given:
            flags = ", ".join("--" + name.replace("_", "-") for name in given)
            raise ValueError(f"--from takes the examples as they are in the files; {flags} cannot be given with it.")
        made = data.import_listops(files, out, overwrite=overwrite)
    else:
        official = data.TASKS["listops"].sizes
        n_train, n_dev, n_test = (
            size if given is None else given for given, size in zip(sizes.values(), official, strict=True)
        )
        with _progress(n_train + n_dev + n_test) as progress:
            made = data.build_listops(
                out,
                data.Rule(**{name: value for name, value in rule.items() if value is not None}),
                (n_train, n_dev, n_test),
                seed=0 if seed is None else seed,
                overwrite=overwrite,
                progress=progress,
            )
    splits = {name: data.open_split("listops", name, out) for name in data.SPLITS}
    home = data.data_folder(out) / "listops"
    written = data.write_tsv(splits, home) if tsv else []
    seconds = time.perf_counter() - began
    counts = {name: data.statistics(split) for name, split in splits.items()}
    baselines = data.baselines(splits["train"], splits["test"])
    if as_json:
        described = {
            "folder": str(home),
            "made": made,
            "seconds": round(seconds, 3),
            "manifest": data.read_manifest("listops", out),
            "tsv": [str(path) for path in written],
            "statistics": {name: vars(count) for name, count in counts.items()},
            "baselines": baselines,
        }
        emit(json.dumps(described, allow_nan=False, indent=2, ensure_ascii=False), None)
        return
    print(f"{home}: {'made' if made else 'is there already, checked'} in {seconds:.1f} s")
    for path in written:
        print(f"{path}: written")
    _print_statistics(counts, baselines)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None] | None]:
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("ListOps"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("ListOps", total=total)
        yield lambda found: bar.update(task, completed=found)


def _print_statistics(counts: dict[str, Statistics], baselines: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in counts:
        table.add_column(name, justify="right")
    columns = [_described(count) for count in counts.values()]
    for row in columns[0]:
        table.add_row(row, *(column[row] for column in columns))
    Console().print(table)
    print(
        f"Always the commonest label of train: {baselines['commonest_label']:.1%} of test; "
        f"knowing only the root's operator: {baselines['root_operator']:.1%}."
    )


def _described(count: Statistics) -> dict[str, str]:
    operators = sum(count.operators.values())
    arguments = sum(number * times for number, times in count.arguments.items())
    return {
        "examples": f"{count.examples:,}",
        "tokens": f"{count.tokens:,}",
        **{f"length, {name}": f"{value:,.0f}" for name, value in count.length.items()},
        "depth, largest": str(max(count.depth)),
        **{f"operators {name}": f"{times / max(operators, 1):.1%}" for name, times in count.operators.items()},
        "arguments, mean": f"{arguments / max(operators, 1):.2f}",
        **{f"label {label}": f"{times / count.examples:.1%}" for label, times in count.labels.items()},
    }


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


def verify_command(task: TaskName, out: Folder = None, as_json: Json = False) -> None:
    """Read every byte of a task's data: checksums, token ids, and for ListOps the value of every expression.

    Example: nip data verify listops
    """
    from nip import data

    counts = data.verify(task, out)
    home = data.data_folder(out) / task
    if as_json:
        emit(json.dumps({"folder": str(home), "sound": True, "examples": counts}), None)
        return
    print(f"{home}: sound ({', '.join(f'{number:,} {name}' for name, number in counts.items())})")
