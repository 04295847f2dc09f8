"""``nip mlm``: masked language modelling, from pretrained weights or from scratch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

from nip.finetuning.arguments import Command, flag, parse, print_notice
from nip.finetuning.datasets import read_hub, tokenize_dataset
from nip.finetuning.losses import classification_loss
from nip.finetuning.masked_lm.data import (
    STREAMED_EVALUATION,
    RepeatingStream,
    check_text,
    find_text_column,
    read_sets,
    stream_file,
    tokenize_text,
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
from nip.finetuning.recorder import RecordedTrainer
from nip.finetuning.trainer import TaskSetup, run_command
from nip.models.positions import max_positions
from nip.runs.folder import file_sha256

DEFAULT_LENGTH = 1024


@dataclass
class MaskedLmArguments:
    """The text, and how its tokens are masked."""

    dataset_name: str | None = flag("Dataset of the hub, such as wikitext.")
    dataset_config_name: str | None = flag("Configuration of the dataset.")
    train_file: str | None = flag("Training text: .txt, CSV, TSV, JSON or Parquet.")
    validation_file: str | None = flag("Text to evaluate on.")
    validation_split_percentage: int = flag("Percentage of the training text to evaluate on if there is no other.", 5)
    text_column: str | None = flag("Name of the column with the text.")
    max_seq_length: int | None = flag(
        f"Maximum number of tokens of an input. Default {DEFAULT_LENGTH}, or the limit of model or tokenizer."
    )
    line_by_line: bool = flag("Make each line an input, instead of concatenating and splitting the text.", False)
    pad_to_max_length: bool = flag("With --line_by_line: pad all inputs to the maximum length.", False)
    mlm_probability: float = flag("Probability that a token is predicted.", 0.15)
    streaming: bool = flag("Read the text while training; needs --max_steps.", False)
    shuffle_buffer: int = flag("Number of texts in the shuffle buffer of a stream.", 1000)
    model_type: str | None = flag("From scratch: type of the model, such as bert.")
    config_overrides: str | None = flag(
        "From scratch: changes of the configuration, such as hidden_size=128,num_hidden_layers=4."
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
            raise ValueError("--pad_to_max_length needs --line_by_line: other inputs have that length.")
        if self.shuffle_buffer < 1:
            raise ValueError(f"--shuffle_buffer must be at least 1. Got {self.shuffle_buffer} instead.")

    @property
    def name(self) -> str:
        """The name of the text."""
        return self.dataset_config_name or self.dataset_name or Path(self.train_file or self.validation_file or "").stem


def read_command(argv: Sequence[str], program: str) -> Command:
    """The command line, parsed and checked."""
    return parse(argv, MaskedLmArguments, program=program, description=__doc__)


def main(argv: Sequence[str], program: str = "nip mlm") -> dict[str, Any]:
    """Train and evaluate a masked language model as a command line says; returns the content of ``result.json``.

    Raises
    ------
    ValueError, OSError
        One sentence about what is wrong with the command, the text or the model.
    """
    command = read_command(argv, program)
    check_command(command)
    return run_command(command, kind="mlm", task=command.task.name.replace("/", "-"), prepare=prepare)


def check_command(command: Command) -> None:
    """Raise ValueError on contradictions between the groups of flags."""
    task, training, model = command.task, command.training, command.model
    if training.do_predict:
        raise ValueError("nip mlm has nothing to predict: --do_eval gives the perplexity.")
    if task.streaming and training.do_train and training.max_steps <= 0:
        raise ValueError("--streaming needs --max_steps: the length of a stream is unknown.")
    if task.streaming and training.dataloader_num_workers:
        raise ValueError("--streaming reads in one process: leave --dataloader_num_workers out.")
    if task.streaming and training.do_eval and not (task.validation_file or task.dataset_name):
        raise ValueError("--streaming needs --validation_file to evaluate.")
    if task.streaming and command.run.max_train_samples is not None:
        raise ValueError("--max_train_samples and --streaming exclude each other: --max_steps limits a stream.")
    if "shuffle_buffer" in command.given and not task.streaming:
        raise ValueError("--shuffle_buffer needs --streaming: stored text is shuffled completely.")
    if "validation_split_percentage" in command.given and task.validation_file:
        raise ValueError("Give --validation_file or --validation_split_percentage, not both.")
    if training.dataloader_persistent_workers:  # they keep the first epoch's collator
        raise ValueError("--dataloader_persistent_workers would give every epoch the same masks: leave it out.")
    if task.dataset_name is None and training.do_train and task.train_file is None:
        raise ValueError("--do_train needs --train_file.")
    if model.model_name_or_path is not None and (task.model_type or task.config_overrides or model.config_name):
        raise ValueError(
            "--model_name_or_path has its own configuration: leave --model_type, --config_name and "
            "--config_overrides out, or leave the model out to train from scratch."
        )
    if model.model_name_or_path is None and not (task.model_type or model.config_name):
        raise ValueError("Name a model: --model_name_or_path, or --model_type or --config_name to train from scratch.")
    if model.model_name_or_path is None and model.tokenizer_name is None:
        raise ValueError("A model from scratch needs --tokenizer_name.")


def prepare(command: Command) -> TaskSetup:
    """Model and text of a command; raises ValueError or OSError if something is wrong with them."""
    task, training = command.task, command.training
    scratch = command.model.model_name_or_path is None
    config = new_config(command) if scratch else load_config(command)
    tokenizer = load_tokenizer(command, None if scratch else config, masks=True)
    if scratch:
        fit_to_tokenizer(command, config, tokenizer)
    if tokenizer.mask_token_id is None or tokenizer.pad_token_id is None:
        raise ValueError(f"The tokenizer {tokenizer.name_or_path} has no mask token or no padding token.")
    seq_len = sequence_length(command, config, tokenizer, wanted=task.max_seq_length, default=DEFAULT_LENGTH)
    tokenizer.model_max_length = seq_len
    model = load_model(command, AutoModelForMaskedLM, config, tokenizer, seq_len, scratch=scratch)
    train, evaluated, data = tokenized_texts(command, tokenizer, seq_len)
    metrics = MaskedMetrics()
    training.remove_unused_columns = False
    if task.streaming:  # each process reads its own examples: dispatched batches would need the same shape
        training.accelerator_config.dispatch_batches = False
    return TaskSetup(
        kind="mlm",
        task=task.name,
        model=model,
        tokenizer=tokenizer,
        seq_len=seq_len,
        train=train,
        evaluation={} if evaluated is None else {"": evaluated},
        collator=MaskingCollator(
            tokenizer, task.mlm_probability, training.seed, seq_len if task.pad_to_max_length else None
        ),
        metrics=metrics,
        metric="accuracy",
        metric_names=("accuracy", "perplexity"),
        loss=masked_loss(partial(classification_loss, label_smoothing=training.label_smoothing_factor)),
        reduce_logits=reduce_logits,
        describe=None if evaluated is None else lambda _: describe_evaluation(evaluated, metrics),
        data=data,
        trainer_class=MaskedTrainer,
    )


class MaskedTrainer(RecordedTrainer):
    """A Trainer that draws new masks in every epoch and computes logits of the predicted tokens only."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.add_callback(CountEpochs(self.data_collator))

    def evaluation_loop(self, *arguments: Any, **named: Any) -> Any:
        """The Trainer's loop; without a masked token there is no loss, and the Trainer's 0.0 becomes NaN."""
        output = super().evaluation_loop(*arguments, **named)
        if isinstance(output.predictions, np.ndarray) and not output.predictions[:, 2].any():
            print_notice("no token was masked in the evaluation: loss, accuracy and perplexity are null")
            output.metrics.update({name: math.nan for name in output.metrics if name.endswith("_loss")})
        return output

    def compute_loss(self, model: Any, inputs: dict[str, Any], *arguments: Any, **named: Any) -> Any:
        """The Trainer's loss."""
        # torch.compile would recompile for each number of predicted tokens; nn.DataParallel splits the batch later
        if self.args.torch_compile or self.args.n_gpu > 1:
            return super().compute_loss(model, inputs, *arguments, **named)
        with masked_tokens_only(self.model, inputs["labels"]):
            return super().compute_loss(model, inputs, *arguments, **named)


def new_config(command: Command) -> Any:
    """The configuration of a model from scratch.

    Raises
    ------
    ValueError
        If the model type or a setting is unknown.
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
    """Set the vocabulary size and the positions of a model from scratch, unless ``--config_overrides`` does.

    Parameters
    ----------
    command : Command
    config : PretrainedConfig
        Changed in place.
    tokenizer : PreTrainedTokenizerBase

    Raises
    ------
    ValueError
        If the vocabulary of ``--config_overrides`` is too small.
    """
    overrides = command.task.config_overrides or ""
    if "vocab_size" not in overrides:
        config.vocab_size = len(tokenizer)
    elif config.vocab_size < len(tokenizer):
        raise ValueError(
            f"The tokenizer has {len(tokenizer):,} tokens, but --config_overrides gives the model's embedding "
            f"{config.vocab_size:,} rows."
        )
    config.pad_token_id = tokenizer.pad_token_id
    wanted, rows = command.task.max_seq_length, max_positions(config)
    if wanted is not None and rows is not None and wanted > rows and "max_pos" not in overrides:
        config.max_position_embeddings += wanted - rows


def tokenized_texts(command: Command, tokenizer: Any, seq_len: int) -> tuple[Any, Any, dict[str, str]]:
    """The text to train on and to evaluate on, tokenized.

    Parameters
    ----------
    command : Command
    tokenizer : PreTrainedTokenizerBase
    seq_len : int
        Maximum number of tokens of an input.

    Returns
    -------
    train : Dataset, RepeatingStream or None
    evaluated : Dataset or None
    data : dict of str to str
        The content hash of the training text.
    """
    task, training, run = command.task, command.training, command.run

    def column_of(texts: Any, what: str) -> str:
        names = list(texts.column_names or next(iter(texts), {}))  # a stream may not know them
        column = find_text_column(names, task.text_column, f"The {what} set")
        check_text(texts, column, f"The {what} set")
        return column

    def encoder(column: str) -> Any:
        return partial(tokenize_text, tokenizer=tokenizer, column=column, length=seq_len, by_line=task.line_by_line)

    def tokenized(texts: Any, what: str, limit: int | None, first: int, step: int) -> Any:
        column = column_of(texts, what)
        settings = {"column": column, "seq_len": seq_len, "by_line": task.line_by_line, "kind": "mlm"}
        inputs = tokenize_dataset(texts, encoder(column), command, tokenizer=tokenizer, settings=settings)
        if not len(inputs):
            raise ValueError(f"The {what} set contains no text.")
        inputs = inputs if limit is None else inputs.select(range(min(limit, len(inputs))))
        return inputs.add_column("idx", [first + step * number for number in range(len(inputs))])

    if task.streaming:
        train, evaluated, data = _streams(command)
        if train is not None:
            column = column_of(train, "training")
            shuffled = train.shuffle(seed=training.seed, buffer_size=task.shuffle_buffer)
            train = RepeatingStream(shuffled, encoder(column))
    else:
        train, evaluated = read_sets(
            dataset=(task.dataset_name, task.dataset_config_name) if task.dataset_name else None,
            train_file=task.train_file,
            validation_file=task.validation_file,
            percentage=task.validation_split_percentage,
            needs_training=training.do_train,
            needs_evaluation=training.do_eval,
            cache_dir=command.model.cache_dir,
        )
        data = {}
        if train is not None:
            train = tokenized(train, "training", run.max_train_samples, 0, 1)
            data = {"train": train._fingerprint}
    if evaluated is not None:
        evaluated = tokenized(evaluated, "validation", run.max_eval_samples, -1, -1)
    return train, evaluated, data


def _streams(command: Command) -> tuple[Any, Any, dict[str, str]]:
    """The training text as a stream, the first texts to evaluate on as a Dataset, and what identifies the former."""
    import datasets

    task, training = command.task, command.training
    if task.dataset_name is not None:
        hub = read_hub(task.dataset_name, task.dataset_config_name, cache_dir=command.model.cache_dir, streaming=True)
        for split, needed in (("train", training.do_train), ("validation", training.do_eval)):
            if needed and split not in hub:
                raise ValueError(f"{task.dataset_name} has no split {split!r}; it has {', '.join(hub)}.")
        train = hub["train"] if training.do_train else None
        data = {"train": f"{task.dataset_name} {task.dataset_config_name}"} if training.do_train else {}
        evaluated = hub["validation"] if training.do_eval else None
    else:
        train = stream_file(Path(task.train_file)) if training.do_train else None
        data = {"train": file_sha256(Path(task.train_file))} if training.do_train else {}
        evaluated = stream_file(Path(task.validation_file)) if training.do_eval else None
    if evaluated is not None:
        rows = list(evaluated.take(command.run.max_eval_samples or STREAMED_EVALUATION))
        if not rows:
            raise ValueError("The validation set contains no text.")
        evaluated = datasets.Dataset.from_list(rows)
    return train, evaluated, data


def describe_evaluation(data: Any, metrics: MaskedMetrics) -> Mapping[str, Any]:
    """Number of inputs and predicted tokens, the accuracy's interval, and the accuracy of the most frequent token."""
    counts = np.zeros(1, np.int64)
    for batch in data.iter(1000):
        for ids, special in zip(batch["input_ids"], batch["special_tokens_mask"], strict=True):
            found = np.bincount(np.asarray(ids)[np.asarray(special) == 0])
            counts = np.pad(counts, (0, max(0, len(found) - len(counts))))
            counts[: len(found)] += found
    facts: dict[str, Any] = {"n_test": len(data), "baselines": {"commonest_token": float(counts.max() / counts.sum())}}
    if metrics.counts is not None and metrics.counts.asked:
        facts["n_answers"] = metrics.counts.asked
        facts["interval"] = list(metrics.counts.interval)
    return facts
