"""The state of a run on disk: weights, the optimizer's state, and where the run stands; one file, replaced as a whole.

Nothing is to be remembered of random generators: samples, masks and dropout follow from the seed and from how many
steps and samples there were. A state that was saved with fewer positions than the model has, before its sequences grew,
is stretched when it is loaded: the table of positions and what the optimizer knows of it, both by reflection.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from nip.models.positions import reflected
from nip.pretraining.budget import Spent
from nip.training.checkpoint import read_tensors, write_tensors
from nip.training.distributed import (
    SPREAD,
    Weights,
    bare,
    load_states,
    load_weights,
    uses_deepspeed,
    whole,
    whole_states,
)
from nip.training.loss_spikes import Guard


@dataclass
class Progress(Spent):
    """Where a run stands, beside what it has used up.

    Parameters
    ----------
    samples : int
        Samples trained on, those of skipped steps too.
    padded : int
        Tokens trained on, padding counted.
    flops : float
        That the model needed for it.
    stage, stage_samples : int
        The stage of lengths, and the samples seen in it.
    step_seconds : float
        Of `seconds`, those in steps.
    save_seconds : float
        Of `seconds`, those in which checkpoints were written.
    evaluations : int
    dev_step : int
        The step of the last evaluation; 0 before the first.
    dev_loss, dev_accuracy : float, optional
        What it found.
    guard : Guard
    low_scales : int
        Steps with a loss scale of 1 or less, with fp16.
    kept : list of float
        The hours after which models were kept.
    stopped : str, optional
        Why the run ended, where it was not the budget.
    metrics_bytes : int
        Length of ``metrics.jsonl`` at this step.
    """

    samples: int = 0
    padded: int = 0
    flops: float = 0.0
    stage: int = 0
    stage_samples: int = 0
    step_seconds: float = 0.0
    save_seconds: float = 0.0
    evaluations: int = 0
    dev_step: int = 0
    dev_loss: float | None = None
    dev_accuracy: float | None = None
    guard: Guard = field(default_factory=Guard)
    low_scales: int = 0
    kept: list[float] = field(default_factory=list)
    stopped: str | None = None
    metrics_bytes: int = 0


@dataclass
class Learner:
    """What learns: all that a state holds but the progress.

    Parameters
    ----------
    model : Module
        The objective around the model, as the engine wraps it.
    optimizer : Optimizer
    scaler : GradScaler, optional
        With fp16.
    positions : int
        Tokens that the table of positions has rows for.
    """

    accelerator: Accelerator
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None
    positions: int


def save_state(path: Path, learner: Learner, progress: Progress) -> bool:
    """Write the state, complete or not at all; to be called by all processes, of which the first writes.

    Returns
    -------
    bool
        False, and nothing is written, if a weight is no finite number.
    """
    main = learner.accelerator.is_main_process
    inner = bare(learner.model)
    held = inner.state_dict()  # FSDP's own weights are in their places only after this, where an evaluation came before
    weights = whole({name: held[name] for name, _ in inner.named_parameters()}, kept=main)
    begun = progress.step > progress.guard.skipped  # before, DeepSpeed has states that it cannot tell
    states = whole_states(learner.accelerator, learner.model, learner.optimizer) if begun else {}
    sound = all(bool(weight.isfinite().all()) for weight in weights.values())
    if learner.accelerator.num_processes > 1:
        told = torch.tensor([float(sound)], device=learner.accelerator.device)
        sound = bool(learner.accelerator.reduce(told, reduction="sum") == learner.accelerator.num_processes)
    if sound and main:
        tensors = {f"weights.{name}": weight for name, weight in weights.items()}
        for name, state in states.items():
            tensors |= {f"optimizer.{key}.{name}": value for key, value in state.items() if isinstance(value, Tensor)}
        header = {
            "progress": dataclasses.asdict(progress),
            "groups": [_scalars(group) for group in learner.optimizer.param_groups],
            "scaler": None if learner.scaler is None else learner.scaler.state_dict(),
            "positions": learner.positions,
        }
        write_tensors(path, tensors, header)
    learner.accelerator.wait_for_everyone()
    return sound


def _scalars(group: Mapping[str, Any]) -> dict[str, Any]:
    """What an optimizer keeps of a group of weights, such as the number of its steps."""
    found = {key: value for key, value in group.items() if key not in ("params", "lr", "initial_lr")}
    return {
        key: value for key, value in found.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }


def load_state(path: Path, learner: Learner) -> Progress:
    """Put a saved state in its place; where the run stood.

    Raises
    ------
    ValueError
        If the file is damaged or does not belong to this model.
    """
    tensors, header = read_tensors(path)
    shapes = {name: weight.shape for name, weight in bare(learner.model).named_parameters()}
    try:
        progress = read_progress(header)
        weights: Weights = {}
        states: dict[str, Weights] = {}
        for key, tensor in tensors.items():
            part, _, rest = key.partition(".")
            if part == "weights":
                weights[rest] = tensor
            else:
                entry, _, name = rest.partition(".")
                states.setdefault(name, {})[entry] = tensor
        if weights.keys() != shapes.keys() or not states.keys() <= shapes.keys():
            raise KeyError(min({*weights, *states} ^ shapes.keys()))
        before = int(header["positions"])
        for name, shape in shapes.items():
            rows = len(weights[name]) if weights[name].ndim else 0
            if rows and weights[name].shape != shape and rows - before == shape[0] - learner.positions:
                weights[name] = stretched(weights[name], before, learner.positions)
                states[name] = {
                    entry: stretched(value, before, learner.positions) if value.ndim and len(value) == rows else value
                    for entry, value in states.get(name, {}).items()
                }
            if weights[name].shape != shape:
                raise ValueError(f"{name} has the shape {tuple(weights[name].shape)} there and {tuple(shape)} here")
        groups = header["groups"]
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is no state of this model: {error}.") from error
    load_weights(learner.accelerator, learner.model, weights)
    if uses_deepspeed(learner.accelerator) and not states:  # DeepSpeed's own cannot be dropped
        states = {
            name: {"step": torch.zeros(()), **{key: torch.zeros(shape) for key in SPREAD}}
            for name, shape in shapes.items()
        }
    if not uses_deepspeed(learner.accelerator):
        learner.optimizer.state.clear()
    load_states(learner.accelerator, learner.model, learner.optimizer, {k: v for k, v in states.items() if v})
    for group, kept in zip(learner.optimizer.param_groups, groups, strict=True):
        group.update(kept)
    if learner.scaler is not None and header["scaler"] is not None:
        learner.scaler.load_state_dict(header["scaler"])
    return progress


def read_progress(header: Mapping[str, Any]) -> Progress:
    """Where a run stood, from the header of its state."""
    values = dict(header["progress"])
    return Progress(**{**values, "guard": Guard(**values["guard"])})


def progress_in(path: Path) -> Progress:
    """Where a run stood when the state was written, without reading its tensors.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return read_progress(json.loads((file.metadata() or {})["nip"]))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or was not written by this version of nip: {error}.") from error


def stretched(table: Tensor, before: int, now: int) -> Tensor:
    """A table with rows for more positions, by reflection; rows at its head that stand for none stay where they are.

    Parameters
    ----------
    table : Tensor of shape (extra + before, …)
    before, now : int
        Positions so far and from now on.

    Examples
    --------
    >>> stretched(torch.arange(6.0), 4, 8).tolist()  # two rows of RoBERTa's that stand for no position
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 4.0, 3.0, 2.0]
    """
    extra = len(table) - before
    return torch.cat([table[:extra], reflected(table[extra:], now)]).contiguous()


def link_good(state: Path, good: Path) -> None:
    """Let the name of the state to roll back to stand for the one that was just written."""
    link = good.with_name(f".{good.name}.partial")
    link.unlink(missing_ok=True)
    try:
        os.link(state, link)
    except OSError:  # file systems without links
        import shutil

        shutil.copyfile(state, link)
    link.replace(good)
