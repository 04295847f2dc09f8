"""``nip glue``: text classification on GLUE's tasks and its diagnostic set, other datasets, or files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, default_data_collator

from nip.atomic import replacing
from nip.finetuning.arguments import Command, flag, parse, print_notice
from nip.finetuning.datasets import tokenize_dataset
from nip.finetuning.glue.data import UNLABELLED, Examples, Needed, from_dataset, from_files, from_folder, from_hub
from nip.finetuning.glue.metrics import measure
from nip.finetuning.glue.registry import glue_task
from nip.finetuning.losses import classification_loss, regression_loss
from nip.finetuning.model_loading import load_config, load_model, load_tokenizer, sequence_length
from nip.finetuning.trainer import TaskSetup, run_command

DEFAULT_LENGTH = 128


@dataclass
class GlueArguments:
    """The texts to classify."""

    CHANGEABLE: ClassVar = ("test_file",)

    task_name: str | None = flag("Task of GLUE: cola mnli mrpc qnli qqp rte sst2 stsb wnli, or ax.")
    data_dir: str | None = flag("Folder with the official files of the task, or the folder above it.")
    dataset_name: str | None = flag("Another dataset of the hub.")
    dataset_config_name: str | None = flag("Configuration of the dataset.")
    train_file: str | None = flag("Training examples: CSV, TSV, JSON or Parquet.")
    validation_file: str | None = flag("Examples to evaluate on.")
    test_file: str | None = flag("Examples to predict.")
    max_seq_length: int | None = flag(
        f"Maximum number of tokens; longer inputs are truncated. Default {DEFAULT_LENGTH}."
    )
    pad_to_max_length: bool = flag(
        "Pad all inputs to the maximum length, so that all attend over one graph; else a batch to its longest.", True
    )

    @property
    def watched_metric(self) -> str:
        """The metric that early stopping watches, as in the original."""
        return "accuracy" if self.task_name is None else glue_task(self.task_name).watched

    def __post_init__(self) -> None:
        if self.task_name is not None:
            self.task_name = glue_task(self.task_name).name
        files = any((self.train_file, self.validation_file, self.test_file))
        sources = [
            flag
            for flag, given in (("--data_dir", self.data_dir), ("--dataset_name", self.dataset_name), ("files", files))
            if given
        ]
        if len(sources) > 1:
            raise ValueError(f"Give one source of examples, not {' and '.join(sources)}.")
        if self.data_dir is not None and self.task_name is None:
            raise ValueError("--data_dir needs --task_name.")
        if self.dataset_name is not None and self.task_name is not None:
            raise ValueError("Give --task_name or --dataset_name, not both.")
        if not sources and self.task_name is None:
            raise ValueError("Name a task (--task_name), a set (--dataset_name), or files (--train_file and its like).")


def read_command(argv: Sequence[str], program: str) -> Command:
    """The command line, parsed and checked."""
    return parse(argv, GlueArguments, program=program, description=__doc__)


def main(argv: Sequence[str], program: str = "nip glue") -> dict[str, Any]:
    """Train, evaluate and predict as a command line says; returns the content of ``result.json``.

    Raises
    ------
    ValueError, OSError
        One sentence about what is wrong with the command, the data or the model.
    """
    command = read_command(argv, program)
    check_files(command)
    task = command.task
    return run_command(
        command, kind="glue", task=task.task_name or task.dataset_config_name or "files", prepare=prepare
    )


def check_files(command: Command) -> None:
    """Raise ValueError if a file is needed and not named."""
    task, training = command.task, command.training
    if any((task.train_file, task.validation_file, task.test_file)):
        needs = (
            ("do_train", training.do_train, "train_file"),
            ("do_eval", training.do_eval, "validation_file"),
            ("do_predict", training.do_predict, "test_file"),
        )
        for flag_name, wanted, file in needs:
            if wanted and getattr(task, file) is None:
                raise ValueError(f"--{flag_name} needs --{file}.")


def read_examples(command: Command) -> Examples:
    """The sets that the command needs, from the source that it names."""
    task, training = command.task, command.training
    needed = Needed(training.do_train, training.do_eval, training.do_predict)
    files = {"train": task.train_file, "validation": task.validation_file, "test": task.test_file}
    wanted = {"train": needed.train, "validation": needed.evaluated, "test": needed.tested}
    chosen = {split: file for split, file in files.items() if file is not None and wanted[split]}
    if chosen:
        known = glue_task(task.task_name) if task.task_name else None
        return from_files(chosen, known, command.model.cache_dir)
    if task.dataset_name is not None:
        return from_dataset(task.dataset_name, task.dataset_config_name, needed, command.model.cache_dir)
    if task.data_dir is not None:
        return from_folder(task.task_name, Path(task.data_dir), needed)
    return from_hub(task.task_name, needed, command.model.cache_dir)


def prepare(command: Command) -> TaskSetup:
    """Model and data of a command; raises ValueError or OSError if something is wrong with them."""
    config = load_config(command)
    tokenizer = load_tokenizer(command, config)
    seq_len = sequence_length(command, config, tokenizer, wanted=command.task.max_seq_length, default=DEFAULT_LENGTH)
    examples = read_examples(command)
    labels = in_model_order(config, examples.labels or saved_labels(config, examples))
    config = task_config(command, config, examples, labels)
    smoothing = command.training.label_smoothing_factor
    if smoothing and not labels:
        raise ValueError(f"--label_smoothing_factor is for classes; the labels of {examples.name} are numbers.")
    model = load_model(command, AutoModelForSequenceClassification, config, tokenizer, seq_len)
    train, evaluated, tested = tokenize_examples(command, examples, tokenizer, seq_len, labels)
    names = metric_names(examples, bool(labels))
    first = next(iter(evaluated.values()), None)
    padded = command.task.pad_to_max_length
    return TaskSetup(
        kind="glue",
        task=examples.name,
        model=model,
        tokenizer=tokenizer,
        seq_len=seq_len,
        train=train,
        evaluation=evaluated,
        collator=default_data_collator if padded else DataCollatorWithPadding(tokenizer),
        metrics=lambda output: measure(names, predict_labels(output.predictions, bool(labels)), output.label_ids),
        metric=names[0],
        metric_names=names,
        loss=partial(classification_loss, label_smoothing=smoothing) if labels else regression_loss,
        describe=None if first is None else lambda _: describe_evaluation(first, bool(labels)),
        predict=(lambda trainer, folder: write_predictions(trainer, folder, examples, tested, labels))
        if tested
        else None,
        data={"train": train._fingerprint} if train is not None else {},
    )


def metric_names(examples: Examples, classes: bool) -> tuple[str, ...]:
    """The metrics of a task; of other data accuracy, or correlations if labels are numbers."""
    if examples.task is not None:
        return examples.task.metrics
    return ("accuracy",) if classes else ("pearson", "spearmanr", "combined_score")


def saved_labels(config: Any, examples: Examples) -> tuple[str, ...]:
    """The labels that a model was trained with, for examples to predict that have no labels."""
    known = [data for data in (examples.train, *examples.evaluated.values()) if data is not None]
    if known or config.num_labels == 1:
        return ()
    return tuple(config.id2label[number] for number in sorted(config.id2label))


def in_model_order(config: Any, labels: tuple[str, ...]) -> tuple[str, ...]:
    """The task's labels, in the order of a model that was trained with them.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> in_model_order(SimpleNamespace(id2label={0: "CONTRADICTION", 1: "ENTAILMENT"}), ("entailment", "contradiction"))
    ('contradiction', 'entailment')
    """
    own = [str(config.id2label[each]).lower() for each in sorted(config.id2label)]
    known = {name.lower(): name for name in labels}
    return tuple(known[name] for name in own) if sorted(own) == sorted(known) else labels


def task_config(command: Command, config: Any, examples: Examples, labels: tuple[str, ...]) -> Any:
    """Set the task's labels in the configuration.

    Parameters
    ----------
    command : Command
    config : PretrainedConfig
        Changed in place.
    examples : Examples
    labels : tuple of str
        In the order of their ids; empty for regression.

    Raises
    ------
    ValueError
        If the model was trained with other labels.
    """
    number = len(labels) or 1
    own = [config.id2label[each] for each in sorted(config.id2label)]
    classifies = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    if classifies and not command.model.ignore_mismatched_sizes:
        unnamed = all(name.startswith("LABEL_") for name in own)
        if len(own) != number or (labels and not unnamed and {*map(str.lower, own)} != {*map(str.lower, labels)}):
            theirs = ", ".join(own) if config.num_labels > 1 else "a number"
            raise ValueError(
                f"{command.model.model_name_or_path} was trained with the labels {theirs}; {examples.name} has "
                f"{', '.join(labels) or 'a number'}. Give --ignore_mismatched_sizes to initialize a new head."
            )
    config.num_labels = number
    config.finetuning_task = examples.name
    config.problem_type = "regression" if not labels else "single_label_classification"
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {name: each for each, name in enumerate(labels)}
    return config


def tokenize_examples(
    command: Command, examples: Examples, tokenizer: Any, seq_len: int, labels: tuple[str, ...]
) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Tokenize the examples, with the model's label ids.

    Parameters
    ----------
    command : Command
    examples : Examples
    tokenizer : PreTrainedTokenizerBase
    seq_len : int
        Maximum number of tokens.
    labels : tuple of str
        The model's, in the order of their ids.

    Returns
    -------
    train : Dataset or None
    evaluated, tested : dict of str to Dataset

    Raises
    ------
    ValueError
        If examples to train or to evaluate on have no labels.
    """
    run = command.run
    ids = [labels.index(name) for name in examples.labels]
    padding = "max_length" if command.task.pad_to_max_length else False
    settings = {"columns": examples.columns, "seq_len": seq_len, "padding": padding, "numbers": ids}

    def encode(batch: Mapping[str, list[Any]]) -> dict[str, Any]:
        texts = [[str(text) if text is not None else "" for text in batch[name]] for name in examples.columns]
        return {
            **tokenizer(*texts, padding=padding, max_length=seq_len, truncation=True),
            "labels": [ids[label] if ids and label >= 0 else label for label in batch["label"]],
        }

    def of(data: Any, limit: int | None) -> Any:
        chosen = data if limit is None else data.select(range(min(limit, len(data))))
        return tokenize_dataset(chosen, encode, command, tokenizer=tokenizer, settings=settings)

    train = None if examples.train is None else of(drop_unlabelled(examples), run.max_train_samples)
    evaluated = {name: of(data, run.max_eval_samples) for name, data in examples.evaluated.items()}
    for name, data in evaluated.items():
        if UNLABELLED in data.unique("labels") and examples.labels:
            raise ValueError(f"The set {name or 'to evaluate'} of {examples.name} has rows without a label.")
    tested = {name: of(data, run.max_predict_samples) for name, data in examples.tested.items()}
    return train, evaluated, tested


def drop_unlabelled(examples: Examples) -> Any:
    """The training examples that have a label, which not all of SNLI have; ValueError if none has."""
    if not examples.labels:
        return examples.train
    known = np.flatnonzero(np.asarray(examples.train["label"][:]) != UNLABELLED)
    missing = len(examples.train) - len(known)
    if not len(known):
        raise ValueError(f"No row of the training set of {examples.name} has a label.")
    if missing:
        print_notice(f"{examples.name} train: {missing:,} rows without a label were left out")
    return examples.train.select(known) if missing else examples.train


def predict_labels(logits: Any, classes: bool) -> np.ndarray:
    """The class of the highest logit; for regression the logit."""
    values = np.asarray(logits[0] if isinstance(logits, tuple) else logits, dtype=np.float32)
    return values.argmax(axis=1) if classes else values.reshape(len(values))


def describe_evaluation(data: Any, classes: bool) -> dict[str, Any]:
    """The number of evaluated examples, and the accuracy of the most frequent label."""
    facts: dict[str, Any] = {"n_test": len(data)}
    if classes:
        facts["baselines"] = {"commonest_label": max(Counter(data["labels"][:]).values()) / len(data)}
    return facts


def write_predictions(
    trainer: Any, folder: Path, examples: Examples, tested: Mapping[str, Any], labels: tuple[str, ...]
) -> list[Path]:
    """Predict, and write files in GLUE's submission format.

    Parameters
    ----------
    trainer : Trainer
    folder : Path
    examples : Examples
    tested : mapping of str to Dataset
        The tokenized examples.
    labels : tuple of str
        The model's, in the order of their ids.

    Returns
    -------
    list of Path
        The files.
    """
    files: list[Path] = []
    names = examples.task.submissions if examples.task is not None else ("predictions.tsv",)
    written = list(labels)
    if examples.task is not None and examples.labels:
        written = [examples.task.written[examples.labels.index(name)] for name in labels]
    for (name, data), file in zip(tested.items(), names[: len(tested)], strict=True):  # a file has a single set
        unlabelled = data.remove_columns("labels")
        predicted = predict_labels(trainer.predict(unlabelled, metric_key_prefix="predict").predictions, bool(labels))
        index = examples.tested[name]["idx"][: len(data)]
        if trainer.is_world_process_zero():
            files.append(write_submission(folder / file, index, predicted, written, examples.name))
    return files


def write_submission(
    path: Path, index: Sequence[int], predicted: np.ndarray, written: Sequence[str], task: str
) -> Path:
    """Write a file of predictions, completely or not at all.

    Parameters
    ----------
    path : Path
    index : sequence of int
        Of the examples.
    predicted : ndarray of shape (n,)
        Class ids, or numbers, which are written with three decimals, those of STS-B clipped to [0, 5].
    written : sequence of str
        The labels as they are written; empty for numbers.
    task : str

    Returns
    -------
    Path
        `path`.
    """
    lines = ["index\tprediction\n"]
    for number, value in zip(index, predicted.tolist(), strict=True):
        shown = min(5.0, max(0.0, value)) if task == "stsb" else value
        lines.append(f"{number}\t{written[value] if written else f'{shown:.3f}'}\n")
    with replacing(path) as file:
        file.write("".join(lines).encode())
    return path
