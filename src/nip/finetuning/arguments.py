"""What a finetuning command is told: shared settings beside ``TrainingArguments``, and how a command line is read.

A new task plugs in here with one dataclass of its own::

    @dataclass
    class QaArguments:
        dataset_name: str | None = field(default=None, metadata={"help": "Name of a set on the hub."})

    command = parse(words, QaArguments, program="nip qa")   # training_class=Seq2SeqTrainingArguments where text is made
    command.task, command.attention, command.model, command.run, command.training

`parse` translates old flags (`deprecated_flags`), prints a line of notice for each, chooses the precision for the
machine, and refuses what contradicts itself. It is quick and reads no data, so that a mistake is told at once.

Which graph a finetuning command attends over: its flags, read and checked before any long work.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from transformers import HfArgumentParser, TrainingArguments

from nip import graphs
from nip.attention import BACKENDS
from nip.finetuning.deprecated_flags import translate
from nip.graphs.pattern import check_int, read_parameters
from nip.processor import computes_bf16

EXTENSIONS = ("reflect", "tile", "interpolate")


def _flag(says: str, default: Any = None, **more: Any) -> Any:
    return field(default=default, metadata={"help": says, **more})


@dataclass
class AttentionArguments:
    """The graph that attention runs over."""

    attention: str = _flag(
        f"The pattern: {', '.join(graphs.PATTERNS)}. softmax is dense attention, the model as it is.", "hypercube"
    )
    block_size: int = _flag("Tokens that a vertex of the graph stands for.", 16)
    param: list[str] = field(
        default_factory=list,
        metadata={"help": "Parameters of the pattern, name=value.", "action": "extend", "metavar": "NAME=VALUE"},
    )
    graph: str | None = _flag("A graph file in place of a named pattern (.npz, .npy, GraphML, edge list).")
    attention_layers: str | None = _flag(
        "Other patterns by layer, comma-separated: names, repeated from the first layer to the last, or NUMBER=NAME."
    )
    backend: str = _flag("Backend of attention, as nip doctor lists them.", "auto")
    extend_positions: str | None = _flag(
        f"Give the model as many positions as the sequences need: {', '.join(EXTENSIONS)}."
    )

    def __post_init__(self) -> None:
        if self.graph is None:
            graphs.pattern_parameters(self.attention)  # says which names there are
        check_int("block_size", self.block_size, "attention", minimum=1)
        if self.backend not in ("auto", *BACKENDS):
            raise ValueError(f"--backend takes one of auto, {', '.join(BACKENDS)}. Got {self.backend!r} instead.")
        if self.extend_positions is not None and self.extend_positions not in EXTENSIONS:
            raise ValueError(
                f"--extend_positions takes one of {', '.join(EXTENSIONS)}. Got {self.extend_positions!r} instead."
            )
        if self.graph is not None and self.param:
            raise ValueError(f"--param belongs to a pattern name; the graph in {self.graph} has no parameters.")
        if self.graph is not None and not Path(self.graph).is_file():
            raise ValueError(f"--graph: there is no file {self.graph}.")
        if self.graph is None:  # an unknown parameter or an impossible value is told now; any size does
            graphs.pattern(self.attention, 128, **self.parameters)
        _ = self.layers

    @property
    def layers(self) -> dict[int, str] | list[str] | None:
        """The patterns of layers, as `nip.sparsify` takes them."""
        return None if self.attention_layers is None else read_layers(self.attention_layers)

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the pattern, read."""
        return read_parameters(self.param)


def read_layers(text: str) -> dict[int, str] | list[str]:
    """The patterns of layers, read: ``local,hypercube`` repeats, ``0=local,3=softmax`` names some.

    Raises
    ------
    ValueError
        If a pattern is unknown, a number is none or named twice, or both forms are mixed.
    """
    parts = [part.strip() for part in text.split(",")]
    pairs = [part.partition("=") for part in parts]
    numbered = {bool(equals) for _, equals, _ in pairs}
    if len(numbered) > 1 or not all(parts):
        raise ValueError(
            f"--attention_layers takes names, or NUMBER=NAME for each, comma-separated. Got {text!r} instead."
        )
    if numbered == {False}:
        for name in parts:
            graphs.pattern_parameters(name)  # says which names there are
        return parts
    layers: dict[int, str] = {}
    for number, _, name in pairs:
        if not number.strip().isdecimal() or int(number) in layers:
            raise ValueError(f"--attention_layers numbers every layer once, from 0. Got {text!r} instead.")
        graphs.pattern_parameters(name.strip())
        layers[int(number)] = name.strip()
    return layers


@dataclass
class ModelArguments:
    """Which model, and what reads its text."""

    model_name_or_path: str | None = _flag("A folder with a model, or its name on the hub.")
    config_name: str | None = _flag("A configuration, where it is not the model's.")
    tokenizer_name: str | None = _flag("A tokenizer, where it is not the model's.")
    cache_dir: str | None = _flag("Where what comes from the hub is kept.")
    model_revision: str = _flag("Branch, tag or commit on the hub.", "main")
    trust_remote_code: bool = _flag("Refused: loading a model never runs code that comes with it.", False)
    ignore_mismatched_sizes: bool = _flag("Draw anew weights whose shape is not the task's.", False)

    def __post_init__(self) -> None:
        if self.trust_remote_code:
            raise ValueError("--trust_remote_code is refused: loading a model never runs code that comes with it.")


@dataclass
class RunArguments:
    """How the run goes, beside what ``TrainingArguments`` says."""

    early_stopping_patience: int | None = _flag(
        "Stop after so many evaluations without a better one, and take the best model."
    )
    early_stopping_threshold: float = _flag("What counts as better, by how much.", 0.0)
    overwrite_output_dir: bool = _flag(
        "Replace a finished run in --output_dir, and one with other settings. An unfinished one goes on.", False
    )
    overwrite_cache: bool = _flag("Tokenize again what was tokenized before.", False)
    preprocessing_num_workers: int | None = _flag("Processes that tokenize.")
    max_train_samples: int | None = _flag("Use only the first so many training examples.")
    max_eval_samples: int | None = _flag(
        "Use only the first so many examples to evaluate.", aliases=["--max_val_samples"]
    )
    max_predict_samples: int | None = _flag("Use only the first so many to predict.", aliases=["--max_test_samples"])
    tensorboard_dir: str | None = _flag("Write the course of the run there, for TensorBoard.")
    json: bool = _flag("Print the result as one JSON value on standard output.", False)

    def __post_init__(self) -> None:
        for name in ("early_stopping_patience", "preprocessing_num_workers", "max_train_samples", "max_eval_samples"):
            if getattr(self, name) is not None:
                check_int(name, getattr(self, name), "a run", minimum=1)
        if self.max_predict_samples is not None:
            check_int("max_predict_samples", self.max_predict_samples, "a run", minimum=1)
        if self.early_stopping_threshold < 0:
            raise ValueError(
                f"--early_stopping_threshold must be at least 0. Got {self.early_stopping_threshold} instead."
            )


@dataclass(frozen=True)
class Command:
    """A command line, read.

    Parameters
    ----------
    words : tuple of str
        As typed, the program first: what a report shows to run it again.
    given : frozenset of str
        Names of the flags that were given: what is a default is told from what was asked for.
    """

    attention: AttentionArguments
    model: ModelArguments
    run: RunArguments
    task: Any
    training: TrainingArguments
    words: tuple[str, ...]
    given: frozenset[str]


class Parser(HfArgumentParser):  # type: ignore[misc]
    """`HfArgumentParser` whose complaints are one sentence, and which guesses no abbreviations."""

    def __init__(self, classes: Sequence[type], program: str, description: str | None) -> None:
        super().__init__(list(classes), prog=program, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage, which fills pages."""
        raise ValueError(f"{message[:1].upper()}{message[1:]}.")

    @property
    def names(self) -> set[str]:
        """Names of all flags, with underscores."""
        return {
            option[2:] for option in self._option_string_actions if option.startswith("--") and "-" not in option[2:]
        }


def parse(
    words: Sequence[str],
    task_class: type,
    *,
    program: str,
    training_class: type = TrainingArguments,
    description: str | None = None,
) -> Command:
    """Read the command line of a finetuning task.

    Parameters
    ----------
    words : sequence of str
        Without the program. One word that ends in ``.json`` is a file that holds the flags as an object.
    task_class : type
        The task's own dataclass; its ``__post_init__`` refuses what contradicts itself.
    program : str
        How the command is called, such as ``nip glue``.
    training_class : type, default=TrainingArguments

    Raises
    ------
    ValueError
        If a flag is unknown, lacks or has a wrong value, or contradicts another: one sentence.
    """
    parser = Parser(
        (task_class, AttentionArguments, ModelArguments, RunArguments, training_class), program, description
    )
    if len(words) == 1 and words[0].endswith(".json"):
        words = read_argument_file(Path(words[0]))
    if "-h" in words or "--help" in words:
        parser.print_help()
        raise SystemExit(0)
    translated, notices = translate(words, parser.names)
    given = frozenset(word[2:].partition("=")[0] for word in translated if word.startswith("--"))
    translated, more = resolve_precision(translated, given)
    notices += more
    if "overwrite_output_dir" in given:
        notices.append(
            "--overwrite_output_dir replaces a finished run there; an unfinished one with these settings goes on"
        )
    for notice in notices:
        print_notice(notice)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of names that transformers will drop one day
        try:
            read = parser.parse_args_into_dataclasses(translated, look_for_args_file=False)
        except ValueError as error:
            raise ValueError(" ".join(str(error).split())) from error  # transformers' own may fill several lines
    task, attention, model, run, training = read
    check_contradictions(given, training, run)
    return Command(attention, model, run, task, training, (*program.split(), *words), given)


def print_notice(notice: str) -> None:
    """Say a line on standard error, once for all processes."""
    import os

    if os.environ.get("RANK", "0") == "0":
        print(f"nip: {notice}", file=sys.stderr)


def read_argument_file(path: Path) -> list[str]:
    """The flags that a JSON object spells, as words.

    Raises
    ------
    ValueError
        If the file is not a JSON object.
    """
    try:
        values = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object of flags. Got {type(values).__name__} instead.")
    words: list[str] = []
    for name, value in values.items():
        if value is None:
            continue
        parts = value if isinstance(value, list) else [value]
        written = [json.dumps(part) if isinstance(part, dict | bool) else str(part) for part in parts]
        words += [f"--{name}", *written]
    return words


def resolve_precision(words: Sequence[str], given: frozenset[str]) -> tuple[list[str], list[str]]:
    """Half precision for a machine without a GPU: bfloat16 where the processor computes it, else 32 bits.

    Returns
    -------
    words : list of str
        The command line with ``--fp16`` and its like replaced.
    notices : list of str
    """
    left, notices = list(words), []
    no_gpu = not torch.accelerator.is_available() or _is_on(words, "use_cpu")
    halves = [name for name in ("fp16", "fp16_full_eval") if _is_on(words, name)]
    if no_gpu and halves:
        bf16 = computes_bf16()
        for name in halves:
            _drop(left, name)
            instead = name.replace("fp16", "bf16")
            if bf16 and instead not in given:
                left.append(f"--{instead}")
            notices.append(f"--{name} needs a GPU: computing in {'bfloat16' if bf16 else '32 bits'} instead")
    if no_gpu and not _is_on(words, "use_cpu") and any(_is_on(left, name) for name in ("bf16", "bf16_full_eval")):
        left.append("--use_cpu")
    return left, notices


def _is_on(words: Sequence[str], name: str) -> bool:
    for place, word in enumerate(words):
        if word == f"--{name}":
            value = words[place + 1] if place + 1 < len(words) else "true"
            return value.startswith("--") or value.lower() not in ("false", "0", "no", "f", "n")
        if word.startswith(f"--{name}="):
            return word.partition("=")[2].lower() not in ("false", "0", "no", "f", "n")
    return False


def _drop(words: list[str], name: str) -> None:
    place = next(i for i, word in enumerate(words) if word.partition("=")[0] == f"--{name}")
    alone = "=" in words[place] or place + 1 == len(words) or words[place + 1].startswith("--")
    del words[place : place + (1 if alone else 2)]


def check_contradictions(given: frozenset[str], training: TrainingArguments, run: RunArguments) -> None:
    """Refuse what cannot both be meant, and complete what follows from what was said.

    ``--metric_for_best_model`` and ``--early_stopping_patience`` mean that the best model is taken at the end.

    Raises
    ------
    ValueError
        One sentence that names the flags.
    """
    if not (training.do_train or training.do_eval or training.do_predict):
        raise ValueError("There is nothing to do: give --do_train, --do_eval or --do_predict.")
    if {"attention", "graph"} <= given:
        raise ValueError("Give --attention or --graph, not both.")
    if training.do_train and training.num_train_epochs <= 0 and training.max_steps <= 0:
        raise ValueError("--num_train_epochs must be above 0, or --max_steps given.")
    evaluates = training.do_train and str(training.eval_strategy.value) != "no"
    for flag in ("early_stopping_patience", "load_best_model_at_end"):
        if getattr(run if flag.startswith("early") else training, flag) and not evaluates:
            raise ValueError(f"--{flag} needs evaluations while training: give --do_train and --eval_strategy.")
    if run.overwrite_output_dir and training.resume_from_checkpoint:
        raise ValueError("--overwrite_output_dir starts anew and --resume_from_checkpoint goes on. Give one of them.")
    if run.overwrite_output_dir and not training.do_train:
        raise ValueError(
            "--overwrite_output_dir replaces a run, but nothing is trained: add --do_train or leave it out."
        )
    wants_best = run.early_stopping_patience is not None or "metric_for_best_model" in given
    if "metric_for_best_model" in given and training.do_train and not evaluates:
        print_notice(
            "--metric_for_best_model does nothing: without --eval_strategy no model is found best while training"
        )
    if evaluates and wants_best and not training.load_best_model_at_end:
        if "load_best_model_at_end" in given:
            raise ValueError("A metric for the best model and early stopping need --load_best_model_at_end to be on.")
        training.load_best_model_at_end = True
        training.metric_for_best_model = training.metric_for_best_model or "loss"
    if training.metric_for_best_model is not None and "greater_is_better" not in given:
        training.greater_is_better = not training.metric_for_best_model.endswith(("loss", "perplexity"))


def described(arguments: Any) -> dict[str, Any]:
    """A dataclass of settings as JSON values."""
    if isinstance(arguments, TrainingArguments):
        values: dict[str, Any] = arguments.to_dict()
    else:
        values = dataclasses.asdict(arguments)
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain
