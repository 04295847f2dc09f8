"""`nip data …`: make, look at and check the data that models are trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from nip.cli.corpus import corpus_command, verify_corpus
from nip.cli.data_options import Folder, Origin, Overwrite, SourceName, SplitRule, TaskName
from nip.cli.examples import show_command
from nip.cli.listops import listops_command
from nip.cli.making import make, print_made, write_png
from nip.cli.options import Json, emit
from nip.cli.texts import labelled_texts_command, texts_command
from nip.graphs.pattern import read_parameters


class Tasks(TyperGroup):
    """A group that answers an unknown task with the names there are."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the first word names."""
        if args and args[0] not in self.commands:
            raise ValueError(f"There is no task {args[0]!r}. nip data takes {', '.join(self.commands)}.")
        return super().resolve_command(ctx, args)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    from nip.data import TASKS

    room = typer.Typer(cls=Tasks, no_args_is_help=True, help="Make, look at and check training data.")
    for task in TASKS:
        room.command(task)(listops_command if task == "listops" else _command_of(task))
    room.command("corpus")(corpus_command)
    room.command("texts")(texts_command)
    room.command("labelled-texts")(labelled_texts_command)
    room.command("show")(show_command)
    room.command("verify")(verify_command)
    app.add_typer(room, name="data")


def _command_of(task: str) -> Callable[..., None]:
    """The command that makes a task's data."""
    from nip.data import TASKS, sources_of

    def command(
        origin: Origin = None,
        source: SourceName = None,
        split_rule: SplitRule = None,
        seed: Annotated[int | None, typer.Option("--seed", help="Of what is drawn: another seed, another set.")] = None,
        param: Annotated[
            list[str] | None, typer.Option("--param", help="A parameter of the source, name=value; may be repeated.")
        ] = None,
        png: Annotated[
            Path | None,
            typer.Option(help="Write the official files of Pathfinder too, pictures and lists, into this folder."),
        ] = None,
        out: Folder = None,
        overwrite: Overwrite = False,
        as_json: Json = False,
    ) -> None:
        from nip.data import pathfinder

        if png is not None and not task.startswith(pathfinder.PREFIX):
            raise ValueError(f"--png writes pictures of Pathfinder. Got the task {task} instead.")
        made = make(
            task,
            out,
            origin=origin,
            source=source,
            split_rule=split_rule,
            seed=seed,
            parameters=read_parameters(param or []),
            overwrite=overwrite,
        )
        if png is not None:
            made["png"] = str(write_png(task, png, out))
        if as_json:
            emit(json.dumps(made, allow_nan=False, indent=2, ensure_ascii=False), None)
            return
        print_made(made)

    ways = sources_of(TASKS[task])
    lines = [f"Make the data of {task}, unless it is there already, and describe it."]
    for way in ways:
        rules = f"; --split-rule {' | '.join(way.split_rules)}" if way.split_rules else ""
        parameters = f"; --param {', '.join(way.parameters)}" if way.parameters else ""
        lines.append(f"--source {way.name}: {way.says}{rules}{parameters}.")
    lines.append(f"Example: nip data {task}{' --from FOLDER' if TASKS[task].read else ''}")
    command.__doc__ = "\n\n".join(lines)
    return command


def verify_command(task: TaskName, out: Folder = None, as_json: Json = False) -> None:
    """Read every byte of a task's data: checksums, token ids, and for ListOps the value of every expression.

    The folder of a task's data, or of a corpus, may stand for the task.

    Example: nip data verify listops
    """
    from nip import data

    if task not in data.TASKS and Path(task).is_dir():
        folder = Path(task).resolve()
        if out is not None:
            raise ValueError(f"--out is for the name of a task; {task} is a folder. Leave one of the two out.")
        found = data.task_in(folder)
        if found is None:
            verify_corpus(Path(task), as_json=as_json)
            return
        if found != folder.name:
            raise ValueError(f"{task} holds the data of {found}, which must lie in a folder of that name. Rename it.")
        task, out = found, folder.parent
    counts = data.verify(task, out)
    home = data.data_folder(out) / task
    if as_json:
        emit(json.dumps({"folder": str(home), "sound": True, "examples": counts}), None)
        return
    print(f"{home}: sound ({', '.join(f'{number:,} {name}' for name, number in counts.items())})")
