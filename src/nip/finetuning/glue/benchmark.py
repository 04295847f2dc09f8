"""``nip glue`` on one task, or on several of GLUE, each a run of its own, whose scores are averaged."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from statistics import fmean
from typing import Any

from accelerate import PartialState

from nip.finetuning.arguments import read_argument_file
from nip.finetuning.glue import task
from nip.finetuning.glue.registry import glue_task
from nip.finetuning.glue.task import read_command
from nip.finetuning.trainer import default_output_dir
from nip.runs.folder import read_json, write_json

__all__ = ["main", "read_command"]
RESULTS = "results.json"
DIAGNOSTIC = "ax"  # GLUE's own average leaves it out


def main(argv: Sequence[str], program: str = "nip glue") -> dict[str, Any]:
    """Train, evaluate and predict as a command line says; ``--task_name`` may name several tasks, comma-separated.

    Several tasks are runs in subfolders of ``--output_dir``, one after the other; a task that has finished is not
    trained again, so that a stopped command resumes. ``results.json`` in ``--output_dir`` contains their scores and the
    average.

    Returns
    -------
    dict
        The content of ``result.json``, or of ``results.json``.

    Raises
    ------
    ValueError, OSError
        One sentence about what is wrong with the command, the data or the model. Of several tasks all commands are
        checked, and official files are read, before the first is trained.
    """
    if len(argv) == 1 and argv[0].endswith(".json"):
        argv = read_argument_file(Path(argv[0]))
    names, rest = split_argument(argv, "task_name")
    tasks = [glue_task(name.strip()).name for name in (names or "").split(",") if name.strip()]
    if "," not in (names or ""):
        return task.main(argv, program)
    for name in tasks:
        if tasks.count(name) > 1:
            raise ValueError(f"--task_name names {name} twice. Name it once.")
    if not tasks:
        raise ValueError(f"--task_name names no task. Got {names!r} instead.")
    return run_tasks(tasks, rest, program)


def split_argument(argv: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """The last value of a flag, and the command line without it; None if it is not given.

    Examples
    --------
    >>> split_argument(["--seed", "1", "--task-name=cola,rte"], "task_name")
    ('cola,rte', ['--seed', '1'])
    """
    value, rest = None, []
    words = iter(argv)
    for word in words:
        flag, equals, after = word.partition("=")
        if not flag.startswith("--") or flag[2:].replace("-", "_") != name:
            rest.append(word)
            continue
        value = after if equals else next(words, "")
    return value, rest


def run_tasks(tasks: Sequence[str], argv: Sequence[str], program: str) -> dict[str, Any]:
    """Run the tasks one after the other, and write the average.

    Parameters
    ----------
    tasks : sequence of str
    argv : sequence of str
        The command line without ``--task_name``.
    program : str

    Returns
    -------
    dict
        The content of ``results.json``.

    Raises
    ------
    ValueError
        Where a task fails; the message begins with its name. The tasks before it are finished.
    """
    given, rest = split_argument(argv, "output_dir")
    commands = {name: read_command([*rest, "--task_name", name], program) for name in tasks}
    first = commands[tasks[0]]
    folder = Path(given) if given is not None else Path(default_output_dir(first, "glue", "+".join(tasks)))
    check_results(folder / RESULTS)
    for command in commands.values():
        task.check_files(command)
        if command.task.data_dir is not None:
            task.read_examples(command)
    results = {}
    for name in tasks:
        one = [*rest, "--task_name", name, "--output_dir", str(folder / name)]
        try:
            with redirect_stdout(sys.stderr):
                results[name] = task.main(one, program)
        except (ValueError, OSError) as error:
            raise ValueError(f"{name}: {error}") from error
    outcome = averaged(results)
    if PartialState().is_main_process:
        write_json(folder / RESULTS, outcome)
        report(outcome, folder, as_json=first.run.json)
    return outcome


def check_results(path: Path) -> None:
    """Raise ValueError if a file with the name of the outcome is not one."""
    if path.exists() and read_json(path).get("kind") != "glue":
        raise ValueError(f"{path} is not the outcome of nip glue. Name another --output-dir.")


def averaged(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The scores of the tasks, and their average as GLUE computes it.

    A task's score is the mean of its metrics (accuracy and F1, Pearson's and Spearman's correlation, accuracy on MNLI's
    matched and mismatched set); the average is over the tasks without the diagnostic set.

    Parameters
    ----------
    results : mapping of str to mapping
        The contents of ``result.json`` by task.

    References
    ----------
    .. [1] A. Wang et al., GLUE: a multi-task benchmark and analysis platform for natural language understanding,
       ICLR 2019, section 3.
    """
    scores = {name: task_score(name, result["metrics"]) for name, result in results.items()}
    counted = [score for name, score in scores.items() if name != DIAGNOSTIC]
    known = [score for score in counted if score is not None]
    return {
        "kind": "glue",
        "average": fmean(known) if known and len(known) == len(counted) else None,
        "scores": scores,
        "tasks": dict(results),
    }


def task_score(name: str, metrics: Mapping[str, float | None]) -> float | None:
    """A task's one score; None if it was not evaluated.

    Examples
    --------
    >>> task_score("mnli", {"accuracy": 0.5, "mm_accuracy": 0.7})
    0.6
    """
    known = glue_task(name).metrics
    main = "combined_score" if "combined_score" in known else known[0]
    values = [value for key in (main, f"mm_{main}") if (value := metrics.get(key)) is not None]
    return fmean(values) if values else None


def report(outcome: Mapping[str, Any], folder: Path, *, as_json: bool) -> None:
    """Print the outcome: a line for each task, and the average; or one JSON value.

    Parameters
    ----------
    outcome : mapping
    folder : Path
    as_json : bool
    """
    if as_json:
        print(json.dumps(outcome, allow_nan=False, indent=2))
        return
    for name, score in {**outcome["scores"], "average": outcome["average"]}.items():
        print(f"{name:24} {'not evaluated' if score is None else format(score, '.4f')}")
    print(folder, flush=True)
