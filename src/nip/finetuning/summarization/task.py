"""Summaries by encoder–decoders (BART, T5, Pegasus, mBART …) whose encoder attends over the graph.

The decoder and its look at the encoder stay dense. Scored by ROUGE (`summarization.metrics`) on generated text with
``--predict_with_generate``, else by the share of next tokens that are foreseen; the run is that of every finetuning
task (`nip.finetuning.trainer`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoModelForSeq2SeqLM, DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

from nip.atomic import replacing
from nip.finetuning.arguments import Command, parse, print_notice
from nip.finetuning.datasets import (
    check_data_source,
    dataset_sha256,
    read_rows,
    read_splits,
    select_samples,
    tokenize_dataset,
)
from nip.finetuning.losses import IGNORED, classification_loss, smoothed
from nip.finetuning.model_loading import load_config, load_model, load_tokenizer, sequence_length
from nip.finetuning.summarization.data import TokenRules, choose_columns, tokenize
from nip.finetuning.summarization.generation import check_targets, resolve_generation, set_first_token, set_language
from nip.finetuning.summarization.metrics import KINDS, rouge
from nip.finetuning.trainer import RecordedTrainer, TaskSetup, begin, report, run_task

DEFAULT_LENGTH = 1024
PREDICTIONS = "generated_predictions.txt"


def _flag(says: str, default: Any = None, **more: Any) -> Any:
    return field(default=default, metadata={"help": says, **more})


@dataclass
class SummarizationArguments:
    """What is summarized, and at what length."""

    dataset_name: str | None = _flag("A set on the hub, such as cnn_dailymail.")
    dataset_config_name: str | None = _flag("Its configuration, such as 3.0.0.")
    train_file: str | None = _flag("Texts with summaries to train on: CSV, TSV, JSON, JSON lines, Parquet.")
    validation_file: str | None = _flag("Texts with summaries to evaluate on.")
    test_file: str | None = _flag("Texts to summarize with --do_predict.")
    text_column: str | None = _flag("The column of texts, where its name does not say so.")
    summary_column: str | None = _flag("The column of summaries, where its name does not say so.")
    source_prefix: str | None = _flag("Put before each text, as T5's models want: 'summarize: '.")
    max_source_length: int | None = _flag(
        f"Tokens kept of a text; {DEFAULT_LENGTH:,} unless the model has fewer positions.", aliases=["--max_seq_length"]
    )
    max_target_length: int = _flag("Tokens kept of a summary in training.", 128)
    val_max_target_length: int | None = _flag("Tokens of a generated summary; --max_target_length unless given.")
    num_beams: int | None = _flag("Beams of the search for a summary; the model's own number unless given.")
    freeze_encoder: bool = _flag("Train the decoder alone; what the encoder shares with it stays, too.", False)
    pad_to_max_length: bool = _flag("Pad all texts to the full length; otherwise a batch to its longest.", False)
    ignore_pad_token_for_loss: bool = _flag("Padding of summaries is not to be learnt.", True)
    lang: str | None = _flag("Language of the texts, for models that are told: en_XX.")
    forced_bos_token: str | None = _flag("First token of each summary, for models of many languages.")

    def __post_init__(self) -> None:
        check_data_source(self, "cnn_dailymail")
        if self.text_column is not None and self.text_column == self.summary_column:
            raise ValueError(f"--text_column and --summary_column are both {self.text_column!r}.")
        for name in ("max_target_length", "val_max_target_length", "num_beams"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be an integer of at least 1. Got {value} instead.")


class RecordedSeq2SeqTrainer(RecordedTrainer, Seq2SeqTrainer):  # type: ignore[misc]
    """`Seq2SeqTrainer` that is recorded as every run is, and that several processes give no text twice."""

    def evaluation_loop(self, *arguments: Any, **named: Any) -> Any:
        """As the Trainer's; `Seq2SeqTrainer` would keep the texts that fill up the last batches of all processes."""
        self.gather_function = self.accelerator.gather_for_metrics
        return super().evaluation_loop(*arguments, **named)

    def prediction_step(self, model: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
        """As the Trainer's; the collator says None for summaries that are missing, and it would compute their loss."""
        there = {name: value for name, value in inputs.items() if value is not None}
        return super().prediction_step(model, there, *arguments, **named)


def read_command(argv: Sequence[str], program: str) -> Command:
    """The command line, parsed and checked."""
    return parse(
        argv, SummarizationArguments, program=program, training_class=Seq2SeqTrainingArguments, description=__doc__
    )


def main(words: Sequence[str], program: str = "nip summarization") -> dict[str, Any]:
    """Train, evaluate and predict as a command line says; what came of it, as ``result.json`` holds it.

    Raises
    ------
    ValueError, OSError
        One sentence about what is wrong, before long work.
    """
    command = read_command(words, program)
    resolve_generation(command)
    with begin(command, kind="summarization", task=_task(command.task)) as claim:
        result = run_task(command, prepare(command), claim)
    report(command, result)
    return result


def _task(task: SummarizationArguments) -> str:
    if task.dataset_name is not None:
        return task.dataset_name.rpartition("/")[2]
    return Path(task.train_file or task.validation_file or task.test_file or "").stem


def prepare(command: Command) -> TaskSetup:
    """Data, model and metrics of a command; everything that can be wrong with them is told here."""
    task, training = command.task, command.training
    config = load_config(command)
    if not getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"Summaries need an encoder–decoder such as BART, T5 or Pegasus; {command.model.model_name_or_path} is a "
            f"{config.model_type}."
        )
    tokenizer = load_tokenizer(command, config)
    source_length = _source_length(command, config, tokenizer)
    rules = TokenRules(
        source_length,
        task.max_target_length,
        task.source_prefix or "",
        task.pad_to_max_length,
        task.ignore_pad_token_for_loss,
    )
    texts, columns = _texts(command)
    set_language(command, tokenizer)
    model = load_model(command, AutoModelForSeq2SeqLM, config, tokenizer, source_length)
    if task.freeze_encoder:
        model.get_encoder().requires_grad_(False)
    check_targets(command, model)
    set_first_token(command, model, tokenizer)
    if rules.prefix == "" and config.model_type in ("t5", "mt5"):
        print_notice("T5's models were taught with a prefix before each text: --source_prefix 'summarize: '")

    keys = {part: dataset_sha256(data) for part, data in texts.items()}
    inputs = {
        part: tokenize_dataset(
            data,
            partial(
                tokenize,
                tokenizer=tokenizer,
                text=columns[part][0],
                summary=columns[part][1],
                rules=rules,
                keep=part == "test",
            ),
            command,
            tokenizer=tokenizer,
            settings={"columns": columns[part], "lang": task.lang, "keep": part == "test", **asdict(rules)},
            key=keys[part],
        )
        for part, data in texts.items()
    }
    for part, rows in inputs.items():
        if len(rows) == 0:
            raise ValueError(f"No row to {'train on' if part == 'train' else part} has both a text and a summary.")

    def score(evaluated: Any) -> dict[str, float]:
        if not training.predict_with_generate:
            real = evaluated.label_ids != IGNORED
            return {"accuracy": float((evaluated.predictions == evaluated.label_ids)[real].mean())}
        made, right = (_texts_of(ids, tokenizer) for ids in (evaluated.predictions, evaluated.label_ids))
        lengths = [int((np.asarray(row) != tokenizer.pad_token_id).sum()) for row in _real(evaluated.predictions, 0)]
        return {**rouge(made, right), "gen_len": float(np.mean(lengths))}

    def predict(trainer: Any, folder: Path) -> list[Path]:
        found = trainer.predict(inputs["test"], metric_key_prefix="predict")
        if not trainer.is_world_process_zero():
            return []
        if found.label_ids is not None:
            trainer.save_metrics("predict", found.metrics)
        made = zip(_texts_of(found.predictions, tokenizer), texts["test"][columns["test"][0]][:], strict=True)
        return [write_summaries([summary if text else "" for summary, text in made], folder / PREDICTIONS)]

    return TaskSetup(
        kind="summarization",
        task=_task(task),
        model=model,
        tokenizer=tokenizer,
        seq_len=source_length,
        train=inputs.get("train"),
        evaluation={"": inputs["validation"]} if "validation" in inputs else {},
        collator=DataCollatorForSeq2Seq(
            tokenizer,
            model=model,
            label_pad_token_id=IGNORED if task.ignore_pad_token_for_loss else tokenizer.pad_token_id,
            pad_to_multiple_of=8 if training.fp16 else None,
        ),
        metrics=score,
        metric="rougeL" if training.predict_with_generate else "accuracy",
        metric_names=(*KINDS, "gen_len") if training.predict_with_generate else ("accuracy",),
        reduce_logits=None if training.predict_with_generate else _likeliest,
        loss=smoothed(training.label_smoothing_factor) if training.label_smoothing_factor else classification_loss,
        describe=lambda metrics: _described(metrics, len(inputs["validation"])),
        predict=predict if "test" in inputs else None,
        data={part: key for part, key in keys.items() if part != "test"},
        trainer_class=RecordedSeq2SeqTrainer,
    )


def _source_length(command: Command, config: Any, tokenizer: Any) -> int:
    try:
        return sequence_length(
            command, config, tokenizer, wanted=command.task.max_source_length, default=DEFAULT_LENGTH
        )
    except ValueError as error:  # it is called otherwise here
        raise ValueError(str(error).replace("--max_seq_length", "--max_source_length")) from error


def _texts(command: Command) -> tuple[dict[str, Any], dict[str, tuple[str, str | None]]]:
    """The texts of each part that the command needs, and the names of their columns."""
    task = command.task
    texts: dict[str, Any] = {}
    columns: dict[str, tuple[str, str | None]] = {}
    for part, (source, rows) in read_splits(command, lambda path, _: read_rows(path)).items():
        columns[part] = choose_columns(
            rows.column_names,
            text=task.text_column,
            summary=task.summary_column,
            dataset_name=task.dataset_name,
            need_summary=part != "test",
            source=source,
        )
        for column in columns[part]:
            if column is not None and getattr(rows.features[column], "dtype", "") not in ("string", "large_string"):
                raise ValueError(f"{source} does not hold text in its column {column!r}.")
        texts[part] = select_samples(command, part, rows)
    text, summary = columns.get("test", ("", None))
    if summary is not None and not all(texts["test"][summary][:]):  # then they are no measure
        columns["test"] = (text, None)
    return texts, columns


def _likeliest(logits: Any, labels: Any) -> Any:
    """The likeliest token at each place, in place of the scores of all, which no memory would hold."""
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(dim=-1)


def _described(metrics: Mapping[str, float], n: int) -> dict[str, Any]:
    if "rougeL" in metrics:  # elsewhere in a result figures are shares
        return {"score": metrics["rougeL"] / 100, "dev_accuracy": None, "n_test": n}
    return {"n_test": n, "interval": None}  # tokens of one text are right or wrong together


def _real(ids: Any, filler: int) -> np.ndarray:
    ids = np.asarray(ids[0] if isinstance(ids, tuple) else ids)
    return np.where(ids == IGNORED, filler, ids)


def _texts_of(ids: Any, tokenizer: Any) -> list[str]:
    texts = tokenizer.batch_decode(_real(ids, tokenizer.pad_token_id), skip_special_tokens=True)
    return [text.strip() for text in texts]


def write_summaries(summaries: Sequence[str], path: Path) -> Path:
    """Write a summary a line, in the order of the texts."""
    with replacing(path) as file:
        file.writelines(f"{' '.join(summary.split())}\n".encode() for summary in summaries)
    return path
