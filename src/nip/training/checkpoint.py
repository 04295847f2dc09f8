"""Checkpoints: the state of training in one safetensors file, written atomically; resuming is bit-identical.

No generator state is saved: the order of samples, masks and dropout are functions of the seed and of the counts in
`Progress`.

=====================  ===============================================================
``weights.NAME``       the model's parameters, gathered
``optimizer.KEY.NAME`` the optimizer's state of each parameter, gathered
``best.NAME``          the parameters at the best evaluation, if the task keeps them
``average.NAME``       their exponential moving average, if there is one
header                 `Progress`, the optimizer's scalars, the loss scaler's state
=====================  ===============================================================
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from nip.atomic import replacing
from nip.ownership import move_into, temporary_name
from nip.training.distributed import (
    Weights,
    any_process,
    gather_full,
    load_optimizer_states,
    load_weights,
    optimizer_states,
    shard_like,
    unwrap,
)
from nip.training.loss_spikes import LossSpikeDetector

FORMAT = 1
RENAMED = {
    "best_accuracy": "best_score",
    "guard": "loss_spikes",
    "padded": "padded_tokens",
    "save_seconds": "checkpoint_seconds",
    "step_seconds": "training_seconds",
}
"""Names of `Progress` fields in older checkpoints, and today's."""

Resize = Callable[[Tensor, torch.Size, Mapping[str, Any]], Tensor]
"""``(saved tensor, shape wanted, header of the file)`` -> the tensor in that shape, or unchanged if it cannot be."""


@dataclass
class Progress:
    """Counts and results of a run so far.

    Parameters
    ----------
    step : int
        Finished optimizer steps, skipped ones included.
    tokens, padded_tokens : int
        Tokens trained on, without padding and with it.
    samples : int
        Samples trained on, those of skipped steps included.
    seconds, training_seconds, checkpoint_seconds : float
        Run time without downtime; of that, time in steps, and time spent writing checkpoints.
    flops : float
        Model FLOPs of the steps.
    stage, stage_samples : int
        The current stage (of sequence lengths, say), and samples trained on in it.
    evaluations : int
        Finished evaluations.
    best_step : int
        The step of the best evaluation; 0 before the first.
    best_score : float
        Its score; higher is better.
    dev_step : int
        The step of the last evaluation; 0 before the first.
    dev_loss, dev_accuracy : float, optional
        The result of the last evaluation.
    loss_spikes : LossSpikeDetector
    low_scales : int
        With fp16: steps with a loss scale of 1 or less.
    kept : list of float
        Hours of training after which models were exported.
    stopped : str, optional
        Why the run ended before its budget.
    metrics_bytes : int
        Length of ``metrics.jsonl`` at this step.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    samples: int = 0
    padded_tokens: int = 0
    training_seconds: float = 0.0
    checkpoint_seconds: float = 0.0
    flops: float = 0.0
    stage: int = 0
    stage_samples: int = 0
    evaluations: int = 0
    best_step: int = 0
    best_score: float = -1.0
    dev_step: int = 0
    dev_loss: float | None = None
    dev_accuracy: float | None = None
    loss_spikes: LossSpikeDetector = field(default_factory=LossSpikeDetector)
    low_scales: int = 0
    kept: list[float] = field(default_factory=list)
    stopped: str | None = None
    metrics_bytes: int = 0


@dataclass
class TrainState:
    """Everything that a training step changes.

    Parameters
    ----------
    accelerator : Accelerator
    model : Module
        As `prepare_model` wraps it.
    optimizer : Optimizer
    scaler : GradScaler, optional
        With fp16.
    progress : Progress
    best, average : dict of str to Tensor
        The parameters at the best evaluation, gathered; their moving average, sharded like the model. Empty if not
        kept.
    extra : dict
        JSON values that the checkpoint's header keeps for `resize`.
    resize : callable, optional
        Adapts parameters that were saved in another shape, and their optimizer state.
    """

    accelerator: Accelerator
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None = None
    progress: Progress = field(default_factory=Progress)
    best: Weights = field(default_factory=dict)
    average: Weights = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    resize: Resize | None = None

    @property
    def unwrapped_model(self) -> nn.Module:
        """The model without the accelerator's wrapper."""
        return unwrap(self.model)

    @property
    def main(self) -> bool:
        """Whether this process writes."""
        return bool(self.accelerator.is_main_process)

    def full_weights(self) -> Weights:
        """The parameters, gathered; called by all processes, empty in all but the first."""
        # after an evaluation FSDP reshards its parameters only in `state_dict`
        weights = self.unwrapped_model.state_dict()
        return gather_full({name: weights[name] for name, _ in self.unwrapped_model.named_parameters()}, keep=self.main)


def save_checkpoint(path: Path, state: TrainState) -> bool:
    """Write a checkpoint atomically; called by all processes, of which the first writes.

    Returns
    -------
    bool
        False if a parameter is NaN or infinite; nothing is written then.
    """
    progress = state.progress
    weights = state.full_weights()
    if any_process(state.accelerator, not all(bool(weight.isfinite().all()) for weight in weights.values())):
        return False
    updated = progress.step > progress.loss_spikes.skipped  # before the first update DeepSpeed has no state to read
    states = optimizer_states(state.accelerator, state.model, state.optimizer) if updated else {}
    average = gather_full(state.average, keep=state.main)
    if state.main:
        tensors = {f"weights.{name}": tensor for name, tensor in weights.items()}
        tensors |= {f"best.{name}": tensor for name, tensor in state.best.items()}
        tensors |= {f"average.{name}": tensor for name, tensor in average.items()}
        for name, values in states.items():
            tensors |= {f"optimizer.{key}.{name}": value for key, value in values.items() if isinstance(value, Tensor)}
        header = {
            "progress": dataclasses.asdict(progress),
            "groups": [_scalars(group) for group in state.optimizer.param_groups],
            "scaler": None if state.scaler is None else state.scaler.state_dict(),
            **state.extra,
        }
        write_tensors(path, tensors, header)
    state.accelerator.wait_for_everyone()
    return True


def _scalars(group: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a parameter group that an optimizer may change, such as its step count."""
    return {
        key: value
        for key, value in group.items()
        if key not in ("lr", "initial_lr") and isinstance(value, int | float) and not isinstance(value, bool)
    }


def load_checkpoint(path: Path, state: TrainState) -> Progress:
    """Load a checkpoint's parameters, optimizer state, best and averaged weights into `state`.

    Parameters
    ----------
    path : Path
    state : TrainState

    Returns
    -------
    Progress
        That of the checkpoint; `state.progress` is left unchanged.

    Raises
    ------
    ValueError
        If the file is damaged or does not belong to this model.
    """
    tensors, header = read_tensors(path)
    shapes = {name: weight.shape for name, weight in state.unwrapped_model.named_parameters()}
    try:
        progress = progress_of(header)
        sections: dict[str, Weights] = {"weights": {}, "best": {}, "average": {}}
        states: dict[str, Weights] = {}  # of the optimizer, by parameter
        for key, tensor in tensors.items():
            section, _, name = key.partition(".")
            if section == "optimizer":
                entry, _, name = name.partition(".")
                states.setdefault(name, {})[entry] = tensor
            else:
                sections[section][name] = tensor
        weights = sections["weights"]
        if weights.keys() != shapes.keys() or not states.keys() <= shapes.keys():
            raise KeyError(min({*weights, *states} ^ shapes.keys()))
        for name, shape in shapes.items():
            saved = weights[name]
            if saved.shape != shape and state.resize is not None:
                weights[name] = state.resize(saved, shape, header)
                for key, value in states.get(name, {}).items():
                    if value.ndim and len(value) == len(saved):
                        states[name][key] = state.resize(value, torch.Size([shape[0], *value.shape[1:]]), header)
            if weights[name].shape != shape:
                raise ValueError(f"{name} has shape {tuple(weights[name].shape)} there and {tuple(shape)} here")
        groups = header.get("groups", [])
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is not a checkpoint of this model: {error}.") from error
    load_weights(state.accelerator, state.model, weights)
    load_optimizer_states(state.accelerator, state.model, state.optimizer, states)
    for group, kept in zip(state.optimizer.param_groups, groups, strict=bool(groups)):
        group.update(kept)
    if state.scaler is not None and header["scaler"] is not None:
        state.scaler.load_state_dict(header["scaler"])
    own = state.unwrapped_model.state_dict()
    state.best = sections["best"]
    state.average = {name: shard_like(own[name], tensor) for name, tensor in sections["average"].items()}
    return progress


def progress_of(header: Mapping[str, Any]) -> Progress:
    """The progress in a checkpoint's header, older formats included."""
    found = header["progress"] if "progress" in header else {k: v for k, v in header.items() if k != "format"}
    values = {RENAMED.get(name, name): value for name, value in found.items()}
    return Progress(**{**values, "loss_spikes": LossSpikeDetector(**values.get("loss_spikes", {}))})


def read_progress(path: Path) -> Progress:
    """The progress in a checkpoint, without reading its tensors.

    Raises
    ------
    ValueError
        If the file is damaged.
    """
    with _opened(path) as (_, header):
        return progress_of(header)


def link_checkpoint(path: Path, link: Path) -> None:
    """Give a checkpoint a second name, atomically: a hard link, or a copy if the file system has none."""
    partial = temporary_name(link)
    try:
        os.link(path, partial)
    except OSError:
        shutil.copyfile(path, partial)
    move_into(partial, link)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write named tensors and a header to a safetensors file, atomically.

    Parameters
    ----------
    path : Path
        Its folder is created if missing.
    tensors : mapping of str to Tensor
    header : mapping of str to JSON values
    """
    path.parent.mkdir(exist_ok=True)
    contents = {name: _own_storage(tensor.detach().cpu().contiguous()) for name, tensor in tensors.items()}
    with replacing(path) as file:
        file.write(save(contents, metadata={"nip": json.dumps({"format": FORMAT, **header})}))


def _own_storage(tensor: Tensor) -> Tensor:
    # DeepSpeed's weights are views of one flat tensor, which safetensors does not accept
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def read_tensors(path: Path) -> tuple[Weights, dict[str, Any]]:
    """Read the tensors and the header that `write_tensors` wrote.

    Raises
    ------
    ValueError
        If the file is damaged or was not written by this version of nip.
    """
    with _opened(path) as (file, header):
        if header.pop("format") != FORMAT:
            raise ValueError(f"this version of nip reads format {FORMAT}")
        return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118 — not a mapping


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Open a file that `write_tensors` wrote; gives it and its header."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file, json.loads((file.metadata() or {})["nip"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or was not written by this version of nip: {error}.") from error
