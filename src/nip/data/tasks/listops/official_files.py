"""The official ListOps files, ``basic_train.tsv``, ``basic_val.tsv`` and ``basic_test.tsv``: read and written.

A line is an expression, a tab and its value; the first line is ``Source<tab>Target``. Long Range Arena writes each
application in parentheses, one argument at a time: ``( ( ( [MAX 1 ) 2 ) ] )`` for ``[MAX 1 2 ]``.

The parser is compiled: `pyarrow.csv` with its string functions takes five times as long and twenty times the memory,
accepts labels such as ``01``, and refuses lines of spaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nip.atomic import replacing
from nip.data.tasks.examples import Examples, read_only
from nip.data.tasks.listops.language import TOKENS
from nip.data.tasks.registry import SPLITS, TASKS, Task
from nip.data.tasks.source import Plan, Request, release_folder
from nip.runs.folder import file_sha256

NAMES = {"train": "basic_train.tsv", "dev": "basic_val.tsv", "test": "basic_test.tsv"}
HEADER = "Source\tTarget"
_ROWS = 1000  # written at a time: about 6 MB


def read_tsv(folder: Path) -> dict[str, Examples]:
    """Read the three official files of a folder.

    Raises
    ------
    FileNotFoundError
        If one of them is missing.
    ValueError
        If a line is malformed; the message names file and line.
    """
    return {split: read_tsv_file(Path(folder) / NAMES[split], split) for split in SPLITS}


def read_tsv_file(path: Path, split: str) -> Examples:
    """Read one file, with or without the official parentheses, with ``]`` or ``X`` as the closing bracket.

    Every label is compared with the value of its expression. Blank lines are skipped.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a line has no label 0 … 9, an unknown token, an incomplete expression, or a value that is not its label.
    """
    from nip.data.tasks.listops import kernels

    _require_file(path)

    text = np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.zeros(0, np.uint8)
    header = text[:4096].tobytes().split(b"\n")[0]
    if header.strip() != HEADER.encode():
        raise _malformed(path, 1, f"the header must be {HEADER!r}, not {_shown(header)}")
    (text,) = read_only(text)
    tokens, offsets, labels, lines, (fault, line, start, stop) = kernels.parse_lines(text, len(header) + 1)
    if fault != kernels.SOUND:
        why = {
            kernels.UNKNOWN_TOKEN: "{} is not a token; the tokens are " + " ".join(TOKENS[1:]),
            kernels.NO_TARGET: "there is no tab with a label after the expression",
            kernels.NO_LABEL: "the label must be one of 0 … 9, not {}",
            kernels.NO_TOKENS: "there is no expression before the tab",
        }[fault]
        raise _malformed(path, line, why.format(_shown(text[start:stop].tobytes())))
    if not labels.size:
        raise _malformed(path, 2, "there is no example")
    values = kernels.values(*read_only(tokens, offsets))
    wrong = np.flatnonzero(values != labels)
    if wrong.size:
        first = wrong[0]
        why = f"the label is {labels[first]}, the value of the expression is {values[first]}"
        if values[first] < 0:
            why = "brackets and arguments do not make a complete expression"
        raise _malformed(path, int(lines[first]), why)
    return Examples(TASKS["listops"], split, tokens, offsets, labels)


def recognises_tsv(path: Path, task: Task) -> bool:
    """Whether the folder, or ``listops-1000`` in it, has one of the three files."""
    return _folder(path) is not None


def plan_tsv(request: Request) -> Plan:
    """Take the three files of a folder, as they are split."""
    folder = _folder(request.path) or request.path
    paths = [folder / name for name in NAMES.values()]
    for path in paths:
        _require_file(path)
    return Plan(
        {
            "source": "official files",
            "parameters": {path.name: file_sha256(path) for path in paths},
            "split_rule": "As in the files.",
            "licence": "That of the files. Long Range Arena, which publishes them, is under Apache-2.0.",
        },
        lambda: read_tsv(folder),
    )


def _folder(path: Path) -> Path | None:
    return release_folder(
        path, "listops-1000", lambda folder: any((folder / name).is_file() for name in NAMES.values())
    )


def write_tsv(splits: Mapping[str, Examples], folder: Path) -> list[Path]:
    """Write the three official files into a folder, each atomically; returns their paths."""
    return [_write(splits[split], Path(folder) / name) for split, name in NAMES.items()]


def _write(examples: Examples, path: Path) -> Path:
    with replacing(path) as file:
        file.write(f"{HEADER}\r\n".encode())
        for first in range(0, len(examples), _ROWS):
            file.write(_lines(examples, first, min(first + _ROWS, len(examples))).data)
    return path


def _lines(examples: Examples, first: int, last: int) -> NDArray[np.uint8]:
    from nip.data.tasks.listops import kernels

    lines: NDArray[np.uint8] = kernels.official_lines(
        examples.tokens, examples.offsets[first : last + 1], examples.labels[first:last]
    )
    return lines


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}. The official files are named {', '.join(NAMES.values())}; "
            f"`nip data listops --tsv` makes such files."
        )


def _malformed(path: Path, line: int, why: str) -> ValueError:
    return ValueError(f"{path}, line {line}: {why}.")


def _shown(piece: bytes) -> str:
    text = piece.decode("utf-8", "replace")
    return repr(text if len(text) <= 40 else text[:37] + "…")
