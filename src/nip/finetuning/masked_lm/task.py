"""``nip mlm``: masked language modelling, from a model's weights or from scratch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

from nip.finetuning.arguments import Command, parse
from nip.finetuning.datasets import read_hub, tokenize_dataset
from nip.finetuning.losses import classification_loss, smoothed
from nip.finetuning.masked_lm.data import (
    STREAMED_EVALUATION,
    RepeatingStream,
    check_text,
    pieces,
    read_sets,
    stream_file,
    text_column,
)
from nip.finetuning.masked_lm.masking import (
    CountEpochs,
    MaskedMetrics,
    MaskingCollator,
    masked_loss,
    masked_tokens_only,
    reduce_logits,
)
from nip.finetuning.model_loading import load_config, load_model, load_tokenizer, sequence_length
from nip.finetuning.trainer import RecordedTrainer, TaskSetup, begin, report, run_task
from nip.models.positions import positions_of
from nip.runs.folder import file_sha256

DEFAULT_LENGTH = 1024


@dataclass
class MaskedLmArguments:
    """Which text is learnt, and how its tokens are masked."""

    dataset_name: str | None = field(default=None, metadata={"help": "A set on the hub, such as wikitext."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration."})
    train_file: str | None = field(default=None, metadata={"help": "Text to train on: .txt, CSV, TSV, JSON, Parquet."})
    validation_file: str | None = field(default=None, metadata={"help": "Text to evaluate."})
    validation_split_percentage: int = field(
        default=5, metadata={"help": "Percent of the training text to evaluate, where there is no other."}
    )
    text_column: str | None = field(default=None, metadata={"help": "The column that holds the text."})
    max_seq_length: int | None = field(
        default=None,
        metadata={"help": f"Tokens of an input. Default {DEFAULT_LENGTH}, or what model or tokenizer allow."},
    )
    line_by_line: bool = field(default=False, metadata={"help": "A line an input, instead of text that is cut up."})
    pad_to_max_length: bool = field(default=False, metadata={"help": "Give all inputs of lines that length."})
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of the tokens that are to be guessed."})
    streaming: bool = field(default=False, metadata={"help": "Read the text as it is needed; needs --max_steps."})
    shuffle_buffer: int = field(default=1000, metadata={"help": "Texts of a stream that are shuffled at a time."})
    model_type: str | None = field(default=None, metadata={"help": "From scratch: a model of this type, such as bert."})
    config_overrides: str | None = field(
        default=None, metadata={"help": "From scratch: settings, such as hidden_size=128,num_hidden_layers=4."}
    )

    def __post_init__(self) -> None:
        if self.dataset_name is not None and (self.train_file or self.validation_file):
            raise ValueError("Give --dataset_name or files, not both.")
        if self.dataset_name is None and not (self.train_file or self.validation_file):
            raise ValueError("Name a text: --dataset_name, or --train_file and --validation_file.")
        if not 0 < self.mlm_probability < 1:
            raise ValueError(f"--mlm_probability must be above 0 and below 1. Got {self.mlm_probability} instead.")
        if not 0 < self.validation_split_percentage < 100:
            raise ValueError(
                f"--validation_split_percentage must be from 1 to 99. Got {self.validation_split_percentage} instead."
            )
        if self.pad_to_max_length and not self.line_by_line:
            raise ValueError("--pad_to_max_length goes with --line_by_line: text that is cut up has that length.")
        if self.shuffle_buffer < 1:
            raise ValueError(f"--shuffle_buffer must be at least 1. Got {self.shuffle_buffer} instead.")


def read_command(argv: Sequence[str], program: str) -> Command:
    """The command line, parsed and checked."""
    return parse(argv, MaskedLmArguments, program=program, description=__doc__)


def main(words: Sequence[str], program: str = "nip mlm") -> dict[str, Any]:
    """Train a model to guess hidden words, and evaluate it, as a command line says.

    Parameters
    ----------
    words : sequence of str
        Without the program.
    program : str
        How it is called.

    Returns
    -------
    dict
        As ``result.json`` holds it.

    Raises
    ------
    ValueError
        If the command, the text or the model is wrong: one sentence.
    """
    command = read_command(words, program)
    refuse(command)
    task = command.task
    name = task.dataset_config_name or task.dataset_name or Path(task.train_file or task.validation_file).stem
    with begin(command, kind="mlm", task=name.replace("/", "-")) as claim:
        result = run_task(command, prepare(command, name), claim)
    report(command, result)
    return result


def refuse(command: Command) -> None:
    """Refuse what contradicts itself across the groups of flags."""
    task, training, model = command.task, command.training, command.model
    if training.do_predict:
        raise ValueError("nip mlm has nothing to predict: --do_eval gives the perplexity.")
    if task.streaming and training.do_train and training.max_steps <= 0:
        raise ValueError("--streaming needs --max_steps: a stream does not say how long it is.")
    if task.streaming and training.dataloader_num_workers:
        raise ValueError("--streaming reads in one process: leave --dataloader_num_workers out.")
    if task.streaming and training.do_eval and not (task.validation_file or task.dataset_name):
        raise ValueError("--streaming needs --validation_file to evaluate.")
    if task.streaming and command.run.max_train_samples is not None:
        raise ValueError("--max_train_samples does not go with --streaming: --max_steps says how much is read.")
    if "shuffle_buffer" in command.given and not task.streaming:
        raise ValueError("--shuffle_buffer goes with --streaming: text that is stored is shuffled as a whole.")
    if "validation_split_percentage" in command.given and task.validation_file:
        raise ValueError("Give --validation_file or --validation_split_percentage, not both.")
    if training.dataloader_persistent_workers:  # they would keep the masks of the first pass
        raise ValueError("--dataloader_persistent_workers would give every pass the same masks: leave it out.")
    if task.dataset_name is None and training.do_train and task.train_file is None:
        raise ValueError("--do_train needs --train_file.")
    if model.model_name_or_path is not None and (task.model_type or task.config_overrides or model.config_name):
        raise ValueError(
            "--model_name_or_path brings its own configuration: leave --model_type, --config_name and "
            "--config_overrides out, or the model, to begin from scratch."
        )
    if model.model_name_or_path is None and not (task.model_type or model.config_name):
        raise ValueError("Name a model: --model_name_or_path, or --model_type or --config_name to begin from scratch.")
    if model.model_name_or_path is None and model.tokenizer_name is None:
        raise ValueError("A model from scratch needs --tokenizer_name.")


def prepare(command: Command, name: str) -> TaskSetup:
    """Everything that training needs; what is wrong with the command, the model or the text is told here."""
    scratch = command.model.model_name_or_path is None
    config = fresh_config(command) if scratch else load_config(command)
    tokenizer = load_tokenizer(command, None if scratch else config, masks=True)
    if scratch:
        fit_to_tokenizer(command, config, tokenizer)
    if tokenizer.mask_token_id is None or tokenizer.pad_token_id is None:
        raise ValueError(f"The tokenizer {tokenizer.name_or_path} has no mask token or no padding token.")
    seq_len = sequence_length(command, config, tokenizer, wanted=command.task.max_seq_length, default=DEFAULT_LENGTH)
    tokenizer.model_max_length = seq_len
    model = load_model(command, AutoModelForMaskedLM, config, tokenizer, seq_len, scratch=scratch)
    train, evaluated, key = texts_as_tokens(command, tokenizer, seq_len)
    masking = MaskingCollator(
        tokenizer,
        command.task.mlm_probability,
        command.training.seed,
        seq_len if command.task.pad_to_max_length else None,
    )
    metrics = MaskedMetrics()
    command.training.remove_unused_columns = False
    if (
        command.task.streaming
    ):  # each process takes its own examples; sent around, batches would have to be of one shape
        command.training.accelerator_config.dispatch_batches = False
    smoothing = command.training.label_smoothing_factor
    return TaskSetup(
        kind="mlm",
        task=name,
        model=model,
        tokenizer=tokenizer,
        seq_len=seq_len,
        train=train,
        evaluation={} if evaluated is None else {"": evaluated},
        collator=masking,
        metrics=metrics,
        metric="accuracy",
        metric_names=("accuracy", "perplexity"),
        loss=masked_loss(smoothed(smoothing) if smoothing else classification_loss),
        reduce_logits=reduce_logits,
        describe=None if evaluated is None else lambda measured: facts(evaluated, metrics),
        data=key,
        trainer_class=MaskedTrainer,
    )


class MaskedTrainer(RecordedTrainer):
    """A Trainer whose masks are others in every pass over the data, and whose output layer sees masked tokens alone."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.add_callback(CountEpochs(self.data_collator))

    def compute_loss(self, model: Any, inputs: dict[str, Any], *arguments: Any, **named: Any) -> Any:
        """The loss, and the scores of the masked tokens."""
        # compiled code would be made anew for each number of them; nn.DataParallel parts the batch further on
        if self.args.torch_compile or self.args.n_gpu > 1:
            return super().compute_loss(model, inputs, *arguments, **named)
        with masked_tokens_only(self.model, inputs["labels"]):
            return super().compute_loss(model, inputs, *arguments, **named)


def fresh_config(command: Command) -> Any:
    """The configuration of a model from scratch.

    Raises
    ------
    ValueError
        If the type or a setting is unknown.
    """
    task = command.task
    if task.model_type is not None and command.model.config_name is None:
        if task.model_type not in CONFIG_MAPPING:
            raise ValueError(f"--model_type: there is no type {task.model_type!r}, such as bert or roberta.")
        config = CONFIG_MAPPING[task.model_type]()
    else:
        config = load_config(command)
    if task.config_overrides:
        try:
            config.update_from_string(task.config_overrides)
        except (ValueError, AttributeError) as error:
            raise ValueError(f"--config_overrides {task.config_overrides}: {error}.") from error
    return config


def fit_to_tokenizer(command: Command, config: Any, tokenizer: Any) -> None:
    """Give a model from scratch the tokenizer's tokens and the inputs' positions, where nobody says how many.

    Raises
    ------
    ValueError
        If fewer were asked for.
    """
    told = "vocab_size" in (command.task.config_overrides or "")
    if not told:
        config.vocab_size = len(tokenizer)
    elif config.vocab_size < len(tokenizer):
        raise ValueError(
            f"The tokenizer knows {len(tokenizer):,} tokens, but --config_overrides gives the model's table "
            f"{config.vocab_size:,} rows."
        )
    config.pad_token_id = tokenizer.pad_token_id
    wanted, rows = command.task.max_seq_length, positions_of(config)
    if (
        wanted is not None
        and rows is not None
        and wanted > rows
        and "max_pos" not in (command.task.config_overrides or "")
    ):
        config.max_position_embeddings += wanted - rows


def texts_as_tokens(command: Command, tokenizer: Any, seq_len: int) -> tuple[Any, Any, dict[str, str]]:
    """The text to train on and to evaluate, in pieces; and what the text is, by content."""
    task, training, run = command.task, command.training, command.run

    def encoder(column: str) -> Any:
        return partial(pieces, tokenizer=tokenizer, column=column, length=seq_len, by_line=task.line_by_line)

    train, evaluated, key = (_streamed if task.streaming else _stored)(command)

    def as_pieces(texts: Any, what: str, limit: int | None, first: int, step: int) -> Any:
        column = text_column(texts.column_names, task.text_column, f"The {what} set")
        check_text(texts, column, f"The {what} set")
        settings = {"column": column, "seq_len": seq_len, "by_line": task.line_by_line, "kind": "mlm"}
        made = tokenize_dataset(texts, encoder(column), command, tokenizer=tokenizer, settings=settings)
        if not len(made):
            raise ValueError(f"The {what} set holds no text.")
        chosen = made if limit is None else made.select(range(min(limit, len(made))))
        return chosen.add_column("idx", [first + step * number for number in range(len(chosen))])

    if task.streaming and train is not None:
        column = text_column(_columns(train), task.text_column, "The training set")
        check_text(train, column, "The training set")
        shuffled = train.shuffle(seed=training.seed, buffer_size=task.shuffle_buffer)
        train = RepeatingStream(shuffled, encoder(column))
    elif train is not None:
        train = as_pieces(train, "training", run.max_train_samples, 0, 1)
        key = {"train": train._fingerprint}
    if evaluated is not None:
        evaluated = as_pieces(evaluated, "validation", run.max_eval_samples, -1, -1)
    return train, evaluated, key


def _stored(command: Command) -> tuple[Any, Any, dict[str, str]]:
    task, training = command.task, command.training
    train, evaluated = read_sets(
        dataset=(task.dataset_name, task.dataset_config_name) if task.dataset_name else None,
        train_file=task.train_file,
        validation_file=task.validation_file,
        percentage=task.validation_split_percentage,
        needs_training=training.do_train,
        needs_evaluation=training.do_eval,
        cache_dir=command.model.cache_dir,
    )
    return train, evaluated, {}


def _streamed(command: Command) -> tuple[Any, Any, dict[str, str]]:
    task, training = command.task, command.training
    if task.dataset_name is not None:
        hub = read_hub(task.dataset_name, task.dataset_config_name, cache_dir=command.model.cache_dir, streaming=True)
        for split, needed in (("train", training.do_train), ("validation", training.do_eval)):
            if needed and split not in hub:
                raise ValueError(f"{task.dataset_name} has no split {split!r}; it has {', '.join(hub)}.")
        train = hub["train"] if training.do_train else None
        key = {"train": f"{task.dataset_name} {task.dataset_config_name}"} if training.do_train else {}
        evaluated = hub["validation"] if training.do_eval else None
    else:
        train = stream_file(Path(task.train_file)) if training.do_train else None
        key = {"train": file_sha256(Path(task.train_file))} if training.do_train else {}
        evaluated = stream_file(Path(task.validation_file)) if training.do_eval else None
    if evaluated is not None:
        evaluated = _taken(evaluated, command.run.max_eval_samples or STREAMED_EVALUATION)
    return train, evaluated, key


def _taken(stream: Any, n: int) -> Any:
    """The first n rows of a stream, stored: evaluations come back to them."""
    import datasets

    rows = list(stream.take(n))
    if not rows:
        raise ValueError("The validation set holds no text.")
    return datasets.Dataset.from_list(rows)


def _columns(stream: Any) -> list[str]:
    return list(stream.column_names or next(iter(stream), {}))


def facts(data: Any, metrics: MaskedMetrics) -> Mapping[str, Any]:
    """How many pieces and tokens were asked for, how sure the accuracy is, and what one token for all gives."""
    counts = np.zeros(1, np.int64)
    for batch in data.iter(1000):
        for ids, special in zip(batch["input_ids"], batch["special_tokens_mask"], strict=True):
            found = np.bincount(np.asarray(ids)[np.asarray(special) == 0])
            counts = np.pad(counts, (0, max(0, len(found) - len(counts))))
            counts[: len(found)] += found
    known: dict[str, Any] = {"n_test": len(data), "baselines": {"commonest_token": float(counts.max() / counts.sum())}}
    if metrics.answers is not None and metrics.answers.asked:
        known["n_answers"] = metrics.answers.asked
        known["interval"] = list(metrics.answers.interval)
    return known
