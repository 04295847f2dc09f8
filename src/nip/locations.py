"""Where data and runs live: the same folder from every working directory."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path


def data_folder(explicit: Path | None = None) -> Path:
    """The folder that holds one folder per task.

    The first of: `explicit`; ``$NIP_DATA``; ``data/`` of the source checkout that this package runs from; ``data`` in
    the user's own data folder (platformdirs). The folder need not exist yet.

    Examples
    --------
    >>> data_folder(Path("/mnt/sets")).as_posix()
    '/mnt/sets'
    """
    return _folder(explicit, "NIP_DATA", "data")


def runs_folder(explicit: Path | None = None) -> Path:
    """The folder that holds one folder per training run; found like `data_folder`, by ``$NIP_RUNS`` and ``runs/``."""
    return _folder(explicit, "NIP_RUNS", "runs")


def _folder(explicit: Path | None, variable: str, name: str) -> Path:
    if explicit is not None:
        return Path(explicit).expanduser()
    if os.environ.get(variable):
        return Path(os.environ[variable]).expanduser()
    checkout = source_checkout()
    if checkout is not None:
        return checkout / name
    import platformdirs

    return platformdirs.user_data_path("nip", appauthor=False) / name


def source_checkout(module: Path = Path(__file__)) -> Path | None:
    """The checkout whose ``src/nip`` holds `module`, or None where the package was installed without one."""
    root = module.resolve().parents[2]
    project = root / "pyproject.toml"
    if not project.is_file():
        return None
    try:
        return root if tomllib.loads(project.read_text("utf-8"))["project"]["name"] == "nip" else None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError):
        return None
