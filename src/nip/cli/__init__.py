"""The command line, `nip …`: thin functions that read options, call a package and print the result."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup, TyperOption

from nip.cli import bench, data, doctor, finetuning, lra, pretrain, report, score, study
from nip.cli.extras import extra_of
from nip.runs.workers import watch_in_forked_children

PANELS = ("Graphs", "Train", "Finetune", "Data", "Tools")  # of nip --help, in this order


class Dialect(TyperGroup):
    """Commands that take ``-`` and ``_`` in options alike, and show only the first name of an option."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        by_panel = sorted(self.commands.items(), key=lambda item: PANELS.index(item[1].rich_help_panel))  # type: ignore[attr-defined]
        self.commands = dict(by_panel)
        _accept_other_spellings(self)


def _accept_other_spellings(command: Any) -> None:
    aliases: dict[str, str] = {}
    for option in command.params:
        if isinstance(option, TyperOption):
            shown, *others = option.opts
            aliases |= {other.lstrip("-"): shown.lstrip("-") for other in others}
            option.opts = [shown]

    def spelled(name: str) -> str:
        name = name.replace("_", "-")
        return aliases.get(name, name)

    command.context_settings = {**command.context_settings, "token_normalize_func": spelled}
    for inner in getattr(command, "commands", {}).values():
        _accept_other_spellings(inner)


app = typer.Typer(
    name="nip",
    cls=Dialect,
    help="Score the graphs that sparse attention runs on, attend over them, train on them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for module in (score, lra, pretrain, study, finetuning, data, report, bench, doctor):
    module.register(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: 0 on success, 2 with one sentence on standard error on bad input, 130 when interrupted."""
    watch_in_forked_children()
    try:
        code = app(args=arguments, prog_name="nip", standalone_mode=False)  # not the name of the script
        if not code:
            _leave_other_processes()
        sys.exit(code or 0)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except (ValueError, OSError, ImportError, typer.TyperException) as error:
        if sentence := _sentence(error):  # empty where the help has been printed instead
            print(f"nip: {sentence}", file=sys.stderr)
        sys.exit(2)


def _leave_other_processes() -> None:
    """Destroy the process group: gloo's threads may abort a process that exits with it open."""
    distributed = sys.modules.get("torch.distributed")  # avoids an import
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _sentence(error: Exception) -> str:
    if isinstance(error, typer.TyperException):
        sentence = " ".join(error.format_message().split())
        return sentence if sentence[-1:] in ".?" else f"{sentence}."
    extra = extra_of(error.name) if isinstance(error, ModuleNotFoundError) else None
    if isinstance(error, ModuleNotFoundError) and extra is not None:
        return f"This needs {error.name}, which is not installed: pip install 'nip[{extra}]'"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
