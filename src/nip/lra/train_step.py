"""One training step and one evaluation: how a batch is cut into parts, computed, and summed up again.

A batch is sorted by length and computed in parts, each padded to its own longest example only. That changes nothing but
the rounding: padding is never attended and never counted, whatever the pattern, and the parts' gradients add up to
the batch's. On ListOps it leaves out about half of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from nip.data import Examples
from nip.data.tasks.probe import unanswerable
from nip.lra.batches import Indices
from nip.lra.config import RunConfig
from nip.runs.accuracy import Answers
from nip.training.distributed import backward, part_of_batch, summed, update, uses_deepspeed
from nip.training.train_step import TrainingDivergedError, seed_of

EVALUATION_TOKENS = {True: 2**14, False: 2**17}  # in one part, on a CPU and elsewhere
NONE = -100  # the answer where nothing is asked; torch's cross-entropy leaves it out
LENGTHS = 32  # at most so many different padded lengths, and so many corners of the pattern to lay out


def padded_length(longest: int, config: RunConfig) -> int:
    """Tokens to pad a part to whose longest example has `longest`: whole blocks, at most `LENGTHS` different values."""
    unit = config.block_size * -(-config.n_blocks // LENGTHS)
    return min(config.seq_len, -(-longest // unit) * unit)


@dataclass(frozen=True)
class Part:
    """Some examples of a batch, padded to the longest among them.

    Parameters
    ----------
    input_ids : Tensor of shape (n, length), or (n, 2, length) for pairs
    mask : Tensor of bool, of the same shape
        True at the tokens that are attended and counted.
    answers : Tensor of shape (n,), or that of `input_ids` where every token has its own
        The right classes; `NONE` where nothing is asked.
    """

    input_ids: Tensor
    mask: Tensor
    answers: Tensor

    def to(self, device: torch.device) -> Part:
        """The same on another device."""
        return Part(self.input_ids.to(device), self.mask.to(device), self.answers.to(device))


def padded_parts(examples: Examples, parts: Iterable[Indices], config: RunConfig) -> Iterator[Part]:
    """The examples of every part, padded to its own longest.

    Under the original's protocol every token with id 0 is taken for padding, even the black of a picture.

    Raises
    ------
    ValueError
        If a token id is not in the task's vocabulary, or the label of a token is no class.
    """
    for part in parts:
        length = padded_length(int(examples.lengths[part].max()), config)
        input_ids, labels = examples.batch(part, length)
        _check(examples, "token id", input_ids, examples.task.vocab_size - 1)
        if examples.task.targets:
            labels = _answers(examples, part, input_ids)
        mask = input_ids != 0 if config.protocol == "original" else examples.mask(part, length)
        yield Part(torch.from_numpy(input_ids), torch.from_numpy(mask), torch.from_numpy(labels))


def judge_classes(scores: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the cross-entropies of scores (…, n_classes) for answers (…), and which of them are right."""
    loss = functional.cross_entropy(
        scores.float().flatten(0, -2), answers.flatten(), ignore_index=NONE, reduction="sum"
    )
    return loss, scores.argmax(-1) == answers  # no class is NONE


@dataclass(frozen=True)
class Objective:
    """What is asked of a model.

    Parameters
    ----------
    parts : callable
        Like `padded_parts`: what is read, and what it is to be answered with.
    judge : callable
        Like `judge_classes`: the sum of the losses, and which answers are right.
    """

    parts: Callable[[Examples, Iterable[Indices], RunConfig], Iterator[Part]]
    judge: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


LABELS = Objective(padded_parts, judge_classes)


def tokens_in(examples: Examples, indices: Indices, config: RunConfig) -> int:
    """Tokens of the examples `indices` that are trained on, padding left out."""
    sequences = examples.width * indices[:, None] + np.arange(examples.width)
    lengths = examples.offsets[sequences + 1] - examples.offsets[sequences]
    return int(lengths.clip(max=min(config.seq_len, config.cut or config.seq_len)).sum())


def asked(examples: Examples, indices: Indices, config: RunConfig, objective: Objective = LABELS) -> int:
    """How many answers the examples `indices` ask for: one each, or as many as their tokens have labels."""
    if objective is LABELS and not examples.task.targets:
        return len(indices)
    answers = [part.answers for part in objective.parts(examples, [indices], config)]
    return sum(int((each != NONE).sum()) for each in answers)


def _answers(examples: Examples, part: Indices, input_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    targets = examples.batch_targets(part, input_ids.shape[1])
    _check(examples, "label of a token", targets, examples.task.n_classes)
    return np.where((targets == 0) | unanswerable(input_ids), NONE, targets - 1)


def _check(examples: Examples, what: str, found: NDArray[np.int64], highest: int) -> None:
    low, high = found.min(), found.max()
    if low < 0 or high > highest:
        raise ValueError(
            f"The {examples.split} set of {examples.task.name} holds the {what} {low if low < 0 else high}; "
            f"it must be in [0, {highest + 1})."
        )


def equal_parts(indices: Indices, parts: int) -> list[Indices]:
    """The examples in as many parts of about the same number, in the order in which they stand."""
    return np.array_split(indices, min(parts, len(indices)))


def token_parts(
    examples: Examples, indices: Indices, budget: int, config: RunConfig, processes: int = 1
) -> list[Indices]:
    """The examples, in descending length already, in parts of at most `budget` tokens (or one example) a process."""
    parts, start = [], 0
    while start < len(indices):
        length = padded_length(int(examples.lengths[indices[start]]), config)
        end = start + processes * max(1, budget // (length * examples.width))
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
    objective: Objective = LABELS,
) -> tuple[float, float]:
    """One optimizer step on the examples `indices`: their mean loss and their accuracy before the step.

    Dropout is drawn from a generator state that is made of seed, step and process: a resumed run draws the same.

    Raises
    ------
    TrainingDivergedError
        If the loss is not finite; the weights are as they were.
    """
    assert config.gradient_accumulation
    # as many in every process, for they compute together where the weights are shared out
    number_of_parts = min(config.gradient_accumulation, len(indices) // accelerator.num_processes)
    parts = equal_parts(own_share(longest_first(examples, indices), accelerator), number_of_parts)
    total = asked(examples, indices, config, objective)
    if total == 0:
        raise ValueError(f"The batch of step {step + 1} asks for nothing: {config.seq_len} tokens are too few.")
    torch.manual_seed(seed_of(config.seed, step, accelerator.process_index))
    model.train()
    loss_sum, right = 0.0, 0
    for number, part in enumerate(objective.parts(examples, parts, config), 1):
        with part_of_batch(accelerator, model, last=number == len(parts)):
            loss, correct = forward(model, accelerator, part, config, objective)
            # gradients are averaged over the processes, hence their number
            backward(accelerator, model, loss * (accelerator.num_processes / total))
        loss_sum += loss.item()
        right += int(correct.sum())
    loss_sum, right_sum = summed(accelerator, loss_sum, right)
    if not np.isfinite(loss_sum):
        optimizer.zero_grad()
        raise TrainingDivergedError(f"The loss became {loss_sum / total} at step {step + 1}.")
    if not update(accelerator, model, optimizer):
        raise TrainingDivergedError(f"The gradients became infinite at step {step + 1}.")
    return loss_sum / total, right_sum / total


def evaluate(
    model: torch.nn.Module,
    accelerator: Accelerator,
    examples: Examples,
    indices: Indices,
    config: RunConfig,
    objective: Objective = LABELS,
) -> tuple[float, Answers]:
    """Mean loss and how many answers are right on the examples `indices`, without dropout, in batches of like length.

    Raises
    ------
    ValueError
        If the examples, cut to the configuration's length, ask for nothing.
    """
    budget = EVALUATION_TOKENS[accelerator.device.type == "cpu"]
    together = token_parts(examples, longest_first(examples, indices), budget, config, accelerator.num_processes)
    own = [own_share(part, accelerator) for part in together]
    # Where the weights are shared out all must compute as often: who has nothing to do repeats another's example.
    parts = [mine if len(mine) else part[:1] for mine, part in zip(own, together, strict=True)]
    model.eval()
    loss_sum, found = 0.0, Answers()
    with torch.no_grad():  # no inference mode: the next step may use weights that were gathered here
        for mine, part in zip(own, objective.parts(examples, parts, config), strict=True):
            loss, correct = forward(model, accelerator, part, config, objective)
            if len(mine):
                loss_sum += loss.item()
                found += Answers.counted(correct.cpu().numpy(), _per_example(part.answers != NONE).numpy())
    loss_sum, *counts = summed(accelerator, loss_sum, *found.sums)
    everywhere = Answers(*(round(count) for count in counts))
    if everywhere.asked == 0:
        raise ValueError(f"The {examples.split} set asks for nothing: {config.seq_len} tokens are too few.")
    return loss_sum / everywhere.asked, everywhere


def forward(
    model: torch.nn.Module, accelerator: Accelerator, part: Part, config: RunConfig, objective: Objective = LABELS
) -> tuple[Tensor, Tensor]:
    """The sum of the losses of all answers, and how many are right in each example; int64 of shape (n,)."""
    device = accelerator.device
    part = part.to(device)
    here = config.precision == "bf16" and not uses_deepspeed(accelerator)
    with torch.autocast(device.type, torch.bfloat16, enabled=here):
        scores: Tensor = model(part.input_ids, part.mask)
    loss, right = objective.judge(scores, part.answers)
    return loss, _per_example(right)


def _per_example(true: Tensor) -> Tensor:
    return true.flatten(1).sum(1) if true.ndim > 1 else true.long()


def longest_first(examples: Examples, indices: Indices) -> Indices:
    """The examples in descending length."""
    return indices[np.argsort(-examples.lengths[indices], kind="stable")]


def own_share(indices: Indices, accelerator: Accelerator) -> Indices:
    """This process's share of the examples: of lengths like the other processes', where they stand by length."""
    return indices[accelerator.process_index :: accelerator.num_processes]
