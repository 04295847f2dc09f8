"""Question answering on SQuAD's two versions and sets like them: the answer is a span of the context.

Windows of long contexts (`nip.finetuning.qa.data`), the spans that score best (`qa_answers`), exact match and F1
(`qa_score`); the run itself is that of every finetuning task (`nip.finetuning.trainer`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding

from nip.finetuning.arguments import Command, parse
from nip.finetuning.datasets import check_data_source, dataset_sha256, read_splits, select_samples, tokenize_dataset
from nip.finetuning.model_loading import load_config, load_model, load_tokenizer, sequence_length
from nip.finetuning.qa.answers import AnswerRules, Answers, find_answers
from nip.finetuning.qa.data import WindowRules, check, check_tokenizer, read_squad, references, windows
from nip.finetuning.qa.metrics import score_v1, score_v2
from nip.finetuning.trainer import TaskSetup, begin, report, run_task
from nip.runs.folder import write_json

DEFAULT_LENGTH = 384
# What a window needs beside the model's inputs.
FOR_ANSWERS = ("example_id", "first", "last", "null", "offsets")
METRICS_V1 = ("exact_match", "f1")
METRICS_V2 = ("exact", "f1", "best_exact", "best_f1", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1")


def _flag(says: str, default: Any = None) -> Any:
    return field(default=default, metadata={"help": says})


@dataclass
class QaArguments:
    """What questions, and what counts as an answer."""

    dataset_name: str | None = _flag("A set on the hub, such as squad or squad_v2.")
    dataset_config_name: str | None = _flag("Its configuration.")
    train_file: str | None = _flag("Questions to train on: SQuAD's JSON, or rows in JSON, JSON lines, CSV, Parquet.")
    validation_file: str | None = _flag("Questions to evaluate on.")
    test_file: str | None = _flag("Questions to answer with --do_predict.")
    max_seq_length: int | None = _flag(f"Tokens of question and context; {DEFAULT_LENGTH} unless the model has fewer.")
    pad_to_max_length: bool = _flag("Pad all windows to that length; otherwise a batch to its longest.", True)
    doc_stride: int = _flag("Context tokens that a window shares with the one before.", 128)
    version_2_with_negative: bool = _flag("A question may have no answer.", False)
    null_score_diff_threshold: float = _flag("By how much no answer must score above the best one to be taken.", 0.0)
    n_best_size: int = _flag("Answers to a question that are kept in nbest_predictions.json.", 20)
    max_answer_length: int = _flag("Tokens of the longest answer.", 30)

    def __post_init__(self) -> None:
        check_data_source(self, "squad")
        if self.max_seq_length is not None:
            WindowRules(self.max_seq_length, self.doc_stride)
        self.rules  # noqa: B018 (refuses what is wrong)

    @property
    def rules(self) -> AnswerRules:
        """What counts as an answer."""
        return AnswerRules(
            self.n_best_size, self.max_answer_length, self.version_2_with_negative, self.null_score_diff_threshold
        )


def read_command(argv: Sequence[str], program: str) -> Command:
    """The command line, parsed and checked."""
    return parse(argv, QaArguments, program=program, description=__doc__)


def main(words: Sequence[str], program: str = "nip qa") -> dict[str, Any]:
    """Train, evaluate and predict as a command line says; what came of it, as ``result.json`` holds it.

    Raises
    ------
    ValueError, OSError
        One sentence about what is wrong, before long work.
    """
    command = read_command(words, program)
    with begin(command, kind="qa", task=_task(command.task)) as claim:
        result = run_task(command, prepare(command), claim)
    report(command, result)
    return result


def _task(task: QaArguments) -> str:
    if task.dataset_name is not None:
        return task.dataset_name.rpartition("/")[2]
    return "squad_v2" if task.version_2_with_negative else "squad"


def prepare(command: Command) -> TaskSetup:
    """Data, model and metrics of a command; everything that can be wrong with them is told here."""
    task, training = command.task, command.training
    if training.label_smoothing_factor:
        raise ValueError("--label_smoothing_factor is not for nip qa: the loss of an answer's two ends is the model's.")
    config = load_config(command)
    tokenizer = load_tokenizer(command, config)
    seq_len = sequence_length(command, config, tokenizer, wanted=task.max_seq_length, default=DEFAULT_LENGTH)
    cut = WindowRules(seq_len, task.doc_stride, task.pad_to_max_length)
    check_tokenizer(tokenizer, cut)
    questions = _questions(command)
    model = load_model(command, AutoModelForQuestionAnswering, config, tokenizer, seq_len)
    keys = {part: dataset_sha256(data) for part, data in questions.items()}
    cut_up = {
        part: tokenize_dataset(
            data,
            partial(windows, tokenizer=tokenizer, rules=cut),
            command,
            tokenizer=tokenizer,
            settings={"windows": asdict(cut)},
            key=keys[part],
        )
        for part, data in questions.items()
    }

    evaluation = _Measured(task.rules)
    if "validation" in questions:
        evaluation = _Measured(task.rules, questions["validation"], cut_up["validation"].select_columns([*FOR_ANSWERS]))
    inputs = {part: rows.remove_columns(list(FOR_ANSWERS)) for part, rows in cut_up.items()}

    def write_evaluation(trainer: Any, folder: Path, metrics: Any) -> None:
        if metrics and evaluation.answers is not None and trainer.is_world_process_zero():
            write_answers(evaluation.answers, folder, "", negative=task.version_2_with_negative)

    def predict(trainer: Any, folder: Path) -> list[Path]:
        bare = inputs["test"].remove_columns(["start_positions", "end_positions"])
        starts, ends = trainer.predict(bare, metric_key_prefix="predict").predictions[:2]
        found = find_answers(questions["test"], cut_up["test"].select_columns([*FOR_ANSWERS]), starts, ends, task.rules)
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
        data={part: key for part, key in keys.items() if part != "test"},
        after=write_evaluation,
        reduce_logits=_only_the_scores,
    )


def _questions(command: Command) -> dict[str, Any]:
    """The questions of each part that the command needs, checked and cut to as many as it wants."""
    negative = command.task.version_2_with_negative
    found = {}
    for part, (source, rows) in read_splits(command, lambda path, _: read_squad(path)).items():
        found[part] = select_samples(command, part, check(rows, source, with_negative=negative, need=part != "test"))
    return found


def _only_the_scores(logits: Any, labels: Any) -> Any:
    return logits[:2]  # some models return more, which would be kept for the whole set


class _Measured:
    """What `Trainer` calls after an evaluation; it keeps the answers, to be written in the end."""

    def __init__(self, rules: AnswerRules, questions: Any = None, cut: Any = None) -> None:
        self.rules, self.questions, self.cut = rules, questions, cut
        self.answers: Answers | None = None

    def __call__(self, evaluated: Any) -> dict[str, float]:
        starts, ends = (np.asarray(scores) for scores in evaluated.predictions[:2])
        self.answers = find_answers(self.questions, self.cut, starts, ends, self.rules)
        right = references(self.questions)
        if not self.rules.version_2_with_negative:
            return score_v1(self.answers.predictions, right)
        scores = score_v2(self.answers.predictions, right)
        possible = score_v2(self.answers.best, right, self.answers.null_odds)
        return scores | {name: value for name, value in possible.items() if name.startswith("best_")}

    def describe(self, metrics: Any) -> dict[str, Any]:
        exact = metrics.get("exact" if self.rules.version_2_with_negative else "exact_match")
        # elsewhere in a result figures are shares
        shares = {"test_accuracy": exact / 100, "score": metrics["f1"] / 100, "dev_accuracy": None}
        return {**shares, "n_test": int(metrics["total"])}


def write_answers(answers: Answers, folder: Path, prefix: str, *, negative: bool) -> list[Path]:
    """Write ``predictions.json``, ``nbest_predictions.json`` and, with `negative`, ``null_odds.json``."""
    files = {"predictions": answers.predictions, "nbest_predictions": answers.nbest}
    if negative:
        files["null_odds"] = answers.null_odds
    written = []
    for name, values in files.items():
        written.append(folder / f"{prefix}{name}.json")
        write_json(written[-1], values)
    return written
