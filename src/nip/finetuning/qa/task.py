"""``nip qa``: extractive question answering on SQuAD 1.1, SQuAD 2.0 and datasets of that format.

Long contexts are split into windows (`data`), the best spans become answers (`answers`), which are scored by exact
match and F1 (`metrics`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding

from nip.finetuning.arguments import Command, flag, parse
from nip.finetuning.datasets import check_data_source, dataset_sha256, read_splits, select_samples, tokenize_dataset
from nip.finetuning.model_loading import load_config, load_model, load_tokenizer, sequence_length
from nip.finetuning.qa.answers import AnswerRules, Answers, find_answers
from nip.finetuning.qa.data import (
    WindowRules,
    check_questions,
    check_tokenizer,
    read_squad,
    references,
    tokenize_windows,
)
from nip.finetuning.qa.metrics import score_v1, score_v2
from nip.finetuning.trainer import TaskSetup, run_command
from nip.runs.folder import write_json

DEFAULT_LENGTH = 384
ANSWER_COLUMNS = ("example_id", "first", "last", "null", "offsets")
METRICS_V1 = ("exact_match", "f1")
METRICS_V2 = ("exact", "f1", "best_exact", "best_f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1")


@dataclass
class QaArguments:
    """The questions, and what counts as an answer."""

    dataset_name: str | None = flag("Dataset of the hub, such as squad or squad_v2.")
    dataset_config_name: str | None = flag("Configuration of the dataset.")
    train_file: str | None = flag("Training questions: SQuAD's JSON, or a table in JSON, JSON lines, CSV or Parquet.")
    validation_file: str | None = flag("Questions to evaluate on.")
    test_file: str | None = flag("Questions to answer with --do_predict.")
    max_seq_length: int | None = flag(
        f"Maximum number of tokens of question and context. Default {DEFAULT_LENGTH}, or the model's limit."
    )
    pad_to_max_length: bool = flag("Pad all windows to the maximum length; otherwise a batch to its longest.", True)
    doc_stride: int = flag("Context tokens that a window shares with the previous one.", 128)
    version_2_with_negative: bool = flag("A question may have no answer.", False)
    null_score_diff_threshold: float = flag(
        "Predict no answer if its score exceeds that of the best span by this.", 0.0
    )
    n_best_size: int = flag("Answers per question in nbest_predictions.json.", 20)
    max_answer_length: int = flag("Maximum number of tokens of an answer.", 30)

    def __post_init__(self) -> None:
        check_data_source(self, "squad")
        if self.max_seq_length is not None:
            WindowRules(self.max_seq_length, self.doc_stride)
        _ = self.rules  # raises on values out of range

    @property
    def rules(self) -> AnswerRules:
        """The settings of `find_answers`."""
        return AnswerRules(
            self.n_best_size, self.max_answer_length, self.version_2_with_negative, self.null_score_diff_threshold
        )


def read_command(argv: Sequence[str], program: str) -> Command:
    """The command line, parsed and checked."""
    return parse(argv, QaArguments, program=program, description=__doc__)


def main(argv: Sequence[str], program: str = "nip qa") -> dict[str, Any]:
    """Train, evaluate and predict as a command line says; returns the content of ``result.json``.

    Raises
    ------
    ValueError, OSError
        One sentence about what is wrong with the command, the data or the model.
    """
    command = read_command(argv, program)
    return run_command(command, kind="qa", task=_task(command.task), prepare=prepare)


def _task(task: QaArguments) -> str:
    if task.dataset_name is not None:
        return task.dataset_name.rpartition("/")[2]
    return "squad_v2" if task.version_2_with_negative else "squad"


def prepare(command: Command) -> TaskSetup:
    """Model and data of a command; raises ValueError or OSError if something is wrong with them."""
    task, training = command.task, command.training
    if training.label_smoothing_factor:
        raise ValueError("--label_smoothing_factor is not for nip qa: the loss of an answer's two ends is the model's.")
    config = load_config(command)
    tokenizer = load_tokenizer(command, config)
    seq_len = sequence_length(command, config, tokenizer, wanted=task.max_seq_length, default=DEFAULT_LENGTH)
    window_rules = WindowRules(seq_len, task.doc_stride, task.pad_to_max_length)
    check_tokenizer(tokenizer, window_rules)
    questions = _questions(command)
    model = load_model(command, AutoModelForQuestionAnswering, config, tokenizer, seq_len)
    keys = {split: dataset_sha256(data) for split, data in questions.items()}
    windows = {
        split: tokenize_dataset(
            data,
            partial(tokenize_windows, tokenizer=tokenizer, rules=window_rules),
            command,
            tokenizer=tokenizer,
            settings={"windows": asdict(window_rules)},
            key=keys[split],
        )
        for split, data in questions.items()
    }

    answer_columns = {split: rows.select_columns([*ANSWER_COLUMNS]) for split, rows in windows.items()}
    evaluation = SquadMetrics(task.rules, questions.get("validation"), answer_columns.get("validation"))
    inputs = {split: rows.remove_columns([*ANSWER_COLUMNS]) for split, rows in windows.items()}

    def write_evaluation(trainer: Any, folder: Path, metrics: Any) -> None:
        if metrics and evaluation.answers is not None and trainer.is_world_process_zero():
            write_answers(evaluation.answers, folder, "", negative=task.version_2_with_negative)

    def predict(trainer: Any, folder: Path) -> list[Path]:
        unlabelled = inputs["test"].remove_columns(["start_positions", "end_positions"])
        starts, ends = trainer.predict(unlabelled, metric_key_prefix="predict").predictions[:2]
        found = find_answers(questions["test"], answer_columns["test"], starts, ends, task.rules)
        if not trainer.is_world_process_zero():
            return []
        return write_answers(found, folder, "predict_", negative=task.version_2_with_negative)

    return TaskSetup(
        kind="qa",
        task=_task(task),
        model=model,
        tokenizer=tokenizer,
        seq_len=seq_len,
        train=inputs.get("train"),
        evaluation={"": inputs["validation"]} if "validation" in inputs else {},
        collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8 if training.fp16 else None),
        metrics=evaluation,
        metric="f1",
        metric_names=METRICS_V2 if task.version_2_with_negative else METRICS_V1,
        describe=evaluation.describe,
        predict=predict if "test" in inputs else None,
        data={split: key for split, key in keys.items() if split != "test"},
        after=write_evaluation,
        reduce_logits=lambda logits, labels: logits[:2],  # some models return more, which would be kept, too
    )


def _questions(command: Command) -> dict[str, Any]:
    """The questions of each split that the command needs, checked and limited."""
    negative = command.task.version_2_with_negative
    found = {}
    for split, (source, rows) in read_splits(command, read_squad).items():
        checked = check_questions(rows, source, with_negative=negative, labelled=split != "test")
        found[split] = select_samples(command, split, checked)
    return found


class SquadMetrics:
    """The Trainer's `compute_metrics`; keeps the answers, which are written at the end.

    Parameters
    ----------
    rules : AnswerRules
    questions : Dataset or None
        The validation set.
    windows : Dataset or None
        Its windows, with `ANSWER_COLUMNS`.
    """

    def __init__(self, rules: AnswerRules, questions: Any, windows: Any) -> None:
        self.rules, self.questions, self.windows = rules, questions, windows
        self.answers: Answers | None = None

    def __call__(self, evaluated: Any) -> dict[str, float]:
        """The scores of the evaluated logits."""
        starts, ends = (np.asarray(logits) for logits in evaluated.predictions[:2])
        self.answers = find_answers(self.questions, self.windows, starts, ends, self.rules)
        correct = references(self.questions)
        if not self.rules.version_2_with_negative:
            return score_v1(self.answers.predictions, correct)
        scores = score_v2(self.answers.predictions, correct)
        possible = score_v2(self.answers.best, correct, self.answers.null_odds)
        return scores | {name: value for name, value in possible.items() if name.startswith("best_")}

    def describe(self, metrics: Any) -> dict[str, Any]:
        """Further fields of the result, as fractions, which SQuAD's scores are not."""
        exact = metrics.get("exact" if self.rules.version_2_with_negative else "exact_match")
        fractions = {"test_accuracy": exact / 100, "score": metrics["f1"] / 100, "dev_accuracy": None}
        return {**fractions, "n_test": int(metrics["total"])}


def write_answers(answers: Answers, folder: Path, prefix: str, *, negative: bool) -> list[Path]:
    """Write ``predictions.json``, ``nbest_predictions.json`` and, with `negative`, ``null_odds.json``.

    Parameters
    ----------
    answers : Answers
    folder : Path
    prefix : str
        Of the files' names.
    negative : bool
        Whether questions may have no answer.

    Returns
    -------
    list of Path
        The files.
    """
    files = {"predictions": answers.predictions, "nbest_predictions": answers.nbest}
    if negative:
        files["null_odds"] = answers.null_odds
    written = []
    for name, values in files.items():
        written.append(folder / f"{prefix}{name}.json")
        write_json(written[-1], values)
    return written
