"""The parts of a set that a command needs: of the hub, or a file each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nip.finetuning.arguments import Command
from nip.finetuning.rows import read_hub

PARTS = ("train", "validation", "test")


def refuse_sources(task: Any, example: str) -> None:
    """Refuse settings that name no data, or some in two ways.

    Parameters
    ----------
    task : dataclass
        With ``dataset_name``, ``dataset_config_name``, ``train_file``, ``validation_file``, ``test_file``.
    example : str
        A name on the hub, for the sentence.

    Raises
    ------
    ValueError
    """
    files = (task.train_file, task.validation_file, task.test_file)
    if task.dataset_name is not None and any(files):
        raise ValueError("Give --dataset_name or files, not both.")
    if task.dataset_name is None and not any(files):
        raise ValueError(f"Name the data: --dataset_name {example}, or --train_file and --validation_file.")
    if task.dataset_config_name is not None and task.dataset_name is None:
        raise ValueError("--dataset_config_name needs --dataset_name.")


def wanted_parts(command: Command) -> list[str]:
    """The parts that the command trains on, evaluates and predicts."""
    training = command.training
    evaluates = training.do_eval or (training.do_train and str(training.eval_strategy.value) != "no")
    asked = {"train": training.do_train, "validation": evaluates, "test": training.do_predict}
    return [part for part in PARTS if asked[part]]


def read_parts(command: Command, read: Callable[[Path, str], Any]) -> dict[str, tuple[str, Any]]:
    """Where each part that the command needs is from, in words, and its rows.

    Parameters
    ----------
    command : Command
    read : callable
        ``read(path, part)`` reads a file.

    Raises
    ------
    ValueError
        If a part that is needed is not named, or the set has none.
    """
    task = command.task
    hub = None
    if task.dataset_name is not None:
        hub = read_hub(task.dataset_name, task.dataset_config_name, cache_dir=command.model.cache_dir)
    found = {}
    for part in wanted_parts(command):
        if hub is None:
            file = getattr(task, f"{part}_file")
            if file is None:
                flag = {"train": "train", "validation": "eval", "test": "predict"}[part]
                raise ValueError(f"--do_{flag} needs --{part}_file.")
            found[part] = (file, read(Path(file), part))
        elif part in hub:
            found[part] = (f"{task.dataset_name}, {part},", hub[part])
        else:
            raise ValueError(f"The set {task.dataset_name} has no {part} part. It has {', '.join(hub)}.")
    return found


def limited(command: Command, part: str, data: Any) -> Any:
    """The first rows of a part, as many as the command uses."""
    run = command.run
    limits: Sequence[int | None] = (run.max_train_samples, run.max_eval_samples, run.max_predict_samples)
    limit = dict(zip(PARTS, limits, strict=True))[part]
    return data if limit is None else data.select(range(min(limit, len(data))))
