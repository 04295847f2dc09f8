"""What a search is told, and how its command line is read: its own flags, and those of the command that it performs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from nip.finetuning.arguments import Command
from nip.finetuning.commands import COMMANDS
from nip.finetuning.search.space import SPACES, Range, Space, as_words, default_space, read_space, size
from nip.finetuning.search.study import PRUNERS, SAMPLERS

MINIMIZED = ("loss", "perplexity")
DEFAULT_TRIALS = 30


@dataclass(frozen=True)
class Search:
    """A search, resolved.

    Parameters
    ----------
    command : str
        Which of `nip.finetuning.commands.COMMANDS` is performed.
    words : tuple of str
        Its flags, but for what is searched and the output folder.
    folder : Path
    space : Space
    sampler : {"tpe", "random", "grid"}
    pruner : {"median", "hyperband", "none"}
    trials : int or None
        How many count; None: every point of the grid.
    storage : str
        URL of the database.
    study : str
        The search's name in it.
    metric : str
    direction : {"maximize", "minimize"}
    workers : int
        Trials at a time on this machine.
    seed : int
        Decides what is drawn.
    keep_all : bool
        Keep the weights of all trials, not only of the best.
    retry_failed : bool
    json : bool
    """

    command: str
    words: tuple[str, ...]
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
        """What makes this search the one it is, as JSON values."""
        space = {name: asdict(entry) if isinstance(entry, Range) else entry for name, entry in self.space.items()}
        found = {"command": self.command, "metric": self.metric, "space": space, "flags": self.words}
        read: dict[str, Any] = json.loads(json.dumps(found))
        return read


ALIASES = {"--out": "--output-dir", "--n-trials": "--trials", "--study-name": "--study"}


class _Parser(argparse.ArgumentParser):
    def spelled(self, word: str) -> str:
        """The word, an option of this parser by the name that it has here: ``-`` and ``_`` are alike."""
        name, equals, value = word.partition("=")
        name = ALIASES.get(name.replace("_", "-"), name.replace("_", "-"))
        return f"{name}{equals}{value}" if name in self._option_string_actions else word

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message[:1].upper()}{message[1:]}.")


def _parser(program: str) -> _Parser:
    parser = _Parser(
        prog=program,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Search for the settings with which a model is finetuned best.\n\n"
        f"COMMAND is one of {', '.join(COMMANDS)}; its own flags follow and hold for all trials. Stopped, the same\n"
        "command goes on; with the same --storage on several machines they share the work.\n\n"
        f"Example: {program} glue --model_name_or_path MODEL --task_name mrpc --output_dir runs/search --trials 30",
        epilog="Spaces: "
        + "; ".join(
            f"{name}: {', '.join(f'{flag} {values}' for flag, values in SPACES[name].items())}" for name in SPACES
        ),
    )
    add = parser.add_argument
    add("--output-dir", type=Path, help="The search's folder; each trial's run is in it. Default: runs/.")
    add("--sampler", choices=SAMPLERS, default="tpe", help="How points are drawn. Default: tpe.")
    add("--trials", type=int, help=f"How many points are tried. Default: {DEFAULT_TRIALS}; grid: all.")
    add(
        "--space",
        help=f"{', '.join(SPACES)}, or a JSON file: flag → list of values or low, high, log. Default: by task.",
    )
    add("--pruner", choices=PRUNERS, default="median", help="Which trials are stopped early. Default: median.")
    add("--metric", help="What counts. Default: the task's.")
    add("--direction", choices=("maximize", "minimize"), help="Which way. Default: by the metric.")
    add("--patience", type=int, default=3, help="Evaluations without a better one that end a trial; 0: none do.")
    add("--storage", help="URL of the database. Default: sqlite in the folder.")
    add("--study", help="The search's name in it. Default: COMMAND-TASK.")
    add("--workers", type=int, default=1, help="Trials at a time on this machine. Default: 1.")
    add("--keep-all", action="store_true", help="Keep all trials' weights, not only the best one's.")
    add("--retry-failed", action="store_true", help="Try those that have failed again.")
    add("--json", action="store_true", help="Print what came of it as one JSON value.")
    return parser


def read_search(words: Sequence[str], program: str = "nip hpo") -> Search:
    """The search that a command line asks for.

    Raises
    ------
    ValueError
        If a flag is unknown, wrong, contradicts another or is both given and searched.
    """
    words = list(words)
    command = words.pop(0) if words and not words[0].startswith("-") else "glue"
    if command not in COMMANDS:
        raise ValueError(f"There is no command {command!r} to search for. The commands are {', '.join(COMMANDS)}.")
    parser = _parser(program)
    own, rest = parser.parse_known_args([parser.spelled(word) for word in words])
    for name, least in (("trials", 1), ("workers", 1), ("patience", 0)):
        value = getattr(own, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} must be an integer of at least {least}. Got {value} instead.")
    task = _value_of(rest, "task_name")
    space = read_space(own.space if own.space is not None else default_space(command, task))
    if own.sampler == "grid":
        ranges = [name for name, entry in space.items() if isinstance(entry, Range)]
        if ranges:
            raise ValueError(f"--sampler grid needs lists of values; {ranges[0]} is a range. Take tpe or random.")
    point = {name: entry.low if isinstance(entry, Range) else entry[0] for name, entry in space.items()}
    metric = own.metric or _metric(command, task, rest)
    direction = own.direction or ("minimize" if metric.removeprefix("eval_") in MINIMIZED else "maximize")
    metric = metric.removeprefix("eval_")

    folder = own.output_dir
    if folder is None:
        from nip.data import runs_folder

        folder = runs_folder() / f"hpo-{command}-{task or 'files'}"
    folder = folder.expanduser().resolve()
    fixed = _completed(rest, _read(command, [*rest, *as_words(point), "--do_train"], program), own, metric, direction)
    _read(command, [*fixed, *as_words(point)], program)  # contradictions with what was added
    given = _read(command, fixed, program).given
    both = [name for name in space if name in given or (name == "warmup_ratio" and "warmup_steps" in given)]
    if both:
        raise ValueError(f"--{both[0]} is searched, so that it cannot be given. Leave it out, or give another --space.")
    trials = own.trials
    if trials is None and own.sampler != "grid":
        trials = int(min(DEFAULT_TRIALS, size(space)))
    return Search(
        command=command,
        words=tuple(fixed),
        folder=folder,
        space=space,
        sampler=own.sampler,
        pruner=own.pruner,
        trials=trials,
        storage=own.storage or f"sqlite:///{folder / 'search.db'}",
        study=own.study or f"{command}-{task or 'files'}",
        metric=metric,
        direction=direction,
        workers=own.workers,
        seed=int(_value_of(rest, "seed") or 42),
        keep_all=own.keep_all,
        retry_failed=own.retry_failed,
        json=own.json,
    )


def _completed(rest: Sequence[str], read: Command, own: Any, metric: str, direction: str) -> list[str]:
    """The flags of every trial: those given, and what a search needs beside."""
    words, given = list(rest), read.given
    for name in ("do_train", "do_eval"):
        if name not in given or name not in {word[2:].partition("=")[0] for word in rest}:
            words.append(f"--{name}")
    if "eval_strategy" not in given:
        words += ["--eval_strategy", "epoch"]
    if "save_strategy" not in given:
        words += ["--save_strategy", str(read.training.eval_strategy.value) if "eval_strategy" in given else "epoch"]
        if "eval_steps" in given and "save_steps" not in given:
            words += ["--save_steps", str(_value_of(rest, "eval_steps"))]  # a share of the steps below 1, as it is
    if "save_total_limit" not in given:
        words += ["--save_total_limit", "1"]
    if "metric_for_best_model" not in given:
        words += ["--metric_for_best_model", metric]
    elif (read.training.metric_for_best_model or "").removeprefix("eval_") != metric:
        raise ValueError(
            f"--metric {metric} and --metric_for_best_model {read.training.metric_for_best_model} contradict."
        )
    if "greater_is_better" not in given:
        words += ["--greater_is_better", "true" if direction == "maximize" else "false"]
    if "early_stopping_patience" not in given and own.patience:
        words += ["--early_stopping_patience", str(own.patience)]
    return words


def _read(command: str, words: Sequence[str], program: str) -> Command:
    """A trial's command line, read: refused now if it cannot be."""
    import contextlib
    import io

    with contextlib.redirect_stderr(io.StringIO()):  # each trial says in its own log what has become of old flags
        read: Command = COMMANDS[command].load().read_command(words, f"{program} {command}")
        return read


def _metric(command: str, task: str | None, words: Sequence[str]) -> str:
    given = _value_of(words, "metric_for_best_model")
    if given is not None:
        return given
    if command == "glue" and task is not None:
        from nip.finetuning.glue.registry import glue_task

        return glue_task(task).metric
    if command == "summarization" and _is_there(words, "predict_with_generate"):
        return "rougeL"
    return COMMANDS[command].metric


def _is_there(words: Sequence[str], name: str) -> bool:
    return any(word.partition("=")[0].replace("-", "_") == f"__{name}" for word in words)


def _value_of(words: Sequence[str], name: str) -> str | None:
    for place, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag.replace("-", "_") == f"__{name}":
            return value if equals else (words[place + 1] if place + 1 < len(words) else None)
    return None
