"""The command line of a search: its own options, and the flags of the finetuning command that it runs."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from nip.finetuning.arguments import Command
from nip.finetuning.commands import COMMANDS
from nip.finetuning.glue.registry import glue_task
from nip.finetuning.search.space import (
    SPACES,
    Range,
    Space,
    check_grid,
    default_space,
    read_space,
    space_size,
    to_flags,
)
from nip.finetuning.search.study import PRUNERS, SAMPLERS

MINIMIZED = ("loss", "perplexity")
SUM = "sum"  # as the metric of a search: see `nip.finetuning.search.run.read_evaluations`
STEPS_OF_SUM = 200  # between evaluations, as in the original's search
DEFAULT_TRIALS = 30
DATABASE = "search.db"  # in the folder of the search, unless --storage names another
ALIASES = {"--out": "--output-dir", "--n-trials": "--trials", "--study-name": "--study"}


@dataclass(frozen=True)
class Search:
    """A search, resolved.

    Parameters
    ----------
    command : str
        One of `nip.finetuning.commands.COMMANDS`.
    argv : tuple of str
        Its flags, without those that are searched and the output folder.
    folder : Path
        The search's folder; a trial's run folder is in it.
    space : Space
    sampler : {"tpe", "random", "grid"}
    pruner : {"median", "hyperband", "none"}
    trials : int or None
        Number of trials; None: every point of the grid.
    storage : str
        URL of the database.
    study : str
        The study's name in it.
    metric : str
        ``sum`` for the sum of a GLUE task's metrics.
    direction : {"maximize", "minimize"}
    workers : int
        Concurrent trials on this machine.
    seed : int
        Of the sampler.
    keep_all : bool
        Keep the weights of all trials, not only of the best.
    retry_failed : bool
        Run failed trials again.
    json : bool
        Print the result as JSON.
    """

    command: str
    argv: tuple[str, ...]
    folder: Path
    space: Space
    sampler: str
    pruner: str
    trials: int | None
    storage: str
    study: str
    metric: str
    direction: str
    workers: int
    seed: int
    keep_all: bool
    retry_failed: bool
    json: bool

    def described(self) -> dict[str, Any]:
        """What identifies the search, as JSON values."""
        space = {name: asdict(entry) if isinstance(entry, Range) else entry for name, entry in self.space.items()}
        identity = {"command": self.command, "metric": self.metric, "space": space, "flags": self.argv}
        values: dict[str, Any] = json.loads(json.dumps(identity))
        return values


class _Parser(argparse.ArgumentParser):
    def spelled(self, argument: str) -> str:
        """The argument, with an option of this parser in its main spelling: ``-`` and ``_`` are alike."""
        name, equals, value = argument.partition("=")
        name = ALIASES.get(name.replace("_", "-"), name.replace("_", "-"))
        return f"{name}{equals}{value}" if name in self._option_string_actions else argument

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message[:1].upper()}{message[1:]}.")


def _parser(program: str) -> _Parser:
    parser = _Parser(
        prog=program,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Search for the best hyper-parameters of a finetuning command.\n\n"
        f"COMMAND is one of {', '.join(COMMANDS)}; its own flags follow and apply to all trials. The same command\n"
        "resumes a stopped search; started with the same --storage on several machines, they share the trials.\n\n"
        f"Example: {program} glue --model_name_or_path MODEL --task_name mrpc --output_dir runs/search --trials 30",
        epilog="Spaces: "
        + "; ".join(
            f"{name}: {', '.join(f'{flag} {values}' for flag, values in SPACES[name].items())}" for name in SPACES
        ),
    )
    add = parser.add_argument
    add("--output-dir", type=Path, help="Folder of the search and its trials' runs. Default: in runs/.")
    add("--sampler", choices=SAMPLERS, default="tpe", help="Sampler of the points. Default: tpe.")
    add("--trials", type=int, help=f"Number of trials. Default: {DEFAULT_TRIALS}; grid: all points.")
    add(
        "--space",
        help=f"{', '.join(SPACES)}, or a JSON file: flag → list of values, or low, high, log. Default: by task.",
    )
    add(
        "--pruner", choices=PRUNERS, default="median", help="Rule that stops unpromising trials early. Default: median."
    )
    add("--metric", help="Metric to optimize. Default: the task's.")
    add(
        "--objective",
        choices=("metric", SUM),
        default="metric",
        help="metric: --metric of the best evaluation. sum: the sum of the task's metrics at the last evaluation, "
        f"evaluated every {STEPS_OF_SUM} steps, as the original's search (glue only). Default: metric.",
    )
    add("--direction", choices=("maximize", "minimize"), help="Direction. Default: by the metric.")
    add(
        "--patience",
        type=int,
        default=3,
        help="Early stopping: evaluations without improvement that end a trial; 0: never. Default: 3.",
    )
    add("--storage", help="URL of the database. Default: SQLite in the folder.")
    add("--study", help="Name of the study in the database. Default: COMMAND-TASK.")
    add("--workers", type=int, default=1, help="Concurrent trials on this machine. Default: 1.")
    add("--keep-all", action="store_true", help="Keep the weights of all trials, not only of the best.")
    add("--retry-failed", action="store_true", help="Run failed trials again.")
    add("--json", action="store_true", help="Print the result as one JSON value.")
    return parser


def read_search(argv: Sequence[str], program: str = "nip hpo") -> Search:
    """The search that a command line asks for.

    Raises
    ------
    ValueError
        If a flag is unknown, wrong, contradicts another, or is both given and searched.
    """
    argv = list(argv)
    command = argv.pop(0) if argv and not argv[0].startswith("-") else "glue"
    if command not in COMMANDS:
        raise ValueError(f"There is no command {command!r} to search for. The commands are {', '.join(COMMANDS)}.")
    parser = _parser(program)
    own, rest = parser.parse_known_args([parser.spelled(argument) for argument in argv])
    for name, least in (("trials", 1), ("workers", 1), ("patience", 0)):
        value = getattr(own, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} must be an integer of at least {least}. Got {value} instead.")
    if own.study is not None and not own.study.strip():
        raise ValueError(f"--study takes a name. Got {own.study!r} instead.")
    if own.storage is not None and not own.storage.strip():
        raise ValueError(f"--storage takes the URL of a database. Got {own.storage!r} instead.")
    if own.objective == SUM:
        if command != "glue":
            raise ValueError(f"--objective sum adds up the metrics of a GLUE task; nip hpo {command} takes --metric.")
        for name, value in (("metric", own.metric), ("direction", own.direction)):
            if value is not None:
                raise ValueError(f"--objective sum is maximized as it is. Leave --{name} {value} out.")
    task = _value_of(rest, "task_name")
    space = read_space(own.space if own.space is not None else default_space(command, task))
    if own.sampler == "grid":
        check_grid(space)
    metric = own.metric or _default_metric(command, task, rest)
    direction = own.direction or ("minimize" if metric.removeprefix("eval_") in MINIMIZED else "maximize")
    metric = metric.removeprefix("eval_")
    folder = own.output_dir
    if folder is None:
        from nip.data import runs_folder

        folder = runs_folder() / f"hpo-{command}-{task or 'files'}"
    folder = folder.expanduser().resolve()

    def read(flags: Sequence[str]) -> Command:
        with contextlib.redirect_stderr(io.StringIO()):  # every trial logs the notices about old flags
            parsed: Command = COMMANDS[command].load().read_command(flags, f"{program} {command}")
            return parsed

    point = to_flags({name: entry.low if isinstance(entry, Range) else entry[0] for name, entry in space.items()})
    summed = own.objective == SUM
    fixed = _trial_flags(rest, read([*rest, *point, "--do_train"]), own.patience, metric, direction, summed=summed)
    read([*fixed, *point])  # raises on contradictions with the flags that were added
    given = read(fixed).given
    both = [name for name in space if name in given or (name == "warmup_ratio" and "warmup_steps" in given)]
    if both:
        raise ValueError(f"--{both[0]} is searched, so that it cannot be given. Leave it out, or give another --space.")
    trials = own.trials
    if trials is None and own.sampler != "grid":
        trials = int(min(DEFAULT_TRIALS, space_size(space)))
    return Search(
        command=command,
        argv=tuple(fixed),
        folder=folder,
        space=space,
        sampler=own.sampler,
        pruner=own.pruner,
        trials=trials,
        storage=own.storage or f"sqlite:///{folder / DATABASE}",
        study=own.study or f"{command}-{task or 'files'}",
        metric=SUM if summed else metric,
        direction="maximize" if summed else direction,
        workers=own.workers,
        seed=int(_value_of(rest, "seed") or 42),
        keep_all=own.keep_all,
        retry_failed=own.retry_failed,
        json=own.json,
    )


def _trial_flags(
    given: Sequence[str], read: Command, patience: int, metric: str, direction: str, *, summed: bool
) -> list[str]:
    """The flags of every trial: those given, and the evaluation, checkpoints and early stopping that a search needs."""
    flags = list(given)
    for name in ("do_train", "do_eval"):
        if name not in read.given or name not in {word[2:].partition("=")[0] for word in given}:
            flags.append(f"--{name}")
    usual = "steps" if summed else "epoch"
    if "eval_strategy" not in read.given:
        flags += ["--eval_strategy", usual]
    eval_steps = _value_of(given, "eval_steps") if "eval_steps" in read.given else None
    if summed and eval_steps is None and "eval_strategy" not in read.given:
        eval_steps = str(STEPS_OF_SUM)
        flags += ["--eval_steps", eval_steps]
    if "save_strategy" not in read.given:
        strategy = str(read.training.eval_strategy.value) if "eval_strategy" in read.given else usual
        flags += ["--save_strategy", strategy]
        if eval_steps is not None and "save_steps" not in read.given:
            flags += ["--save_steps", eval_steps]  # as given: below 1 a fraction of the steps
    if "save_total_limit" not in read.given:
        flags += ["--save_total_limit", "1"]
    if "metric_for_best_model" not in read.given:
        flags += ["--metric_for_best_model", metric]
    elif (read.training.metric_for_best_model or "").removeprefix("eval_") != metric:
        raise ValueError(
            f"--metric {metric} and --metric_for_best_model {read.training.metric_for_best_model} contradict."
        )
    if "greater_is_better" not in read.given:
        flags += ["--greater_is_better", "true" if direction == "maximize" else "false"]
    if "early_stopping_patience" not in read.given and patience:
        flags += ["--early_stopping_patience", str(patience)]
    return flags


def _default_metric(command: str, task: str | None, flags: Sequence[str]) -> str:
    given = _value_of(flags, "metric_for_best_model")
    if given is not None:
        return given
    if command == "glue" and task is not None:
        return glue_task(task).metric
    if command == "summarization" and any(
        word.partition("=")[0].replace("-", "_") == "__predict_with_generate" for word in flags
    ):
        return "rougeL"
    return COMMANDS[command].metric


def _value_of(flags: Sequence[str], name: str) -> str | None:
    for place, word in enumerate(flags):
        flag, equals, value = word.partition("=")
        if flag.replace("-", "_") == f"__{name}":
            return value if equals else (flags[place + 1] if place + 1 < len(flags) else None)
    return None
