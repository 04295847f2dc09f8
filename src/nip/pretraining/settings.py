"""The settings of a pretraining run: defaults, help texts, and checks.

The command line, settings files and the record in the run folder are all made from `Settings`.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nip.training import OPTIMIZERS, PRECISIONS
from nip.training.lr_schedules import CURVES


@dataclass(frozen=True)
class Size:
    """Depth and widths of an encoder; the fields are named as in transformers."""

    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    intermediate_size: int


SIZES: dict[str, Size] = {
    "tiny": Size(2, 128, 2, 512),
    "mini": Size(4, 256, 4, 1024),
    "small": Size(4, 512, 8, 2048),
    "medium": Size(8, 512, 8, 2048),
    "base": Size(12, 768, 12, 3072),
    "large": Size(24, 1024, 16, 4096),
}
"""Sizes of BERT: base and large as in [1]_, the smaller ones as in [2]_. All heads are 64 wide.

References
----------
.. [1] J. Devlin and others, *BERT*, arXiv 1810.04805.
.. [2] I. Turc and others, *Well-Read Students Learn Better*, arXiv 1908.08962, table 1.
"""


def size_of(name: str) -> Size:
    """The size of that name.

    Raises
    ------
    ValueError
        If there is none of that name.

    Examples
    --------
    >>> size_of("large")
    Size(num_hidden_layers=24, hidden_size=1024, num_attention_heads=16, intermediate_size=4096)
    """
    if name not in SIZES:
        raise ValueError(f"There is no size {name!r}. The sizes are {', '.join(SIZES)}.")
    return SIZES[name]


ARCHITECTURES = ("bert", "roberta-prelayernorm", "modernbert")
NORMS = ("layer", "rms")
SCHEDULES = ("step", "constant_step", "time", "tokens")
TRACKERS = ("none", "tensorboard", "wandb", "trackio")

_INTEGERS = {
    **dict.fromkeys(("layers", "width", "heads", "inner_width", "positions", "token_types", "block_size"), 1),
    **dict.fromkeys(
        ("vocab_size", "max_predictions", "batch_size", "micro_batch", "ramp_from", "max_steps", "max_tokens"), 1
    ),
    **dict.fromkeys(("eval_every", "eval_every_begin", "eval_every_end", "eval_samples", "eval_micro_batch"), 1),
    **dict.fromkeys(("bad_steps", "rollback_every", "log_every", "overflow_limit"), 1),
    **dict.fromkeys(("seed", "warmup_steps", "max_rollbacks"), 0),
}
_ABOVE = ("above 0", lambda x: x > 0)
_AT_LEAST = ("of at least 0", lambda x: x >= 0)
_SHARE = ("from 0 to 1", lambda x: 0 <= x <= 1)
_BELOW = ("from 0 to below 1", lambda x: 0 <= x < 1)
_INSIDE = ("above 0, at most 1", lambda x: 0 < x <= 1)
_NUMBERS: dict[str, tuple[str, Callable[[float], bool]]] = {
    **dict.fromkeys(("learning_rate", "eps", "initializer_range", "norm_eps", "max_coeff", "decay_step"), _ABOVE),
    **dict.fromkeys(("hours", "early_exit_hours"), _ABOVE),
    **dict.fromkeys(("weight_decay", "clip", "min_coeff", "spike", "checkpoint_minutes"), _AT_LEAST),
    **dict.fromkeys(("early_stop_loss", "early_stop_minutes"), _AT_LEAST),
    **dict.fromkeys(("mask_share", "random_share", "warmup", "eval_begin_share", "eval_end_share"), _SHARE),
    **dict.fromkeys(("dropout", "attention_dropout", "beta1", "beta2"), _BELOW),
    **dict.fromkeys(("mask_probability", "ramp_share", "decay_rate", "decay_share"), _INSIDE),
}
_CHOICES = {
    "size": tuple(SIZES),
    "architecture": ARCHITECTURES,
    "norm": NORMS,
    "precision": PRECISIONS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "curve": tuple(CURVES),
}


def _of(default: Any, group: str, says: str) -> Any:
    made = {"default_factory": lambda: dict(default)} if isinstance(default, dict) else {"default": default}
    return field(**made, metadata={"group": group, "says": says})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run; ``nip pretrain --help`` prints the meaning of each, which is in its field's metadata.

    Raises
    ------
    ValueError
        If a value is out of range, or two settings contradict each other; the message names the option.

    Examples
    --------
    >>> Settings(max_steps=100, lengths="128:0.9,512:0.1").lengths
    ((128, 0.9), (512, 0.1))
    >>> Settings(max_steps=0)
    Traceback (most recent call last):
    ValueError: --max-steps must be an integer of at least 1. Got 0 instead.
    """

    size: str = _of("base", "model", f"Size that sets layers, width and heads: {', '.join(SIZES)}.")
    architecture: str = _of(
        "bert", "model", "Architecture: bert (post-LN), roberta-prelayernorm (pre-LN) or modernbert."
    )
    norm: str = _of("layer", "model", "Normalization: layer (LayerNorm) or rms (RMSNorm).")
    layers: int | None = _of(None, "model", "Number of layers; by default the size's.")
    width: int | None = _of(None, "model", "Hidden size; by default the size's.")
    heads: int | None = _of(None, "model", "Number of attention heads; by default the size's.")
    inner_width: int | None = _of(None, "model", "Intermediate size of the feed-forward blocks; by default the size's.")
    activation: str = _of("gelu", "model", "Activation function of the feed-forward blocks, as named in transformers.")
    dropout: float = _of(0.1, "model", "Dropout probability on activations.")
    attention_dropout: float = _of(0.1, "model", "Dropout probability on attention weights.")
    positions: int | None = _of(None, "model", "Rows of the position table; by default those that each stage needs.")
    token_types: int = _of(2, "model", "Number of token types.")
    initializer_range: float = _of(0.02, "model", "Standard deviation of the initial weights.")
    scaled_init: bool = _of(True, "model", "Smaller initial weights for the output layers of residual branches.")
    norm_eps: float = _of(1e-12, "model", "Epsilon of the norms.")
    tied: bool = _of(True, "model", "Tie the output layer to the token embeddings.")
    vocab_size: int | None = _of(
        None, "model", "Vocabulary size; by default the tokenizer's, rounded up to a multiple of 8."
    )
    gradient_checkpointing: bool = _of(False, "model", "Recompute layers in the backward pass to save memory.")
    init_from: str | None = _of(
        None, "model", "Model to initialize the weights from: a folder or a name on the Hugging Face Hub."
    )

    model: str = _of("hypercube", "attention", "Pattern of attention; softmax is dense attention.")
    parameters: Mapping[str, Any] = _of({}, "attention", "Parameters of the pattern.")
    block_size: int = _of(16, "attention", "Tokens per vertex of the graph.")
    backend: str = _of("auto", "attention", "Attention backend; nip doctor lists those available.")

    next_sentence: bool = _of(False, "objective", "Add next-sentence prediction; needs a corpus of sentence pairs.")
    mask_probability: float = _of(0.15, "objective", "Fraction of tokens to predict.")
    max_predictions: int | None = _of(None, "objective", "Maximum number of predicted tokens per sample.")
    mask_share: float = _of(0.8, "objective", "Fraction of the predicted tokens that are replaced by [MASK].")
    random_share: float = _of(0.1, "objective", "Fraction of the predicted tokens that are replaced by a random token.")

    lengths: tuple[tuple[int, float], ...] = _of(
        ((128, 1.0),),
        "batches",
        "Tokens per sample, or stages with shares of the budget such as 128:0.9,512:0.1; by default the corpus's.",
    )
    batch_size: int = _of(256, "batches", "Samples per step, over all processes.")
    micro_batch: int | None = _of(
        None,
        "batches",
        "Samples per micro-batch in the first stage, a divisor of the batch; later stages keep its number of tokens.",
    )
    ramp_from: int | None = _of(None, "batches", "Batch size of the first step; the batch grows in multiples of it.")
    ramp_share: float = _of(0.6, "batches", "Fraction of the budget in which the batch grows, with --ramp-from.")
    precision: str | None = _of(None, "batches", "Precision: fp32, bf16 or fp16; by default bf16 on a GPU, else fp32.")
    seed: int = _of(42, "batches", "Seed of initial weights, sample order, masks and dropout.")

    optimizer: str = _of("adamw", "optimizer", f"Optimizer: {', '.join(OPTIMIZERS)}.")
    learning_rate: float = _of(1e-3, "optimizer", "Peak learning rate.")
    beta1: float = _of(0.9, "optimizer", "Adam beta1: decay rate of the first-moment estimate.")
    beta2: float = _of(0.98, "optimizer", "Adam beta2: decay rate of the second-moment estimate.")
    eps: float = _of(1e-6, "optimizer", "Adam epsilon: added to the root of the second-moment estimate.")
    weight_decay: float = _of(0.01, "optimizer", "Weight decay of all weights except biases and norms.")
    bias_correction: bool = _of(True, "optimizer", "Adam bias correction of the moment estimates.")
    max_coeff: float = _of(10.0, "optimizer", "LAMB: largest trust ratio.")
    min_coeff: float = _of(0.01, "optimizer", "LAMB: smallest trust ratio.")
    clip: float = _of(1.0, "optimizer", "Norm to clip gradients to; 0 disables clipping.")

    schedule: str | None = _of(
        None,
        "schedule",
        "Unit in which the schedule advances: step, constant_step, time or tokens; by default the budget's.",
    )
    curve: str = _of("linear", "schedule", f"Learning-rate curve: {', '.join(CURVES)}.")
    warmup: float = _of(0.06, "schedule", "Fraction of the schedule in which the learning rate rises.")
    warmup_steps: int | None = _of(None, "schedule", "Warmup steps, with --schedule constant_step.")
    decay_rate: float = _of(0.99, "schedule", "Factor of the learning rate per --decay-step, with --curve exp.")
    decay_step: float = _of(1000.0, "schedule", "Steps, or units of the schedule, per --decay-rate, with --curve exp.")
    decay_share: float = _of(
        0.1, "schedule", "Fraction of the schedule in which the rate falls, with --curve warmup-stable-decay."
    )

    max_steps: int | None = _of(None, "budget", "Training steps; a larger number continues a finished run.")
    max_tokens: int | None = _of(
        None, "budget", "Training tokens, padding excluded; a larger number continues a finished run."
    )
    hours: float | None = _of(
        None, "budget", "Training time in hours, downtime excluded; a larger number continues a finished run."
    )
    early_exit_hours: float | None = _of(
        None, "budget", "Stop after this many hours of a schedule that is made for more."
    )
    finetune_hours: tuple[float, ...] = _of(
        (), "budget", "Keep a model after each of these hours, comma-separated, such as 2,6,12."
    )

    eval_every: int = _of(500, "validation", "Steps between evaluations.")
    eval_every_begin: int | None = _of(
        None, "validation", "Steps between evaluations in the first phase; by default --eval-every."
    )
    eval_every_end: int | None = _of(
        None, "validation", "Steps between evaluations in the last phase; by default --eval-every."
    )
    eval_begin_share: float = _of(0.05, "validation", "Fraction of the budget that is the first phase.")
    eval_end_share: float = _of(0.05, "validation", "Fraction of the budget that is the last phase.")
    eval_samples: int = _of(2048, "validation", "Maximum number of samples per evaluation.")
    eval_micro_batch: int | None = _of(None, "validation", "Samples per micro-batch in an evaluation.")
    early_stop_loss: float | None = _of(
        None, "validation", "Stop if the validation loss is above this after --early-stop-minutes."
    )
    early_stop_minutes: float = _of(0.0, "validation", "Minutes of the run before --early-stop-loss applies.")

    spike: float = _of(
        10.0,
        "safety",
        "Standard deviations above the running mean at which a step is skipped; 0 skips only NaN and Inf.",
    )
    bad_steps: int = _of(5, "safety", "Skipped steps in a row that cause a rollback.")
    rollback_every: int = _of(500, "safety", "Steps between the states that a rollback restores.")
    max_rollbacks: int = _of(3, "safety", "Number of rollbacks before the run fails.")
    overflow_limit: int = _of(
        100, "safety", "Stop after this many steps with a loss scale of 1 or less, with --precision fp16."
    )
    checkpoint_minutes: float = _of(15.0, "safety", "Minutes between checkpoints.")

    track: str = _of("tensorboard", "records", f"Experiment trackers, comma-separated: {', '.join(TRACKERS)}.")
    project: str = _of("nip-pretraining", "records", "Project of the tracker.")
    job_name: str | None = _of(None, "records", "Name of the run in the tracker; by default the folder's.")
    log_every: int = _of(1, "records", "Steps between lines of metrics.jsonl.")

    def __post_init__(self) -> None:
        for name, each in FIELDS.items():
            value = getattr(self, name)
            if value is None and name in OPTIONAL:
                continue
            if name in _INTEGERS:
                if isinstance(value, bool) or not isinstance(value, int) or value < _INTEGERS[name]:
                    raise wrong(name, f"an integer of at least {_INTEGERS[name]}", value)
            elif name in _NUMBERS:
                range_, holds = _NUMBERS[name]
                is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
                if not is_number or not holds(value):
                    raise wrong(name, f"a number {range_}", value)
            elif name in _CHOICES:
                if value not in _CHOICES[name]:
                    raise wrong(name, f"one of {', '.join(_CHOICES[name])}", value)
            elif each.type == "bool":
                if not isinstance(value, bool):
                    raise wrong(name, "true or false", value)
            elif name in ("model", "backend", "activation", "project") and not (isinstance(value, str) and value):
                raise wrong(name, "text", value)
        if not isinstance(self.parameters, Mapping):
            raise wrong("parameters", "a mapping of names to values", self.parameters)
        object.__setattr__(self, "parameters", dict(self.parameters))
        object.__setattr__(self, "lengths", read_lengths(self.lengths))
        object.__setattr__(self, "finetune_hours", read_hours(self.finetune_hours))
        if not set(self.trackers) <= set(TRACKERS):
            raise wrong("track", f"one or more of {', '.join(TRACKERS)}", self.track)
        self._check_together()

    def _check_together(self) -> None:
        if self.max_steps is None and self.max_tokens is None and self.hours is None:
            raise ValueError("A run needs a budget: --max-steps, --max-tokens or --hours.")
        if self.micro_batch is not None and self.batch_size % self.micro_batch:
            raise ValueError(
                f"--micro-batch must divide --batch-size. Got {self.micro_batch} and {self.batch_size} instead."
            )
        if self.ramp_from is not None and self.ramp_from > self.batch_size:
            raise ValueError(f"--ramp-from {self.ramp_from} is more than the batch of {self.batch_size} samples.")
        if self.mask_share + self.random_share > 1:
            raise ValueError(
                f"--mask-share and --random-share must be together at most 1. Got {self.mask_share} and "
                f"{self.random_share} instead."
            )
        if self.eval_begin_share + self.eval_end_share > 1:
            raise ValueError("--eval-begin-share and --eval-end-share must be together at most 1.")
        needs = {"step": "max_steps", "time": "hours", "tokens": "max_tokens", "constant_step": "warmup_steps"}
        if self.schedule is not None and getattr(self, needs[self.schedule]) is None:
            raise ValueError(f"--schedule {self.schedule} needs {flag(needs[self.schedule])}.")
        if self.schedule == "constant_step" and self.max_steps is None:
            raise ValueError("--schedule constant_step needs --max-steps.")
        if self.warmup_steps is not None and self.schedule != "constant_step":
            raise ValueError("--warmup-steps needs --schedule constant_step; other schedules use --warmup, a share.")
        if self.positions is not None and self.positions < self.max_length:
            raise ValueError(f"--positions {self.positions} is too small for samples of {self.max_length} tokens.")
        if self.early_exit_hours is not None and self.hours is not None and self.early_exit_hours > self.hours:
            raise ValueError(f"--early-exit-hours {self.early_exit_hours:g} is later than --hours {self.hours:g}.")

    @property
    def schedule_unit(self) -> str:
        """The unit in which the learning-rate schedule advances: `schedule`, or by default that of the budget."""
        if self.schedule is not None:
            return self.schedule
        if self.max_steps is not None:
            return "step"
        return "tokens" if self.max_tokens is not None else "time"

    @property
    def trackers(self) -> tuple[str, ...]:
        """The experiment trackers that `track` names."""
        return tuple(name.strip() for name in self.track.split(",") if name.strip())

    @property
    def max_length(self) -> int:
        """Tokens of a sample in the longest stage."""
        return max(length for length, _ in self.lengths)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, from which `Settings(**values)` makes the same settings."""
        found: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return found


FIELDS = {each.name: each for each in dataclasses.fields(Settings)}
OPTIONAL = tuple(name for name, each in FIELDS.items() if each.default is None)
CHANGEABLE = (
    *("max_steps", "max_tokens", "hours", "early_exit_hours", "finetune_hours", "checkpoint_minutes", "track"),
    *("project", "job_name", "micro_batch", "eval_micro_batch", "max_rollbacks", "overflow_limit"),
    *("early_stop_loss", "early_stop_minutes", "gradient_checkpointing"),
)
"""Settings that may differ when a run resumes: they change what a step computes by rounding at most."""


def read_lengths(value: Any) -> tuple[tuple[int, float], ...]:
    """The stages of a run, from text or numbers: tokens of a sample, and the stage's share of the budget.

    Raises
    ------
    ValueError
        If lengths are below 8 or not ascending, or shares do not add up to 1.

    Examples
    --------
    >>> read_lengths("128:0.9,512:0.1"), read_lengths(512)
    (((128, 0.9), (512, 0.1)), ((512, 1.0),))
    """
    stages: list[tuple[int, float]] = []
    try:
        if isinstance(value, int | str):
            for part in str(value).split(","):
                length, _, share = part.partition(":")
                stages.append((int(length), float(share) if share else 1.0))
        else:
            stages = [(_integer(length), float(share)) for length, share in value]
    except (TypeError, ValueError):
        raise wrong("lengths", "a length, or lengths with shares such as 128:0.9,512:0.1", value) from None
    shares = [share for _, share in stages]
    good = stages and all(length >= 8 for length, _ in stages) and all(share > 0 for share in shares)
    if not good or abs(sum(shares) - 1) > 1e-6:
        raise wrong("lengths", "lengths of at least 8 tokens with shares that add up to 1", value)
    if any(one >= other for (one, _), (other, _) in itertools.pairwise(stages)):
        raise wrong("lengths", "lengths that grow from stage to stage", value)
    return tuple(stages)


def read_hours(value: Any) -> tuple[float, ...]:
    """Hours in ascending order, from text such as ``2,6,12`` or from numbers.

    Raises
    ------
    ValueError
        If they are not positive and ascending.

    Examples
    --------
    >>> read_hours("2, 6.5"), read_hours([])
    ((2.0, 6.5), ())
    """
    parts = [part for part in value.split(",") if part.strip()] if isinstance(value, str) else value
    try:
        hours = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        raise wrong("finetune_hours", "hours such as 2,6,12", value) from None
    if any(not math.isfinite(hour) or hour <= 0 for hour in hours) or sorted(set(hours)) != list(hours):
        raise wrong("finetune_hours", "hours above 0 in ascending order", value)
    return hours


def flag(name: str) -> str:
    """The command-line option of a field."""
    return "--attention" if name == "model" else f"--{name.replace('_', '-')}"


def wrong(name: str, must_be: str, got: object) -> ValueError:
    """The error about an impossible value.

    Parameters
    ----------
    name : str
        The field.
    must_be : str
        What is expected.
    got : object
    """
    return ValueError(f"{flag(name)} must be {must_be}. Got {got!r} instead.")


def _integer(value: Any) -> int:
    if int(value) != value:
        raise ValueError
    return int(value)
