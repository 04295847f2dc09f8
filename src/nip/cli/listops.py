"""`nip data listops`: draw or read a ListOps set, and say what it looks like."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nip.cli.data_options import Folder, Origin, Overwrite, SourceName
from nip.cli.making import make, print_folder, print_made
from nip.cli.options import Json, emit

if TYPE_CHECKING:
    from nip.data import Statistics


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
    origin: Origin = None,
    source: SourceName = None,
    tsv: Annotated[
        bool, typer.Option("--tsv", help="Write the official .tsv files too (0.66 GB for the full set).")
    ] = (False),
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make the ListOps set by the official rule, unless it is there already, and describe it.

    Example: nip data listops --train 5000 --dev 500 --test 500 --min-length 100 --max-length 250
    """
    from nip import data

    sizes = {"train": train, "dev": dev, "test": test}
    rule = {"min_length": min_length, "max_length": max_length, "max_depth": max_depth, "max_args": max_args}
    given = {name: value for name, value in {**sizes, **rule}.items() if value is not None}
    if origin is not None and (given or seed is not None):
        flags = ", ".join("--" + name.replace("_", "-") for name in [*["seed"][seed is None :], *given])
        raise ValueError(f"--from takes the examples as they are in the files; {flags} cannot be given with it.")
    made = make("listops", out, origin=origin, source=source, seed=seed, parameters=given, overwrite=overwrite)
    splits = {name: data.open_split("listops", name, out) for name in data.SPLITS}
    foreign = splits["train"].foreign
    if tsv and foreign:
        raise ValueError("--tsv needs token ids whose meaning is known; these come from files that do not say it.")
    written = data.write_tsv(splits, data.data_folder(out) / "listops") if tsv else []
    counts = {} if foreign else {name: data.statistics(split) for name, split in splits.items()}
    if as_json:
        made["tsv"] = [str(path) for path in written]
        made["statistics"].update({name: vars(count) for name, count in counts.items()})
        emit(json.dumps(made, allow_nan=False, indent=2, ensure_ascii=False), None)
        return
    if foreign:
        print_made(made)
        return
    print_folder(made)
    for path in written:
        print(f"{path}: written")
    _print_statistics(counts, made["baselines"])


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
