"""What a task hands to the run that trains, evaluates and predicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from nip.finetuning.recording import Recorded


@dataclass
class Setup:
    """What a task brings to be trained, evaluated and predicted.

    Parameters
    ----------
    kind, task : str
        Such as ``glue`` and ``mrpc``: a report groups runs by the task.
    model, tokenizer
        From `nip.finetuning.loading`.
    seq_len : int
        Tokens of an input at most; with the block size it says which graph a report shows.
    train : Dataset or None
        Examples as the model takes them, with ``labels``.
    evaluation : mapping of str to Dataset
        Sets to evaluate; the first is the one that is evaluated while training. Names of the others begin the names of
        their metrics: ``{"": matched, "mm": mismatched}``.
    collator : callable
        Makes a batch of examples.
    metrics : callable or None
        What ``Trainer`` calls `compute_metrics`. Shares between 0 and 1.
    metric : str
        The one that counts, under its name without ``eval_``.
    metric_names : tuple of str
        All of them: ``--metric_for_best_model`` is checked against these, ``loss`` and ``runtime`` come by themselves.
    loss : callable or None
        ``loss(outputs, labels, num_items_in_batch)``, from `nip.finetuning.losses`: the mean over all that a step
        covers. None: the model's own, divided by the number of parts of a step.
    reduce_logits : callable or None
        What ``Trainer`` calls `preprocess_logits_for_metrics`: keeps memory bounded.
    describe : callable or None
        ``describe(metrics)`` gives further fields of ``result.json``: ``n_test``, ``baselines``, ``interval``.
    predict : callable or None
        ``predict(trainer, folder)`` writes predictions and returns the files.
    data : mapping
        What the data is, by content: a run with other data is another run.
    trainer_class : type, default=Recorded
        Another Trainer, mixed with `Recorded`.
    trainer_settings : mapping
        What it takes beside.
    after : callable or None
        ``after(trainer, folder, metrics)`` is called at the end, to write what else the task leaves.
    """

    kind: str
    task: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    seq_len: int
    train: Any
    evaluation: Mapping[str, Any]
    collator: Callable[..., Any]
    metrics: Callable[[Any], dict[str, float]] | None
    metric: str
    metric_names: tuple[str, ...]
    loss: Callable[..., Any] | None = None
    reduce_logits: Callable[..., Any] | None = None
    describe: Callable[[Mapping[str, float]], Mapping[str, Any]] | None = None
    predict: Callable[[Any, Path], list[Path]] | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    trainer_class: type = Recorded
    trainer_settings: Mapping[str, Any] = field(default_factory=dict)
    after: Callable[[Any, Path, Mapping[str, float]], None] | None = None
