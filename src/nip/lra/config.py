"""What a run is: everything that decides its numbers, resolved, typed, and saved as ``config.json``."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nip.graphs.pattern import check_int
from nip.runs.folder import RunFolder, check_same_run
from nip.runs.record import RunRecord

KIND = "lra"
PROTOCOLS = ("original", "clean")
PRECISIONS = ("fp32", "bf16")
RECIPE_NAMES = ("original", "modern")
SCHEDULE_NAMES = (*RECIPE_NAMES, "constant")

_INTEGERS = {
    "seed": 0,
    "seq_len": 1,
    "positions": 1,
    "block_size": 1,
    "batch_size": 1,
    "max_steps": 1,
    "eval_every": 1,
    "eval_steps": 1,
    "gradient_accumulation": 1,
    "cut": 1,
    "layers": 1,
    "repeats": 1,
    "width": 1,
    "heads": 1,
    "head_dim": 1,
    "inner_width": 1,
    "pretrain_steps": 0,
    "patience": 1,
    "head_width": 1,
}
_SHARES = ("mask_share", "ema")  # above 0 and below 1
_OPTIONAL = (
    *("eval_steps", "gradient_accumulation", "precision", "graph", "cut", "schedule", "checksum", "data"),
    *("pretrain_learning_rate", "patience", "head_width", *_SHARES),
)
# What older files do not say: there was nothing but the defaults.
_LATER = (
    *("recipe", "schedule", "cut", "layers", "repeats", "width", "heads", "head_dim", "inner_width"),
    *("pretrain_steps", "pretrain_learning_rate", "mask_share", "ema", "patience", "gradient_checkpointing"),
    *("head_width", "token_std", "beta2"),
)
# The files of a run, for its manifest.
OWNED = (
    *("config.json", "run.json", "environment.json", "metrics.jsonl", "result.json", "run.log", "pattern.npz"),
    *("checkpoint/state.safetensors", "best/model.safetensors", "*_output.log", "pretraining/metrics.jsonl"),
    *("pretraining/checkpoint/state.safetensors", "pretraining/best/model.safetensors", "pretraining/result.json"),
)
# Nothing that a command says, but what a run found: a configuration that is used again finds it anew.
FOUND = ("checksum", "data")


@dataclass(frozen=True)
class RunConfig:
    """The complete setting of a training run.

    Parameters
    ----------
    task : str
        One of `nip.data.TASKS`.
    seq_len : int
        Tokens of an input: longer ones are cut, shorter ones padded with 0.
    positions : int
        Rows of the position table.
    batch_size : int
        Examples a step.
    learning_rate : float
        The schedule's peak.
    warmup : float
        Share of the steps in which the learning rate rises, in (0, 1].
    weight_decay : float
        Of AdamW, on every weight.
    beta2 : float, default=0.98
        Of AdamW: what its average of squared gradients keeps of itself in a step.
    dropout, attention_dropout : float
        Shares in [0, 1).
    max_steps : int
        Steps of the run, and of the schedule.
    eval_every : int
        Steps between evaluations on the development set; the last step is always evaluated.
    eval_steps : int or None
        Batches of an evaluation; None means the whole development set. The original's protocol needs a number.
    model : str, default="hypercube"
        Name of the pattern.
    parameters : mapping, default={}
        The pattern's parameters.
    block_size : int, default=16
        Tokens a vertex stands for.
    graph : str or None
        A graph file in place of a named pattern.
    seed : int, default=42
        Decides the first weights, the order of the examples and dropout.
    protocol : {"clean", "original"}
        What is averaged and evaluated: see `nip.lra.recipes`.
    gradient_accumulation : int or None
        Parts that a batch is computed in. None: chosen for the machine. The gradient is the whole batch's in any case.
    precision : {"fp32", "bf16"} or None
        bf16 computes in bfloat16 and keeps weights in fp32. None: chosen for the machine.
    backend : str, default="auto"
        The backend of `nip.attend`.
    recipe : {"original", "modern"}
        Where the other settings come from; it also decides the kind of model and of schedule.
    schedule : {"original", "modern", "constant"} or None
        The course of the learning rate, see `nip.training.lr_schedules`. None: that of the recipe.
    cut : int or None
        Tokens kept of a sequence before it is padded to `seq_len`, where that is fewer.
    layers, repeats : int, default=2
        Layers of the encoder, and how often the stack of them is applied, with the same weights each time: attention
        acts ``layers * repeats`` times.
    width, heads, head_dim, inner_width : int
        The encoder's sizes; the defaults are those of the NIP paper's runs.
    head_width : int or None, default=128
        Width of the hidden layer of the classifier's head; None: the head is one linear map.
    token_std : float, default=0.02
        Standard deviation of the first token embeddings.
    pretrain_steps : int, default=0
        Steps of denoising the task's own training set before the training on labels.
    pretrain_learning_rate : float or None
        The peak of their schedule. They need one.
    mask_share : float or None
        Share of the tokens that they mask, in (0, 1). They need one.
    ema : float or None
        Evaluate, and keep as the best, an exponential moving average of the weights: what it keeps of itself in a step,
        in (0, 1).
    patience : int or None
        Stop after so many evaluations in a row without a better one.
    gradient_checkpointing : bool, default=False
        Compute each layer again for its gradients: less memory, same numbers.
    checksum, data : str or None
        What the run found: the checksum of its graph and of its data. Not to be set.
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
    checksum: str | None = None
    data: str | None = None

    def __post_init__(self) -> None:
        for name, minimum in _INTEGERS.items():
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                check_int(name, value, "a run", minimum=minimum)
        _check_number("learning_rate", self.learning_rate, "above 0", lambda x: x > 0)
        _check_number("token_std", self.token_std, "above 0", lambda x: x > 0)
        _check_number("warmup", self.warmup, "in (0, 1]", lambda x: 0 < x <= 1)
        _check_number("weight_decay", self.weight_decay, "at least 0", lambda x: x >= 0)
        _check_number("beta2", self.beta2, "in (0, 1)", lambda x: 0 < x < 1)
        for name in ("dropout", "attention_dropout"):
            _check_number(name, getattr(self, name), "in [0, 1)", lambda x: 0 <= x < 1)
        if self.pretrain_learning_rate is not None:
            _check_number("pretrain_learning_rate", self.pretrain_learning_rate, "above 0", lambda x: x > 0)
        for name in _SHARES:
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name), "in (0, 1)", lambda x: 0 < x < 1)
        if not isinstance(self.gradient_checkpointing, bool):
            raise _wrong("gradient_checkpointing", "true or false", self.gradient_checkpointing)
        for name in ("task", "model", "backend", "graph", "checksum", "data"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (value is None and name in _OPTIONAL):
                raise _wrong(name, "text", value)
        _check_choice("protocol", self.protocol, PROTOCOLS)
        _check_choice("recipe", self.recipe, RECIPE_NAMES)
        if self.schedule is not None:
            _check_choice("schedule", self.schedule, SCHEDULE_NAMES)
        if self.recipe == "modern":
            if self.protocol != "clean":
                raise ValueError("The modern recipe goes with the clean protocol only.")
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
        if self.precision is not None:
            _check_choice("precision", self.precision, PRECISIONS)
        if not isinstance(self.parameters, Mapping):
            raise _wrong("parameters", "a mapping of names to values", self.parameters)
        if self.seq_len > self.positions:
            raise ValueError(
                f"A sequence of {self.seq_len} tokens is longer than the position table of {self.positions} rows."
            )
        if self.gradient_accumulation is not None and self.gradient_accumulation > self.batch_size:
            raise ValueError(
                f"A batch of {self.batch_size} examples cannot be computed in {self.gradient_accumulation} parts."
            )
        if self.protocol == "original" and self.eval_steps is None:
            raise ValueError("The original's protocol evaluates a number of batches: eval_steps must be given.")
        object.__setattr__(self, "parameters", dict(self.parameters))

    @property
    def n_blocks(self) -> int:
        """Vertices of the pattern."""
        return -(-self.seq_len // self.block_size)

    @property
    def name(self) -> str:
        """The run folder's name: task, model, recipe where it is not the original's, and seed."""
        safe = "".join(letter if letter.isalnum() or letter in "+._-" else "-" for letter in self.model)
        recipe = "" if self.recipe == "original" else f"-{self.recipe}"
        return f"{self.task}-{safe}{recipe}-seed{self.seed}"

    def to_json(self) -> str:
        """The configuration as ``config.json`` holds it."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"


def read_config(path: Path) -> RunConfig:
    """The configuration that a run folder's ``config.json`` holds, complete but for what older ones do not say.

    Raises
    ------
    ValueError
        If the file is no JSON object with the fields of `RunConfig`.
    """
    values = read_settings(path)
    absent = [name for name in _FIELDS if name not in values and name not in _LATER]
    if absent:
        raise ValueError(f"{path} lacks {', '.join(absent)}.")
    try:
        return RunConfig(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_settings(path: Path) -> dict[str, Any]:
    """Some or all fields of a configuration, from a JSON file such as a run's ``config.json``."""
    try:
        values = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is no JSON, which settings are written in, as in a run's config.json: {error}"
        ) from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object. Got {type(values).__name__} instead.")
    unknown = [name for name in values if name not in _FIELDS]
    if unknown:
        raise ValueError(f"{path} names {', '.join(unknown)}, which no run has. It may name {', '.join(_FIELDS)}.")
    return values


_FIELDS = tuple(each.name for each in dataclasses.fields(RunConfig))


def _check_number(name: str, value: object, wanted: str, holds: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not holds(value):
        raise _wrong(name, f"a number {wanted}", value)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise _wrong(name, f"one of {', '.join(choices)}", value)


def _wrong(name: str, wanted: str, value: object) -> ValueError:
    return ValueError(f"The '{name}' parameter of a run must be {wanted}. Got {value!r} instead.")


PART_TOKENS = 2**13


def settle(config: RunConfig, folder: RunFolder, device_type: str) -> RunConfig:
    """The configuration with what it leaves to the machine decided: as the folder's run has it, else for the device.

    A CPU computes a batch in parts of about `PART_TOKENS`, at most eight: parts are sorted by length, so that the short
    examples do without the long ones' padding, and small enough to stay near the caches. Other devices take it whole.
    """
    parts = min(8, config.batch_size, max(1, config.batch_size * config.seq_len // PART_TOKENS))
    decided: dict[str, Any] = {
        "gradient_accumulation": parts if device_type == "cpu" else 1,
        "precision": "bf16" if device_type == "cuda" else "fp32",
    }
    there = read_config(folder.config) if folder.config.is_file() else None
    for name, value in decided.items():
        if getattr(config, name) is None:
            config = replace(config, **{name: getattr(there, name) if there else value})
    return config


def record_of(config: RunConfig, command: Sequence[str] = ()) -> RunRecord:
    """The record of a run of a configuration."""
    return RunRecord(
        kind=KIND,
        task=config.task,
        pattern=config.model,
        parameters=config.parameters,
        block_size=config.block_size,
        seq_len=config.seq_len,
        checksum=config.checksum,
        data={} if config.data is None else {"all": config.data},
        batch_size=config.batch_size,
        seed=config.seed,
        settings=dataclasses.asdict(config),
        planned_steps=config.max_steps,
        command=command,
    )


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
        changeable=(*FOUND, "graph"),
        growing=("max_steps",),
        data=(there.data, here.data),
        graph=(there.checksum, here.checksum),
    )
