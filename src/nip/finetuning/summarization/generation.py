"""How summaries are generated: lengths, beams, language and first token."""

from __future__ import annotations

from typing import Any

from nip.finetuning.arguments import Command, print_notice
from nip.finetuning.summarization.metrics import ROUGE_TYPES


def resolve_generation(command: Command) -> None:
    """Reconcile the task's flags of length and beams with those of transformers; generate to predict.

    Raises
    ------
    ValueError
        If flags contradict each other.
    """
    task, training = command.task, command.training
    for ours, theirs in (("val_max_target_length", "generation_max_length"), ("num_beams", "generation_num_beams")):
        if {ours, theirs} <= command.given and getattr(task, ours) != getattr(training, theirs):
            raise ValueError(
                f"--{ours} {getattr(task, ours)} and --{theirs} {getattr(training, theirs)} contradict each other: "
                "give one of them."
            )
        if getattr(training, theirs) is None:
            setattr(training, theirs, getattr(task, ours))
    if training.generation_max_length is None:
        training.generation_max_length = task.max_target_length
    best = (training.metric_for_best_model or "loss").removeprefix("eval_")
    if not training.predict_with_generate and best in ROUGE_TYPES:
        raise ValueError(f"--metric_for_best_model {best} is computed of generated text: add --predict_with_generate.")
    if not training.predict_with_generate and training.do_predict:
        training.predict_with_generate = True
        print_notice("--do_predict generates summaries: --predict_with_generate is on")


def check_targets(command: Command, model: Any) -> None:
    """Raise ValueError if summaries may be longer than the decoder's positions."""
    rows = None if model.config.model_type in ("t5", "mt5") else getattr(model.config, "max_position_embeddings", None)
    task, training = command.task, command.training
    for flag, length in (
        ("max_target_length", task.max_target_length),
        ("generation_max_length", training.generation_max_length),
    ):
        if rows is not None and length > rows:
            raise ValueError(f"--{flag} {length:,} is longer than the {rows:,} positions of the decoder.")


def set_language(command: Command, tokenizer: Any) -> None:
    """Set the language of a multilingual tokenizer; ValueError if it is missing, unknown or not needed."""
    lang = command.task.lang
    if hasattr(tokenizer, "lang_code_to_id") or hasattr(tokenizer, "src_lang"):
        if lang is None:
            raise ValueError(f"{type(tokenizer).__name__} is multilingual: name the language of the texts with --lang.")
        if tokenizer.convert_tokens_to_ids(lang) == tokenizer.unk_token_id:
            raise ValueError(f"--lang {lang!r} is no language of {type(tokenizer).__name__}.")
        tokenizer.src_lang = tokenizer.tgt_lang = lang
    elif lang is not None:
        raise ValueError(f"--lang is for multilingual models; {type(tokenizer).__name__} is not one.")


def set_first_token(command: Command, model: Any, tokenizer: Any) -> None:
    """Set the decoder's first token, from the language or ``--forced_bos_token``.

    Parameters
    ----------
    command : Command
    model : PreTrainedModel
        Its configuration and generation configuration are changed.
    tokenizer : PreTrainedTokenizerBase

    Raises
    ------
    ValueError
        If the token is unknown, or the model has no first token.
    """
    task, generation = command.task, model.generation_config
    if task.lang is not None:
        language = tokenizer.convert_tokens_to_ids(task.lang)
        frame = tokenizer(text_target="")["input_ids"]
        if frame[-1] == language:  # mBART: the last token of the labels, shifted to the start
            model.config.decoder_start_token_id = generation.decoder_start_token_id = language
        elif frame[0] == language:  # mBART-50: the first token of the labels
            generation.forced_bos_token_id = language
    if task.forced_bos_token is not None:
        token = tokenizer.convert_tokens_to_ids(task.forced_bos_token)
        if token is None or token == tokenizer.unk_token_id:
            raise ValueError(f"--forced_bos_token {task.forced_bos_token!r} is not in the vocabulary.")
        generation.forced_bos_token_id = token
    if model.config.decoder_start_token_id is None:
        raise ValueError("The model's configuration has no decoder_start_token_id, which generation needs.")
