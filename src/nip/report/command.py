"""The command that repeats a run."""

from __future__ import annotations

import shlex

from nip.lra.config import RunConfig
from nip.lra.record import command_of
from nip.runs.record import RunRecord


def reproduction_command(run: RunRecord) -> str:
    """The command of a run, quoted for a shell; an older run of ``nip lra`` has it derived from its configuration.

    Raises
    ------
    ValueError
        If that configuration is damaged.
    """
    if run.command or run.kind != "lra":
        return shlex.join(map(str, run.command))
    try:
        return shlex.join(command_of(RunConfig(**run.settings)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{run.folder}: {error}") from error
