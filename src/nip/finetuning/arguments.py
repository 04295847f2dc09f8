"""The command line of the finetuning commands: flags for attention, model and run, next to ``TrainingArguments``.

A task adds a dataclass of its own::

    @dataclass
    class QaArguments:
        dataset_name: str | None = flag("Name of a dataset on the hub.")

    command = parse(argv, QaArguments, program="nip qa")   # training_class=Seq2SeqTrainingArguments to generate text
    command.task, command.attention, command.model, command.run, command.training

`parse` translates older flags (`deprecated_flags`) with a notice for each, chooses the precision for the machine, and
raises on contradictions. It reads no data, so that a mistake is reported at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from transformers import HfArgumentParser, TrainingArguments

from nip import graphs
from nip.attention import BACKENDS
from nip.finetuning.deprecated_flags import FALSE, translate
from nip.graphs.pattern import check_int, read_parameters
from nip.processor import computes_bf16
from nip.runs.folder import read_json

# What each numeric flag may be, of TrainingArguments and of the tasks; all of them are finite.
NUMBERS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(
        (
            *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
            *("eval_accumulation_steps", "torch_empty_cache_steps", "dataloader_prefetch_factor", "ddp_timeout"),
            *("ddp_bucket_cap_mb", "generation_max_length", "generation_num_beams", "max_seq_length"),
            *("max_source_length", "max_target_length", "val_max_target_length", "num_beams"),
        ),
        ("at least 1", lambda value: value >= 1),
    ),
    **dict.fromkeys(("logging_steps", "eval_steps", "save_steps"), ("above 0", lambda value: value > 0)),
    **dict.fromkeys(
        (
            *("num_train_epochs", "learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "eval_delay"),
            *("neftune_noise_alpha", "save_total_limit", "dataloader_num_workers", "doc_stride"),
            "early_stopping_threshold",
        ),
        ("at least 0", lambda value: value >= 0),
    ),
    **dict.fromkeys(
        ("adam_beta1", "adam_beta2", "label_smoothing_factor"),
        ("at least 0 and below 1", lambda value: 0 <= value < 1),
    ),
    "adam_epsilon": ("above 0", lambda value: value > 0),
    "max_steps": ("at least 1, or -1 for --num_train_epochs", lambda value: value >= 1 or value == -1),
    "seed": ("from 0 to 4294967295", lambda value: 0 <= value < 2**32),
    "data_seed": ("from 0 to 9223372036854775807", lambda value: 0 <= value < 2**63),
}
EXTENSIONS = ("reflect", "tile", "interpolate")


def flag(help: str, default: Any = None, **metadata: Any) -> Any:
    """A field of a dataclass of flags.

    Parameters
    ----------
    help : str
    default : object, default=None
    **metadata
        Further metadata of `HfArgumentParser`, such as ``aliases``.
    """
    return field(default=default, metadata={"help": help, **metadata})


@dataclass
class AttentionArguments:
    """The graph that the model attends over."""

    attention: str = flag(f"Attention pattern: {', '.join(graphs.PATTERNS)}. softmax is dense attention.", "hypercube")
    block_size: int = flag("Tokens per vertex of the graph.", 16)
    param: list[str] = field(
        default_factory=list,
        metadata={"help": "Parameters of the pattern, name=value.", "action": "extend", "metavar": "NAME=VALUE"},
    )
    graph: str | None = flag("Graph file in place of a pattern: .npz, .npy, GraphML or edge list.")
    attention_layers: str | None = flag(
        "Patterns by layer, comma-separated: names, repeated from the first layer to the last, or LAYER=NAME."
    )
    backend: str = flag("Attention backend; nip doctor lists them.", "auto")
    extend_positions: str | None = flag(
        f"Extend the position embeddings to the length of the inputs: {', '.join(EXTENSIONS)}."
    )

    def __post_init__(self) -> None:
        if self.graph is None:
            graphs.pattern_parameters(self.attention)  # raises with the known names
        object.__setattr__(self, "block_size", check_int("block_size", self.block_size, "attention", minimum=1))
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
        if self.graph is None:  # raises on unknown parameters and impossible values; any size does
            graphs.pattern(self.attention, 128, **self.parameters)
        _ = self.layers  # raises on unknown patterns

    @property
    def layers(self) -> dict[int, str] | list[str] | None:
        """The patterns by layer, as `nip.sparsify` takes them."""
        return None if self.attention_layers is None else read_layers(self.attention_layers)

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameters of the pattern by name."""
        return read_parameters(self.param)


def read_layers(text: str) -> dict[int, str] | list[str]:
    """The patterns by layer: ``local,hypercube`` is a list that repeats, ``0=local,3=softmax`` names single layers.

    Raises
    ------
    ValueError
        If a pattern is unknown, a layer is not a number or is named twice, or both forms are mixed.
    """
    pairs = [tuple(map(str.strip, part.rpartition("=")[::2])) for part in text.split(",")]
    if not all(name for _, name in pairs) or len({"=" in part for part in text.split(",")}) > 1:
        raise ValueError(
            f"--attention_layers takes names, or NUMBER=NAME for each, comma-separated. Got {text!r} instead."
        )
    for _, name in pairs:
        graphs.pattern_parameters(name)  # raises with the known names
    if "=" not in text:
        return [name for _, name in pairs]
    layers = {int(layer): name for layer, name in pairs if layer.isdecimal()}
    if len(layers) < len(pairs):
        raise ValueError(f"--attention_layers numbers every layer once, from 0. Got {text!r} instead.")
    return layers


@dataclass
class ModelArguments:
    """The model and its tokenizer."""

    model_name_or_path: str | None = flag("Folder of a model, or its name on the hub.")
    config_name: str | None = flag("Configuration, if not the model's.")
    tokenizer_name: str | None = flag("Tokenizer, if not the model's.")
    cache_dir: str | None = flag("Folder for files of the hub.")
    model_revision: str = flag("Branch, tag or commit on the hub.", "main")
    trust_remote_code: bool = flag("Not supported: code that comes with a model is never run.", False)
    ignore_mismatched_sizes: bool = flag("Initialize weights whose shape does not fit the task.", False)

    def __post_init__(self) -> None:
        if self.trust_remote_code:
            raise ValueError("--trust_remote_code is refused: loading a model never runs code that comes with it.")


@dataclass
class RunArguments:
    """The run: what ``TrainingArguments`` lacks."""

    early_stopping_patience: int | None = flag(
        "Stop after this many evaluations without improvement, and load the best model; −1: never."
    )
    early_stopping_threshold: float = flag("Smallest improvement that counts for early stopping.", 0.0)
    overwrite_output_dir: bool = flag(
        "Replace a finished run in --output-dir, or one with other settings. An unfinished run resumes.", False
    )
    overwrite_cache: bool = flag("Tokenize again instead of using the cache.", False)
    preprocessing_num_workers: int | None = flag("Number of processes that tokenize.")
    max_train_samples: int | None = flag("Use only the first N training examples.")
    max_eval_samples: int | None = flag("Evaluate only the first N examples.", aliases=["--max_val_samples"])
    max_predict_samples: int | None = flag("Predict only the first N examples.", aliases=["--max_test_samples"])
    tensorboard_dir: str | None = flag("Folder for TensorBoard logs.")
    json: bool = flag("Print the result as one JSON value on standard output.", False)

    def __post_init__(self) -> None:
        if self.early_stopping_patience == -1:  # the original's default: off
            self.early_stopping_patience = None
        limits = ("max_train_samples", "max_eval_samples", "max_predict_samples")
        for name in ("early_stopping_patience", "preprocessing_num_workers", *limits):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, check_int(name, getattr(self, name), "a run", minimum=1))
        if self.early_stopping_threshold < 0:
            raise ValueError(
                f"--early_stopping_threshold must be at least 0. Got {self.early_stopping_threshold} instead."
            )


@dataclass(frozen=True)
class Command:
    """A parsed command line.

    Parameters
    ----------
    attention, model, run, task, training
        The dataclasses of flags.
    argv : tuple of str
        As typed, the program first: reports show it.
    given : frozenset of str
        Names of the flags that were given, which tells a default from an explicit value.
    """

    attention: AttentionArguments
    model: ModelArguments
    run: RunArguments
    task: Any
    training: TrainingArguments
    argv: tuple[str, ...]
    given: frozenset[str]


class Parser(HfArgumentParser):  # type: ignore[misc]
    """`HfArgumentParser` with errors of one sentence and without abbreviations."""

    def __init__(self, classes: Sequence[type], program: str, description: str | None) -> None:
        super().__init__(list(classes), prog=program, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing pages of usage."""
        raise ValueError(f"{message[:1].upper()}{message[1:]}.")

    @property
    def names(self) -> set[str]:
        """Names of all flags, with underscores."""
        return {
            option[2:] for option in self._option_string_actions if option.startswith("--") and "-" not in option[2:]
        }


def parse(
    argv: Sequence[str],
    task_class: type,
    *,
    program: str,
    training_class: type = TrainingArguments,
    description: str | None = None,
) -> Command:
    """Parse the command line of a finetuning task.

    Parameters
    ----------
    argv : sequence of str
        Without the program. A single argument that ends in ``.json`` is a file with the flags as a JSON object.
    task_class : type
        The task's dataclass; its ``__post_init__`` raises on contradictions.
    program : str
        Such as ``nip glue``.
    training_class : type, default=TrainingArguments
    description : str, optional
        For ``--help``.

    Returns
    -------
    Command

    Raises
    ------
    ValueError
        If a flag is unknown, lacks or has a wrong value, or contradicts another: one sentence.
    """
    parser = Parser(
        (task_class, AttentionArguments, ModelArguments, RunArguments, training_class), program, description
    )
    if len(argv) == 1 and argv[0].endswith(".json"):
        argv = read_argument_file(Path(argv[0]))
    if "-h" in argv or "--help" in argv:
        parser.print_help()
        raise SystemExit(0)
    translated, notices = translate(argv, parser.names)
    given = frozenset(word[2:].partition("=")[0] for word in translated if word.startswith("--"))
    translated, more = resolve_precision(translated, given)
    notices += more
    if "overwrite_output_dir" in given:
        notices.append(
            "--overwrite_output_dir replaces a finished run there; an unfinished one with these settings resumes"
        )
    for notice in notices:
        print_notice(notice)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # transformers' deprecations
        try:
            parsed = parser.parse_args_into_dataclasses(translated, look_for_args_file=False)
        except ValueError as error:
            raise ValueError(" ".join(str(error).split())) from error  # transformers' may have several lines
        except OverflowError as error:  # of TrainingArguments: the number of steps is made an integer
            raise ValueError("A number of steps is infinite: it must be finite.") from error
    task, attention, model, run, training = parsed
    if "eval_steps" in given and not _is_positive(translated, "eval_steps"):  # TrainingArguments takes 0 for none
        raise ValueError("--eval_steps must be above 0, and finite.")
    check_numbers(task, attention, run, training)
    check_contradictions(given, training, run, task)
    return Command(attention, model, run, task, training, (*program.split(), *argv), given)


def check_numbers(*groups: Any) -> None:
    """Check the numbers of dataclasses of flags against `NUMBERS`; NaN and Inf are refused for every flag.

    Raises
    ------
    ValueError
        One sentence that names the flag, its value and what it must be.
    """
    for group in groups:
        for each in dataclasses.fields(group):
            value = getattr(group, each.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            allowed, fits = NUMBERS.get(each.name, ("any number", math.isfinite))
            if not math.isfinite(value) or not fits(value):
                raise ValueError(f"--{each.name} must be {allowed}, and finite. Got {value} instead.")


def print_notice(notice: str) -> None:
    """Print a line on standard error, in the first process only."""
    if os.environ.get("RANK", "0") == "0":
        print(f"nip: {notice}", file=sys.stderr)


def read_argument_file(path: Path) -> list[str]:
    """The command line arguments that a JSON object of flags stands for.

    Raises
    ------
    ValueError
        If the file is not a JSON object.
    """
    argv: list[str] = []
    for name, value in read_json(path).items():
        if value is not None:
            values = value if isinstance(value, list) else [value]
            argv += [f"--{name}", *(json.dumps(v) if isinstance(v, dict | bool) else str(v) for v in values)]
    return argv


def resolve_precision(argv: Sequence[str], given: frozenset[str]) -> tuple[list[str], list[str]]:
    """Replace fp16 on a machine without a GPU, by bf16 if the CPU supports it, else by fp32.

    Returns
    -------
    argv : list of str
        The command line.
    notices : list of str
    """
    left, notices = list(argv), []
    no_gpu = not torch.accelerator.is_available() or _is_on(argv, "use_cpu")
    halves = [name for name in ("fp16", "fp16_full_eval") if _is_on(argv, name)]
    if no_gpu and halves:
        bf16 = computes_bf16()
        for name in halves:
            _drop(left, name)
            instead = name.replace("fp16", "bf16")
            if bf16 and instead not in given:
                left.append(f"--{instead}")
            notices.append(f"--{name} needs a GPU: computing in {'bf16' if bf16 else 'fp32'} instead")
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several and not torch.accelerator.is_available() and not _is_on(argv, "use_cpu"):
        left.append("--use_cpu")  # else accelerate would start every process as the only one
        notices.append("there is no GPU: the processes share the CPU (--use_cpu)")
    elif no_gpu and not _is_on(argv, "use_cpu") and any(_is_on(left, name) for name in ("bf16", "bf16_full_eval")):
        left.append("--use_cpu")
    return left, notices


def _is_on(argv: Sequence[str], name: str) -> bool:
    for place, word in enumerate(argv):
        given, equals, value = word.partition("=")
        if given == f"--{name}":
            following = argv[place + 1] if place + 1 < len(argv) else "true"
            value = value if equals else "true" if following.startswith("--") else following
            return value.lower() not in FALSE
    return False


def _is_positive(argv: Sequence[str], name: str) -> bool:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{name}", type=float)
    value = getattr(parser.parse_known_args(argv)[0], name)
    return bool(value is not None and value > 0)


def _drop(argv: list[str], name: str) -> None:
    place = next(i for i, word in enumerate(argv) if word.partition("=")[0] == f"--{name}")
    alone = "=" in argv[place] or place + 1 == len(argv) or argv[place + 1].startswith("--")
    del argv[place : place + (1 if alone else 2)]


def check_contradictions(
    given: frozenset[str], training: TrainingArguments, run: RunArguments, task: Any = None
) -> None:
    """Check that the flags agree, and set those that follow from others.

    ``--metric_for_best_model`` and ``--early_stopping_patience`` turn ``--load_best_model_at_end`` on.

    Parameters
    ----------
    given : frozenset of str
        Names of the flags that were given.
    training : TrainingArguments
        Completed in place.
    run : RunArguments
    task : dataclass, optional
        Its ``watched_metric`` decides when training stops early, if no other is named.

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
        raise ValueError("--overwrite_output_dir starts again and --resume_from_checkpoint resumes. Give one of them.")
    if run.overwrite_output_dir and not training.do_train:
        print_notice("--overwrite_output_dir does nothing: nothing is trained that could replace a run")
        run.overwrite_output_dir = False
    wants_best = run.early_stopping_patience is not None or "metric_for_best_model" in given
    if "metric_for_best_model" in given and training.do_train and not evaluates:
        print_notice(
            "--metric_for_best_model does nothing: without --eval_strategy no model is evaluated during training"
        )
    if evaluates and "metric_for_best_model" in given and "load_best_model_at_end" not in given:
        print_notice("--metric_for_best_model also loads the best model at the end (--load_best_model_at_end)")
    if evaluates and wants_best and not training.load_best_model_at_end:
        if "load_best_model_at_end" in given:
            raise ValueError("A metric for the best model and early stopping need --load_best_model_at_end to be on.")
        training.load_best_model_at_end = True
        watched = getattr(task, "watched_metric", "loss")
        if training.metric_for_best_model is None and watched != "loss":
            print_notice(f"--early_stopping_patience watches {watched}; --metric_for_best_model names another metric")
        training.metric_for_best_model = training.metric_for_best_model or watched
    if training.metric_for_best_model is not None and "greater_is_better" not in given:
        training.greater_is_better = not training.metric_for_best_model.endswith(("loss", "perplexity"))


def to_json(arguments: Any) -> dict[str, Any]:
    """A dataclass of flags as JSON values."""
    values = arguments.to_dict() if isinstance(arguments, TrainingArguments) else dataclasses.asdict(arguments)
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain
