"""Checkpoints: one safetensors file each, replaced as a whole, from which a run goes on bit for bit.

There is nothing to remember of random generators: the order of the examples and every step's dropout follow from the
seed and the step.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from nip.atomic import replacing
from nip.training.distributed import Weights

FORMAT = 1


@dataclass
class Progress:
    """Where a run stands.

    Parameters
    ----------
    step : int
        Finished steps.
    evaluations : int
        Finished evaluations on the development set.
    tokens : int
        Tokens trained on, padding left out.
    seconds : float
        Seconds that the run has been going, evaluations included and downtime left out.
    training_seconds : float
        Those of the steps alone.
    best_step : int
        The step of the best development accuracy; 0 before the first evaluation.
    best_accuracy : float
        In pretraining the held-out loss with its sign changed.
    metrics_bytes : int
        Length of ``metrics.jsonl`` at this step.
    """

    step: int = 0
    evaluations: int = 0
    tokens: int = 0
    seconds: float = 0.0
    training_seconds: float = 0.0
    best_step: int = 0
    best_accuracy: float = -1.0
    metrics_bytes: int = 0


def save_checkpoint(
    path: Path,
    weights: Weights,
    states: Mapping[str, Weights],
    progress: Progress,
    best: Weights,
    average: Weights,
) -> None:
    """Write the checkpoint, complete or not at all.

    Parameters
    ----------
    weights, best : dict of str to Tensor
        The model as it stands, and as it stood at its best evaluation.
    states : mapping
        The optimizer's state of every weight, by its name.
    average : dict of str to Tensor
        The moving average of the weights; empty where none is kept.
    """
    tensors = {f"weights.{name}": tensor for name, tensor in weights.items()}
    tensors |= {f"best.{name}": tensor for name, tensor in best.items()}
    tensors |= {f"average.{name}": tensor for name, tensor in average.items()}
    for name, state in states.items():
        tensors |= {f"optimizer.{key}.{name}": value for key, value in state.items()}
    write_tensors(path, tensors, dataclasses.asdict(progress))


def load_checkpoint(
    path: Path, names: Collection[str]
) -> tuple[Weights, dict[str, Weights], Progress, Weights, Weights]:
    """What `save_checkpoint` wrote: weights, the optimizer's states, where the run stood, best weights and average.

    Parameters
    ----------
    names : collection of str
        The names of the model's weights.

    Raises
    ------
    ValueError
        If the file is damaged or does not belong to this model.
    """
    tensors, header = read_tensors(path)
    try:
        progress = Progress(**header)
        parts: dict[str, Weights] = {"weights": {}, "best": {}, "average": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        states: dict[str, Weights] = {}
        for entry, tensor in parts["optimizer"].items():
            key, _, name = entry.partition(".")
            states.setdefault(name, {})[key] = tensor
        others = {*parts["weights"], *states} ^ set(names)
        if others:
            raise KeyError(min(others))
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path} is no checkpoint of this model: {error}.") from error
    return parts["weights"], states, progress, parts["best"], parts["average"]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
    """Write named tensors and a header of JSON values to a safetensors file, complete or not at all."""
    path.parent.mkdir(exist_ok=True)
    contents = {name: _alone(tensor.detach().cpu().contiguous()) for name, tensor in tensors.items()}
    with replacing(path) as file:
        file.write(save(contents, metadata={"nip": json.dumps({"format": FORMAT, **header})}))


def _alone(tensor: Tensor) -> Tensor:
    # DeepSpeed's weights are pieces of one long tensor, which safetensors refuses
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def read_tensors(path: Path) -> tuple[Weights, dict[str, Any]]:
    """Read what `write_tensors` wrote. Nothing in the file is executed; a damaged or foreign one is refused."""
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})["nip"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 — it is no mapping
        if header.pop("format") != FORMAT:
            raise ValueError(f"this version of nip reads format {FORMAT}")
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged or was not written by this version of nip: {error}.") from error
    return tensors, header
