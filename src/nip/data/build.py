"""Put a ListOps set on disk, drawn by the rule or taken from the official files, unless it is there already."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nip.data.folders import data_folder
from nip.data.listops import Rule
from nip.data.sampling import generate
from nip.data.storage import checksum, stored, write_task
from nip.data.tasks import SPLITS, TASKS
from nip.data.tsv import NAMES, read_tsv


def build_listops(
    folder: Path | None = None,
    rule: Rule | None = None,
    sizes: tuple[int, int, int] = TASKS["listops"].sizes,
    *,
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> bool:
    """Draw a ListOps set into the data folder. Parameters are those of `generate` and `write_task`.

    Returns
    -------
    bool
        False if the same set was there already, and nothing was done.

    Raises
    ------
    ValueError
        If another set is there and `overwrite` is false: the message says what differs.
    """
    rule = rule or Rule()
    description: dict[str, Any] = {
        "source": "drawn by nip",
        "parameters": {"seed": seed, **dict(zip(SPLITS, sizes, strict=True)), **asdict(rule)},
        "split_rule": "In the order drawn: first train, then dev, then test. No example occurs twice in the set.",
        "licence": "Made from random numbers, it holds nobody's text. The rule is that of Long Range Arena "
        "(Apache-2.0, arXiv 2011.04006), after ListOps (arXiv 1804.06028).",
    }
    if not overwrite and stored("listops", folder, description):
        return False
    write_task(generate(rule, sizes, seed=seed, progress=progress), folder, description, overwrite=overwrite)
    return True


def import_listops(files: Path, folder: Path | None = None, *, overwrite: bool = False) -> bool:
    """Take the official files ``basic_train.tsv``, ``basic_val.tsv`` and ``basic_test.tsv`` into the data folder.

    Returns and raises as `build_listops`; and FileNotFoundError or ValueError for files that are missing or malformed.
    """
    if overwrite and Path(files).resolve() == (data_folder(folder) / "listops").resolve():
        raise ValueError(f"{files} would be replaced, with the files that are read. Move them elsewhere first.")
    paths = [Path(files) / name for name in NAMES.values()]
    description: dict[str, Any] = {
        "source": "official files",
        "parameters": {path.name: checksum(path) for path in paths if path.is_file()},
        "split_rule": "As in the files.",
        "licence": "That of the files. Long Range Arena, which publishes them, is under Apache-2.0.",
    }
    complete = len(description["parameters"]) == len(paths)
    if complete and not overwrite and stored("listops", folder, description):
        return False
    write_task(read_tsv(files), folder, description, overwrite=overwrite)
    return True
