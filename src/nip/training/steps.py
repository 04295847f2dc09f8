"""One training step and one evaluation: how a batch is cut into parts, computed, and summed up again.

A batch is sorted by length and computed in parts, each padded to its own longest example only. That changes nothing but
the rounding: padding is never attended and never counted, whatever the pattern, and the parts' gradients add up to
the batch's. On ListOps it leaves out about half of the work.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional

from nip.data import Examples
from nip.training.batches import Indices
from nip.training.config import RunConfig

EVALUATION_TOKENS = {True: 2**14, False: 2**17}  # in one part, on a CPU and elsewhere
LENGTHS = 32  # at most so many different padded lengths, and so many corners of the pattern to lay out


class TrainingDivergedError(ValueError):
    """The loss or the weights are no numbers any more."""


def padded_length(longest: int, config: RunConfig) -> int:
    """Tokens to pad a part to whose longest example has `longest`: whole blocks, at most `LENGTHS` different values."""
    unit = config.block_size * -(-config.n_blocks // LENGTHS)
    return min(config.seq_len, -(-longest // unit) * unit)


def padded_parts(examples: Examples, parts: Iterable[Indices], config: RunConfig) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids (n, length) and labels (n,) of every part, padded to its own longest example.

    Raises
    ------
    ValueError
        If a token id is not in the task's vocabulary.
    """
    for part in parts:
        length = padded_length(int(examples.lengths[part].max()), config)
        input_ids, labels = examples.batch(part, length)
        low, high = input_ids.min(), input_ids.max()
        if low < 0 or high >= examples.task.vocab_size:
            raise ValueError(
                f"The {examples.split} set of {examples.task.name} holds the token id {low if low < 0 else high}; "
                f"ids must be in [0, {examples.task.vocab_size})."
            )
        yield torch.from_numpy(input_ids), torch.from_numpy(labels)


def equal_parts(indices: Indices, parts: int) -> list[Indices]:
    """The examples in as many parts of about the same number, in the order in which they stand."""
    return np.array_split(indices, min(parts, len(indices)))


def token_parts(examples: Examples, indices: Indices, budget: int, config: RunConfig) -> list[Indices]:
    """The examples, which stand in descending length, in parts of at most `budget` tokens (or one example) each."""
    parts, start = [], 0
    while start < len(indices):
        length = padded_length(int(examples.lengths[indices[start]]), config)
        end = start + max(1, budget // length)
        parts.append(indices[start:end])
        start = end
    return parts


def train_step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    examples: Examples,
    indices: Indices,
    config: RunConfig,
    step: int,
) -> tuple[float, float]:
    """One optimizer step on the examples `indices`: their mean loss and their accuracy before the step.

    Dropout is drawn from a generator state that is made of seed, step and process: a resumed run draws the same.

    Raises
    ------
    TrainingDivergedError
        If the loss is not finite; the weights are as they were.
    """
    assert config.gradient_accumulation
    parts = equal_parts(longest_first(examples, indices, accelerator), config.gradient_accumulation)
    torch.manual_seed(seed_of(config.seed, step, accelerator.process_index))
    model.train()
    loss_sum = correct = 0.0
    for number, (input_ids, labels) in enumerate(padded_parts(examples, parts, config), 1):
        with accelerator.no_sync(model) if number < len(parts) else nullcontext():
            loss, right = forward(model, accelerator, input_ids, labels, config)
            # gradients are averaged over the processes, hence their number
            accelerator.backward(loss * (accelerator.num_processes / len(indices)))
        loss_sum += loss.item()
        correct += right
    loss_sum, correct = summed(accelerator, loss_sum, correct)
    if not np.isfinite(loss_sum):
        optimizer.zero_grad()
        raise TrainingDivergedError(f"The loss became {loss_sum / len(indices)} at step {step + 1}.")
    optimizer.step()
    optimizer.zero_grad()
    return loss_sum / len(indices), correct / len(indices)


def evaluate(
    model: torch.nn.Module, accelerator: Accelerator, examples: Examples, indices: Indices, config: RunConfig
) -> tuple[float, int]:
    """Mean loss and number of right answers on the examples `indices`, without dropout, in batches of like length."""
    own = longest_first(examples, indices, accelerator)
    parts = token_parts(examples, own, EVALUATION_TOKENS[accelerator.device.type == "cpu"], config)
    model.eval()
    loss_sum = correct = 0.0
    with torch.inference_mode():
        for input_ids, labels in padded_parts(examples, parts, config):
            loss, right = forward(model, accelerator, input_ids, labels, config)
            loss_sum += loss.item()
            correct += right
    loss_sum, correct = summed(accelerator, loss_sum, correct)
    return loss_sum / len(indices), int(correct)


def forward(
    model: torch.nn.Module, accelerator: Accelerator, input_ids: Tensor, labels: Tensor, config: RunConfig
) -> tuple[Tensor, float]:
    """The sum of the examples' losses, and how many are answered right."""
    device = accelerator.device
    answers = labels.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        scores: Tensor = model(input_ids.to(device))
    loss = functional.cross_entropy(scores.float(), answers, reduction="sum")
    return loss, (scores.argmax(-1) == answers).sum().item()


def longest_first(examples: Examples, indices: Indices, accelerator: Accelerator) -> Indices:
    """This process's share of the examples, in descending length: of lengths like the other processes'."""
    order = np.argsort(-examples.lengths[indices], kind="stable")
    return indices[order[accelerator.process_index :: accelerator.num_processes]]


def summed(accelerator: Accelerator, *values: float) -> tuple[float, ...]:
    """The values summed over all processes."""
    if accelerator.num_processes == 1:
        return values
    total: Any = accelerator.reduce(torch.tensor(values, device=accelerator.device), reduction="sum")
    return tuple(total.tolist())


def seed_of(seed: int, step: int, process: int) -> int:
    """The seed of a step's dropout."""
    digest = hashlib.sha256(f"{seed}/dropout/{step}/{process}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
