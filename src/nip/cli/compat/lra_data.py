"""Files of the original's ``run_tasks.py``: its pickles, converted on first use, and its checkpoint."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from nip.cli.output import progress_bar

PLACES = ("LRA/datasets", "datasets", "../datasets", ".")  # relative to the working directory
MODEL_PLACES = ("LRA/logs", "logs", "../logs", ".")


def with_original_data(arguments: Sequence[str]) -> list[str]:
    """Arguments of ``nip lra``, with ``--data`` set to the converted pickles of the original if there are any.

    They are searched in the folder of ``--data``, or else in `PLACES`. The converted data is in the data folder, in
    ``original``, and is made again if the pickles change.

    Raises
    ------
    ValueError
        If a pickle is damaged, or refused by the restricted unpickler.
    OSError
        If one of the three is missing, or the converted data cannot be written.
    """
    from nip.data import TASKS
    from nip.data.tasks import original_pickles as original
    from nip.lra.config import read_settings

    file, name = _value(arguments, "--config"), _value(arguments, "--task")
    if name is None and file is not None:
        name = read_settings(Path(file)).get("task")
    task = TASKS.get(name or "listops")
    named = _value(arguments, "--data")
    if task is None:
        return list(arguments)
    # unless --data names the folder it must be complete: the original's repository has only the dev pickles
    holds = original.is_whole if named is None else original.recognises
    for place in PLACES if named is None else (named,):
        pickles = Path(place).expanduser()
        if pickles.is_dir() and holds(pickles, task):
            return [*_without(arguments, "--data"), "--data", str(converted(task.name, pickles))]
    return list(arguments)


def with_original_model(arguments: Sequence[str]) -> list[str]:
    """Arguments of ``nip lra``, with ``--weights`` set to the original's checkpoint if only that can be tested.

    With ``--skip-train`` and no best weights in the run folder, ``TASK_ATTN_output.model`` is searched in the folder of
    ``--output-dir`` and in `MODEL_PLACES`.
    """
    from nip.cli.lra import resolve
    from nip.locations import runs_folder
    from nip.lra import RunFolder

    words = {word.partition("=")[0] for word in arguments}
    if "--skip-train" not in words or words & {"--weights", "--graph", "--config"}:
        return list(arguments)
    model = _value(arguments, "--attention") or _value(arguments, "--model")
    seed = _value(arguments, "--seed") or ""
    named = {"model": model, "task": _value(arguments, "--task"), "seed": int(seed) if seed.isdigit() else None}
    config = resolve({name: value for name, value in named.items() if value is not None})
    out = _value(arguments, "--output-dir") or _value(arguments, "--out")
    folder = Path(out).expanduser() if out is not None else runs_folder() / config.name
    if RunFolder(folder).best.is_file():
        return list(arguments)
    for place in (*([out] if out is not None else []), *MODEL_PLACES):
        file = Path(place).expanduser() / f"{config.task}_{config.model}_output.model"
        if file.is_file():
            return [*(word for word in arguments if word != "--original-log"), "--weights", str(file)]
    return list(arguments)


def converted(task: str, pickles: Path) -> Path:
    """The data folder of a task's converted pickles, made on first use. Raises as `with_original_data`."""
    from nip import data
    from nip.ownership import LOCK
    from nip.runs.folder import locked

    # the name changed when the manifest got the length of texts and expressions
    version = [] if data.TASKS[task].shape else ["padded_length"]
    files = sorted(pickles.resolve().glob(f"{task}.*.pickle"))
    states = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    folder = data.data_folder() / "original" / hashlib.sha256(repr(states + version).encode()).hexdigest()[:16]
    with locked(folder / LOCK, wait=True):  # several processes of one run start here
        if not (folder / task).is_dir():
            print(f"Converting {task} of {pickles} into {folder}.", file=sys.stderr)
            with progress_bar(task, sum(data.TASKS[task].sizes)) as progress:
                data.build(task, folder, origin=str(pickles), source="pickles", progress=progress)
    return folder


def _value(arguments: Sequence[str], flag: str) -> str | None:
    """The value of a flag, in two words or one; the last one counts."""
    found = None
    for place, word in enumerate(arguments):
        name, equals, value = word.partition("=")
        if name == flag:
            found = value if equals else next(iter(arguments[place + 1 : place + 2]), None)
    return found


def _without(arguments: Sequence[str], flag: str) -> list[str]:
    left = list(arguments)
    while places := [place for place, word in enumerate(left) if word.partition("=")[0] == flag]:
        del left[places[0] : places[0] + (1 if "=" in left[places[0]] else 2)]
    return left
