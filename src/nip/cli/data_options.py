"""Options that the commands of `nip data` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[
    Path | None,
    typer.Option(
        "--out", "--data", help="The data folder, which holds a folder per task (default: $NIP_DATA, else data/)."
    ),
]
TaskName = Annotated[str, typer.Argument(metavar="TASK", help="The task, such as listops.")]
Origin = Annotated[str | None, typer.Option("--from", help="The file or folder to read.")]
SourceName = Annotated[str | None, typer.Option("--source", help="The form of what is read, or how to draw.")]
SplitRule = Annotated[str | None, typer.Option("--split-rule", help="How to split what is read.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a set that is there.")]
