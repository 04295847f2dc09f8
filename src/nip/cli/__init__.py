"""The command line, `nip …`: thin functions that read options, call a room and print what it returns."""

from __future__ import annotations

import sys

import typer

from nip.cli import bench, data, doctor, finetuning, lra, pretrain, report, score, study
from nip.cli.extras import bringing

app = typer.Typer(
    name="nip",
    help="Which sparse graph should self-attention run on? Score it, attend over it, train on it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for room in (score, data, lra, pretrain, finetuning, study, report, bench, doctor):
    room.register(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: 0 on success, 2 with one sentence on standard error on bad input, 130 when interrupted."""
    try:
        # typer itself ends the process on success, on a usage error and when interrupted
        app(args=arguments, prog_name="nip")  # a script of the original's name shows the usage of nip's own command
    except SystemExit as end:
        if not end.code:
            _leave_other_processes()
        raise
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except (ValueError, OSError, ImportError) as error:
        print(f"nip: {_sentence(error)}", file=sys.stderr)
        sys.exit(2)


def _leave_other_processes() -> None:
    """Close what connects the processes of a run: threads of gloo's may abort a process that ends with it open."""
    distributed = sys.modules.get("torch.distributed")  # not imported for this
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _sentence(error: Exception) -> str:
    extra = bringing(error.name) if isinstance(error, ModuleNotFoundError) else None
    if isinstance(error, ModuleNotFoundError) and extra is not None:
        return f"This needs {error.name}, which is not installed: pip install 'nip[{extra}]'"
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)
