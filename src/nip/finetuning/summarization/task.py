"""``nip summarization``: summaries by encoder–decoders (BART, T5, Pegasus, mBART …) whose encoder attends over a graph.

Decoder and cross-attention stay dense. The metric is ROUGE of generated text with ``--predict_with_generate``, else the
accuracy of the next token.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoModelForSeq2SeqLM, DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

from nip.atomic import replacing
from nip.finetuning.arguments import Command, flag, parse, print_notice
from nip.finetuning.datasets import (
    check_data_source,
    dataset_sha256,
    read_rows,
    read_splits,
    select_samples,
    tokenize_dataset,
)
from nip.finetuning.losses import IGNORED, classification_loss
from nip.finetuning.model_loading import load_config, load_model, load_tokenizer, sequence_length
from nip.finetuning.recorder import RecordedTrainer
from nip.finetuning.summarization.data import TokenRules, choose_columns, tokenize
from nip.finetuning.summarization.generation import check_targets, resolve_generation, set_first_token, set_language
from nip.finetuning.summarization.metrics import ROUGE_TYPES, mostly_other_letters, rouge
from nip.finetuning.trainer import TaskSetup, run_command

DEFAULT_LENGTH = 1024
PREDICTIONS = "generated_predictions.txt"


@dataclass
class SummarizationArguments:
    """The texts, and the lengths of texts and summaries."""

    dataset_name: str | None = flag("Dataset of the hub, such as cnn_dailymail.")
    dataset_config_name: str | None = flag("Configuration of the dataset, such as 3.0.0.")
    train_file: str | None = flag("Training texts with summaries: CSV, TSV, JSON, JSON lines or Parquet.")
    validation_file: str | None = flag("Texts with summaries to evaluate on.")
    test_file: str | None = flag("Texts to summarize with --do_predict.")
    text_column: str | None = flag("Name of the column with the text; by default found by its name.")
    summary_column: str | None = flag("Name of the column with the summary; by default found by its name.")
    source_prefix: str | None = flag("Prepended to each text, as T5 needs: 'summarize: '.")
    max_source_length: int | None = flag(
        f"Maximum number of tokens of a text. Default {DEFAULT_LENGTH:,}, or the model's limit.",
        aliases=["--max_seq_length"],
    )
    max_target_length: int = flag("Maximum number of tokens of a summary in training.", 128)
    val_max_target_length: int | None = flag(
        "Maximum number of tokens of a generated summary. Default: --max_target_length."
    )
    num_beams: int | None = flag("Number of beams. Default: the model's.")
    freeze_encoder: bool = flag(
        "Train the decoder only; parameters that it shares with the encoder are frozen, too.", False
    )
    pad_to_max_length: bool = flag("Pad all texts to the maximum length; otherwise a batch to its longest.", False)
    ignore_pad_token_for_loss: bool = flag("Exclude the padding of summaries from the loss.", True)
    lang: str | None = flag("Language of the texts, for multilingual models: en_XX.")
    forced_bos_token: str | None = flag("First token of each summary, for multilingual models.")

    def __post_init__(self) -> None:
        check_data_source(self, "cnn_dailymail")
        if self.text_column is not None and self.text_column == self.summary_column:
            raise ValueError(f"--text_column and --summary_column are both {self.text_column!r}.")
        for name in ("max_target_length", "val_max_target_length", "num_beams"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be an integer of at least 1. Got {value} instead.")


class RecordedSeq2SeqTrainer(RecordedTrainer, Seq2SeqTrainer):  # type: ignore[misc]
    """A recorded `Seq2SeqTrainer` that evaluates no text twice on several processes."""

    def evaluation_loop(self, *arguments: Any, **named: Any) -> Any:
        """The Trainer's loop; `Seq2SeqTrainer` would keep the texts that pad the last batches of the processes."""
        self.gather_function = self.accelerator.gather_for_metrics
        own = copy.deepcopy(self.model.generation_config)
        try:
            return super().evaluation_loop(*arguments, **named)
        finally:  # `generate` completes it by defaults, which a run resumed after its evaluations would not save
            self.model.generation_config = own

    def prediction_step(self, model: Any, inputs: Any, *arguments: Any, **named: Any) -> Any:
        """The Trainer's step, without the None that the collator returns for missing summaries."""
        inputs = {name: value for name, value in inputs.items() if value is not None}
        return super().prediction_step(model, inputs, *arguments, **named)


def read_command(argv: Sequence[str], program: str) -> Command:
    """The command line, parsed and checked."""
    return parse(
        argv, SummarizationArguments, program=program, training_class=Seq2SeqTrainingArguments, description=__doc__
    )


def main(argv: Sequence[str], program: str = "nip summarization") -> dict[str, Any]:
    """Train, evaluate and predict as a command line says; returns the content of ``result.json``.

    Raises
    ------
    ValueError, OSError
        One sentence about what is wrong with the command, the data or the model.
    """
    command = read_command(argv, program)
    resolve_generation(command)
    return run_command(command, kind="summarization", task=_task(command.task), prepare=prepare)


def _task(task: SummarizationArguments) -> str:
    if task.dataset_name is not None:
        return task.dataset_name.rpartition("/")[2]
    return Path(task.train_file or task.validation_file or task.test_file or "").stem


def prepare(command: Command) -> TaskSetup:
    """Model and data of a command; raises ValueError or OSError if something is wrong with them."""
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
        print_notice("T5 was trained with a prefix before each text: --source_prefix 'summarize: '")

    keys = {split: dataset_sha256(data) for split, data in texts.items()}
    inputs = {
        split: tokenize_dataset(
            data,
            partial(
                tokenize,
                tokenizer=tokenizer,
                text=columns[split][0],
                summary=columns[split][1],
                rules=rules,
                keep=split == "test",
            ),
            command,
            tokenizer=tokenizer,
            settings={"columns": columns[split], "lang": task.lang, "keep": split == "test", **asdict(rules)},
            key=keys[split],
        )
        for split, data in texts.items()
    }
    for split, rows in inputs.items():
        if len(rows) == 0:
            raise ValueError(f"No row of the {split} set has both a text and a summary.")
        if len(rows) < len(texts[split]):
            print_notice(f"{split}: {len(texts[split]) - len(rows):,} rows without a text or a summary were left out")
    if training.predict_with_generate and columns.get("validation", ("", None))[1] is not None:
        summaries = [summary for summary in texts["validation"][columns["validation"][1]][:] if summary]
        other = mostly_other_letters(summaries)
        if other:
            print_notice(
                f"ROUGE counts words of Latin letters and digits only: {other:,} of {len(summaries):,} summaries to "
                "evaluate on are mostly of other letters, so that their scores are too low or 0"
            )

    def score(evaluated: Any) -> dict[str, float]:
        if not training.predict_with_generate:
            counted = evaluated.label_ids != IGNORED
            return {"accuracy": float((evaluated.predictions == evaluated.label_ids)[counted].mean())}
        generated, references = (_decode(ids, tokenizer) for ids in (evaluated.predictions, evaluated.label_ids))
        lengths = (_without_ignored(evaluated.predictions, 0) != tokenizer.pad_token_id).sum(axis=1)
        return {**rouge(generated, references), "gen_len": float(np.mean(lengths))}

    def predict(trainer: Any, folder: Path) -> list[Path]:
        output = trainer.predict(inputs["test"], metric_key_prefix="predict")
        if not trainer.is_world_process_zero():
            return []
        if output.label_ids is not None:
            trainer.save_metrics("predict", output.metrics)
        pairs = zip(_decode(output.predictions, tokenizer), texts["test"][columns["test"][0]][:], strict=True)
        return [write_summaries([summary if text else "" for summary, text in pairs], folder / PREDICTIONS)]

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
        metric_names=(*ROUGE_TYPES, "gen_len") if training.predict_with_generate else ("accuracy",),
        reduce_logits=None if training.predict_with_generate else _argmax,
        loss=partial(classification_loss, label_smoothing=training.label_smoothing_factor),
        describe=lambda metrics: _describe(metrics, len(inputs["validation"])),
        predict=predict if "test" in inputs else None,
        data={split: key for split, key in keys.items() if split != "test"},
        trainer_class=RecordedSeq2SeqTrainer,
    )


def _source_length(command: Command, config: Any, tokenizer: Any) -> int:
    try:
        return sequence_length(
            command, config, tokenizer, wanted=command.task.max_source_length, default=DEFAULT_LENGTH
        )
    except ValueError as error:  # the flag has another name here
        raise ValueError(str(error).replace("--max_seq_length", "--max_source_length")) from error


def _texts(command: Command) -> tuple[dict[str, Any], dict[str, tuple[str, str | None]]]:
    """The texts of each split that the command needs, and the names of their columns."""
    task = command.task
    texts: dict[str, Any] = {}
    columns: dict[str, tuple[str, str | None]] = {}
    for split, (source, rows) in read_splits(command, read_rows).items():
        columns[split] = choose_columns(
            rows.column_names,
            text=task.text_column,
            summary=task.summary_column,
            dataset_name=task.dataset_name,
            need_summary=split != "test",
            source=source,
        )
        for column in columns[split]:
            if column is not None and getattr(rows.features[column], "dtype", "") not in ("string", "large_string"):
                raise ValueError(f"{source} has no text in its column {column!r}.")
        texts[split] = select_samples(command, split, rows)
    text, summary = columns.get("test", ("", None))
    if summary is not None and not all(texts["test"][summary][:]):  # incomplete references give no score
        columns["test"] = (text, None)
    return texts, columns


def _argmax(logits: Any, labels: Any) -> Any:
    """The most likely token at each position, in place of logits that fill the memory."""
    return (logits[0] if isinstance(logits, tuple) else logits).argmax(dim=-1)


def _describe(metrics: Mapping[str, float], n: int) -> dict[str, Any]:
    if "rougeL" in metrics:  # a fraction, as in all results
        return {"score": metrics["rougeL"] / 100, "dev_accuracy": None, "n_test": n}
    return {"n_test": n, "interval": None}  # the tokens of a text are not independent


def _without_ignored(ids: Any, filler: int) -> np.ndarray:
    ids = np.asarray(ids[0] if isinstance(ids, tuple) else ids)
    return np.where(ids == IGNORED, filler, ids)


def _decode(ids: Any, tokenizer: Any) -> list[str]:
    texts = tokenizer.batch_decode(_without_ignored(ids, tokenizer.pad_token_id), skip_special_tokens=True)
    return [text.strip() for text in texts]


def write_summaries(summaries: Sequence[str], path: Path) -> Path:
    """Write one summary per line, in the order of the texts."""
    with replacing(path) as file:
        file.writelines(f"{' '.join(summary.split())}\n".encode() for summary in summaries)
    return path
