"""The configuration of a run: every setting that decides its results, checked, and saved as ``config.json``."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nip.graphs.pattern import check_int, python_number
from nip.runs.folder import RunFolder, check_same_run, read_json

PROTOCOLS = ("original", "clean")
PRECISIONS = ("fp32", "bf16")
MICRO_BATCH_TOKENS = 2**13  # about, on a CPU
RECIPE_NAMES = ("original", "modern")
SCHEDULE_NAMES = (*RECIPE_NAMES, "constant")

_INTEGERS = {
    **dict.fromkeys(("seq_len", "positions", "block_size", "batch_size", "max_steps", "eval_every", "eval_steps"), 1),
    **dict.fromkeys(("gradient_accumulation", "cut", "layers", "repeats", "width", "heads", "head_dim"), 1),
    **dict.fromkeys(("inner_width", "patience", "head_width", "protocol_version"), 1),
    **dict.fromkeys(("seed", "pretrain_steps"), 0),
}
_NUMBERS: dict[str, tuple[str, Callable[[float], bool]]] = {
    **dict.fromkeys(("learning_rate", "pretrain_learning_rate", "token_std"), ("above 0", lambda x: x > 0)),
    "warmup": ("in (0, 1]", lambda x: 0 < x <= 1),
    "weight_decay": ("at least 0", lambda x: x >= 0),
    **dict.fromkeys(("beta2", "mask_share", "ema"), ("in (0, 1)", lambda x: 0 < x < 1)),
    **dict.fromkeys(("dropout", "attention_dropout"), ("in [0, 1)", lambda x: 0 <= x < 1)),
}
_CHOICES = {"protocol": PROTOCOLS, "recipe": RECIPE_NAMES, "schedule": SCHEDULE_NAMES, "precision": PRECISIONS}
_TYPES: dict[str, tuple[type, str]] = {
    "gradient_checkpointing": (bool, "true or false"),
    "parameters": (Mapping, "a mapping of names to values"),
}
# Fields that older files do not have: their runs used the defaults.
_ADDED = (
    *("recipe", "schedule", "cut", "layers", "repeats", "width", "heads", "head_dim", "inner_width"),
    *("pretrain_steps", "pretrain_learning_rate", "mask_share", "ema", "patience", "gradient_checkpointing"),
    *("head_width", "token_std", "beta2", "protocol_version"),
)
FOUND = ("checksum", "data")
"""Fields that a run fills in itself: no command sets them, and a configuration that is used again drops them."""


@dataclass(frozen=True)
class RunConfig:
    """The complete configuration of a run.

    Parameters
    ----------
    task : str
        One of `nip.data.TASKS`.
    seq_len : int
        Tokens of an input: longer ones are cut, shorter ones padded with 0.
    positions : int
        Rows of the position table.
    batch_size : int
        Examples per step, over all processes.
    learning_rate : float
        The schedule's peak.
    warmup : float
        Share of the steps in which the learning rate rises, in (0, 1].
    weight_decay : float
        Of AdamW, on every weight.
    beta2 : float, default=0.98
        Of AdamW: decay rate of the second-moment estimate.
    dropout, attention_dropout : float
        Dropout probabilities, in [0, 1); the second on attention weights. Under the original's protocol only softmax
        attention drops weights.
    max_steps : int
        Steps of the run, and of the schedule.
    eval_every : int
        Steps between evaluations on the development set; the last step is always evaluated.
    eval_steps : int or None
        Batches of an evaluation; None: the full development set. The original's protocol needs a number.
    model : str, default="hypercube"
        Name of the pattern.
    parameters : mapping, default={}
        The pattern's parameters.
    block_size : int, default=16
        Tokens per vertex of the graph.
    graph : str or None
        A graph file, in place of a named pattern.
    seed : int, default=42
        Decides the initial weights, the order of the examples, and dropout.
    protocol : {"clean", "original"}
        What is averaged and evaluated: see `nip.lra.recipes`.
    protocol_version : int, default=2
        Of the original's protocol. Version 1, that of earlier runs, dropped the last incomplete batch of a pass, and
        attention weights over sparse patterns. A run is resumed with the version that it was started with.
    gradient_accumulation : int or None
        Micro-batches per batch. None: chosen for the device. The gradient is that of the full batch in any case.
    precision : {"fp32", "bf16"} or None
        bf16 computes in bfloat16 with weights in fp32. None: chosen for the device.
    backend : str, default="auto"
        The backend of `nip.attend`.
    recipe : {"original", "modern"}
        Where the other settings come from; it also decides the architecture and the schedule.
    schedule : {"original", "modern", "constant"} or None
        The learning-rate schedule, see `nip.training.lr_schedules`. None: that of the recipe.
    cut : int or None
        Tokens to which a sequence is cut before it is padded to `seq_len`.
    layers, repeats : int, default=2
        Layers of the encoder, and how often the stack of them is applied, with the same weights: attention acts
        ``layers * repeats`` times.
    width, heads, head_dim, inner_width : int
        The encoder's sizes; the defaults are those of the NIP paper's runs.
    head_width : int or None, default=128
        Width of the hidden layer of the classifier's head; None: the head is one linear map.
    token_std : float, default=0.02
        Standard deviation of the initial token embeddings.
    pretrain_steps : int, default=0
        Steps of denoising the task's training set, before training on labels.
    pretrain_learning_rate : float or None
        The peak of the denoising schedule; required if `pretrain_steps` is not 0.
    mask_share : float or None
        Share of the tokens that denoising masks, in (0, 1); required if `pretrain_steps` is not 0.
    ema : float or None
        Decay rate, in (0, 1), of an exponential moving average of the weights. The average is evaluated and kept as the
        best in place of the weights.
    patience : int or None
        Evaluations in a row without improvement after which training stops.
    gradient_checkpointing : bool, default=False
        Recompute each layer's activations in the backward pass: less memory, same results.
    checksum, data : str or None
        Checksums of the graph and of the data, which the run fills in. Not to be set.

    Raises
    ------
    ValueError
        If a value is out of range, or two settings contradict each other.
    """

    task: str
    seq_len: int
    positions: int
    batch_size: int
    learning_rate: float
    warmup: float
    weight_decay: float
    dropout: float
    max_steps: int
    eval_every: int
    eval_steps: int | None
    attention_dropout: float = 0.0
    model: str = "hypercube"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    block_size: int = 16
    graph: str | None = None
    seed: int = 42
    protocol: str = "clean"
    gradient_accumulation: int | None = None
    precision: str | None = None
    backend: str = "auto"
    recipe: str = "original"
    schedule: str | None = None
    cut: int | None = None
    layers: int = 2
    repeats: int = 2
    width: int = 64
    heads: int = 4
    head_dim: int = 32
    inner_width: int = 128
    head_width: int | None = 128
    beta2: float = 0.98
    token_std: float = 0.02
    pretrain_steps: int = 0
    pretrain_learning_rate: float | None = None
    mask_share: float | None = None
    ema: float | None = None
    patience: int | None = None
    gradient_checkpointing: bool = False
    protocol_version: int = 2
    checksum: str | None = None
    data: str | None = None

    def __post_init__(self) -> None:
        for name in _FIELDS:
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            if name in _INTEGERS:
                object.__setattr__(self, name, check_int(name, value, "a run", minimum=_INTEGERS[name]))
            elif name in _NUMBERS:
                wanted, holds = _NUMBERS[name]
                is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
                if not is_number or not holds(value):
                    raise _wrong(name, f"a number {wanted}", value)
            elif name in _CHOICES:
                if value not in _CHOICES[name]:
                    raise _wrong(name, f"one of {', '.join(_CHOICES[name])}", value)
            else:
                kind, wanted = _TYPES.get(name, (str, "text"))
                if not isinstance(value, kind):
                    raise _wrong(name, wanted, value)
        if self.recipe == "modern":
            if self.protocol != "clean":
                raise ValueError("The modern recipe needs the clean protocol.")
            if self.positions != self.seq_len:
                raise ValueError(
                    f"The modern recipe has no position table: positions must be seq_len, {self.seq_len}. "
                    f"Got {self.positions} instead."
                )
        else:
            for name in ("pretrain_steps", "pretrain_learning_rate", "mask_share"):
                if getattr(self, name):
                    raise ValueError(
                        f"Only the modern recipe pretrains. The recipe is {self.recipe!r}, which has no {name}."
                    )
        if self.pretrain_steps:
            for name in ("pretrain_learning_rate", "mask_share"):
                if getattr(self, name) is None:
                    raise ValueError(f"Pretraining needs {name}.")
        if self.seq_len > self.positions:
            raise ValueError(
                f"A sequence of {self.seq_len} tokens is longer than the position table of {self.positions} rows."
            )
        if self.gradient_accumulation is not None and self.gradient_accumulation > self.batch_size:
            raise ValueError(
                f"A batch of {self.batch_size} examples cannot be cut into {self.gradient_accumulation} micro-batches."
            )
        if self.protocol == "original" and self.eval_steps is None:
            raise ValueError("The original's protocol evaluates on a number of batches: eval_steps must be given.")
        object.__setattr__(self, "parameters", {k: python_number(v) for k, v in self.parameters.items()})

    @property
    def n_blocks(self) -> int:
        """Vertices of the pattern."""
        return -(-self.seq_len // self.block_size)

    @property
    def name(self) -> str:
        """The run folder's name: task, pattern, recipe unless it is the original's, and seed."""
        safe = "".join(letter if letter.isalnum() or letter in "+._-" else "-" for letter in self.model)
        recipe = "" if self.recipe == "original" else f"-{self.recipe}"
        return f"{self.task}-{safe}{recipe}-seed{self.seed}"

    @property
    def drop_last(self) -> bool:
        """Whether the last incomplete batch of a pass over the examples is dropped; else the next pass completes it."""
        return self.protocol == "clean" or self.protocol_version == 1

    @property
    def attention_dropout_here(self) -> float:
        """The dropout probability of attention weights over this pattern, by the protocol."""
        if self.protocol == "clean" or self.protocol_version == 1 or (self.model == "softmax" and self.graph is None):
            return self.attention_dropout
        return 0.0

    def to_json(self) -> str:
        """The text of ``config.json``."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"


_FIELDS = tuple(each.name for each in dataclasses.fields(RunConfig))
_OPTIONAL = tuple(each.name for each in dataclasses.fields(RunConfig) if str(each.type).endswith("| None"))


def read_config(path: Path) -> RunConfig:
    """The configuration in a run folder's ``config.json``; fields that older files do not have get their defaults.

    Raises
    ------
    ValueError
        If the file is not a JSON object with the fields of `RunConfig`.
    """
    values = read_settings(path)
    absent = [name for name in _FIELDS if name not in values and name not in _ADDED]
    if absent:
        raise ValueError(f"{path} lacks {', '.join(absent)}.")
    try:
        return RunConfig(**{"protocol_version": 1, **values})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_settings(path: Path) -> dict[str, Any]:
    """Some or all fields of a configuration, from a JSON file such as a run's ``config.json``.

    Raises
    ------
    ValueError
        If the file is not a JSON object, or has a key that is not a field of `RunConfig`.
    """
    values = read_json(path)
    unknown = [name for name in values if name not in _FIELDS]
    if unknown:
        raise ValueError(f"{path} names {', '.join(unknown)}, which no run has. It may name {', '.join(_FIELDS)}.")
    return values


def resolve(config: RunConfig, folder: RunFolder, device_type: str) -> RunConfig:
    """Fill in the settings that depend on the device, and the protocol's version: those of a run in the folder.

    A CPU computes a batch in micro-batches of about `MICRO_BATCH_TOKENS`, at most eight: examples are sorted by length,
    so short ones need little padding, and small micro-batches stay in the caches. Other devices compute it at once.

    Parameters
    ----------
    config : RunConfig
    folder : RunFolder
    device_type : str
        As torch names it, such as ``cpu``.

    Returns
    -------
    RunConfig
    """
    count = min(8, config.batch_size, max(1, config.batch_size * config.seq_len // MICRO_BATCH_TOKENS))
    defaults = {
        "gradient_accumulation": count if device_type == "cpu" else 1,
        "precision": "bf16" if device_type == "cuda" else "fp32",
    }
    there = read_config(folder.config) if folder.config.is_file() else None
    missing: dict[str, Any] = {
        name: getattr(there, name) if there else value
        for name, value in defaults.items()
        if getattr(config, name) is None
    }
    if there:
        missing["protocol_version"] = there.protocol_version
    return replace(config, **missing)


def check_same_config(where: Path, there: RunConfig, here: RunConfig) -> None:
    """Check that a command continues the run in a folder: its configuration, but for a larger number of steps.

    Parameters
    ----------
    where : Path
        The folder.
    there, here : RunConfig
        Of the run in the folder, and of the command.

    Raises
    ------
    ValueError
        If they differ; the message lists the differences.
    """
    check_same_run(
        where,
        dataclasses.asdict(there),
        dataclasses.asdict(here),
        changeable=(*FOUND, "graph", "protocol_version"),  # that of the run there is used
        growing=("max_steps",),
        data=(there.data, here.data),
        graph=(there.checksum, here.checksum),
    )


def _wrong(name: str, wanted: str, value: object) -> ValueError:
    return ValueError(f"The '{name}' parameter of a run must be {wanted}. Got {value!r} instead.")
