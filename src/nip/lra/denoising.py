"""Self-pretraining: the encoder first learns to restore masked tokens of the task's own training set.

Development and test sets are not touched: the best weights are those that restore best what is masked in a part of the
training set that is held out for that, and trained on only with labels afterwards. What is masked follows from the
seed, the step and the example alone, whatever the process that reads it and however it is padded.

A picture of the image task and its stand-in has its grey levels restored as numbers between 0 and 1, with the mean
absolute difference as loss; everything else, Pathfinder's few grey levels too, is restored as one of the task's ids,
with the cross-entropy as loss. An answer counts as right if it is the very id or level.

References
----------
.. [1] I. Amos, J. Berant, A. Gupta, "Never Train from Scratch: Fair Comparison of Long-Sequence Models Requires
   Data-Driven Priors", arXiv 2310.02980, sections 3 and C.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nip.counter_rng import split_mix
from nip.data import Examples
from nip.data.tasks.registry import Task
from nip.graphs import Pattern
from nip.lra.batches import IGNORED, Indices, endless_batch, padded_micro_batches, shuffled
from nip.lra.config import RunConfig
from nip.lra.evaluation import evaluate
from nip.lra.model import encoder_config
from nip.lra.objective import Objective, class_loss
from nip.lra.task import LabelTask, figures, start_run, write_best
from nip.models import build_denoiser
from nip.runs.console import Console
from nip.runs.folder import RunFolder, write_json
from nip.training.checkpoint import read_tensors
from nip.training.distributed import Weights, load_weights
from nip.training.train_step import MicroBatch
from nip.training.trainer import Run, diverged, keep_best, train

FOLDER = "pretraining"
HELD_OUT = "held-out"
HELD_OUT_SHARE, HELD_OUT_MOST = 20, 1024  # one example in twenty, at most so many
GREY = 255


def pretrained(run: Run, config: RunConfig, splits: Mapping[str, Examples], graph: Pattern) -> Weights:
    """The best weights of denoising for a run, trained now as far as they are not, in ``pretraining/`` of its folder.

    Parameters
    ----------
    run : Run
        The run that starts from these weights.
    config : RunConfig
        Its configuration.
    splits : mapping of str to Examples
        Of which only the training set is read.
    graph : Pattern

    Raises
    ------
    TrainingDivergedError
        If the loss is not finite; the last checkpoint stays.
    ValueError
        If the training set is too small.
    """
    config, accelerator = denoising_config(config), run.accelerator
    folder = RunFolder(run.folder.path / FOLDER)
    finished = folder.result.is_file()
    accelerator.wait_for_everyone()  # all have looked before the first writes
    if not finished:
        if run.main:
            folder.path.mkdir(exist_ok=True)
        examples = splits["train"]
        endless_batch(len(kept_examples(len(examples), config.seed)), config.batch_size, config.seed, FOLDER, 0)
        model = build_denoiser(
            encoder_config(config), graph, outputs=outputs(examples.task), seed=config.seed, backend=config.backend
        )
        task = DenoisingTask(config, {"train": examples})
        with Console(run.folder.log if run.main else None, config.max_steps) as console:
            console.say(f"Pretraining: {config.max_steps:,} steps of denoising, {config.mask_share:.0%} masked.")
            denoising = start_run(model, config, folder, accelerator, console)
            accelerator.wait_for_everyone()
            if denoising.state.best and run.main:  # a kill may have come between the checkpoint and the best weights
                write_best(denoising, task.measure)
            train(denoising, task)
            denoising.tick()
            if run.main:
                _write_result(denoising, task)
    accelerator.wait_for_everyone()
    return read_tensors(folder.best)[0]


def start_from(run: Run, weights: Weights) -> None:
    """Give the model of a run the weights that it has in common with a denoiser."""
    own = run.state.bare_model.state_dict()
    load_weights(run.accelerator, run.state.model, {name: weight for name, weight in weights.items() if name in own})


def denoising_config(config: RunConfig) -> RunConfig:
    """The configuration of a run's denoising: its own number of steps, and their own learning rate."""
    assert config.pretrain_learning_rate is not None
    return dataclasses.replace(config, max_steps=config.pretrain_steps, learning_rate=config.pretrain_learning_rate)


def hidden_tokens(
    real: NDArray[np.bool_], share: float, seed: int, moment: int | str, examples: Indices
) -> NDArray[np.bool_]:
    """Which tokens are masked: each real one with probability `share`, and at least one of every sequence.

    Parameters
    ----------
    real : ndarray of bool of shape (n, length), or (n, 2, length) for pairs
    share : float
    seed : int
    moment : int or str
        The step, or the name of an evaluation.
    examples : ndarray of shape (n,), int64
        Their numbers in the training set.

    Returns
    -------
    hidden : ndarray of bool, of the same shape

    Notes
    -----
    Token t of sequence s gets output ``2³² s + t + 1`` of the SplitMix64 generator whose seed is made of `seed` and
    `moment`, so it matters neither how sequences are padded nor which are drawn together.

    References
    ----------
    .. [1] G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, section 3.

    Examples
    --------
    >>> real = np.arange(10) < np.array([[8], [4]])
    >>> hidden_tokens(real, 0.5, 0, 7, np.array([3, 4])).astype(int)
    array([[0, 0, 0, 0, 0, 0, 1, 1, 0, 0],
           [0, 1, 1, 0, 0, 0, 0, 0, 0, 0]])
    """
    tokens = real.reshape(-1, real.shape[-1])
    width = len(tokens) // len(examples)
    sequences = (width * examples[:, None] + np.arange(width)).reshape(-1, 1)
    key = int.from_bytes(hashlib.sha256(f"{seed}/mask/{moment}".encode()).digest()[:8], "little")
    draws = split_mix(key, (sequences << 32) + np.arange(1, 1 + tokens.shape[1]))
    hidden = tokens & (draws < np.uint64(share * 2.0**64))
    bare = np.flatnonzero(tokens.any(axis=1) & ~hidden.any(axis=1))
    hidden[bare, np.where(tokens, draws, np.uint64(2**64 - 1))[bare].argmin(axis=1)] = True
    return hidden.reshape(real.shape)


def masked_micro_batches(
    examples: Examples, parts: Iterable[Indices], config: RunConfig, moment: int | str
) -> Iterator[MicroBatch]:
    """As `padded_micro_batches`, with some tokens masked, and those tokens as the targets."""
    assert config.mask_share is not None
    parts = list(parts)
    for indices, whole in zip(parts, padded_micro_batches(examples, parts, config), strict=True):
        input_ids, mask = whole.inputs["input_ids"], whole.inputs["mask"]
        hidden = torch.from_numpy(hidden_tokens(mask.numpy(), config.mask_share, config.seed, moment, indices))
        yield dataclasses.replace(
            whole,
            inputs={"input_ids": input_ids.masked_fill(hidden, examples.task.vocab_size), "mask": mask},
            targets=input_ids.masked_fill(~hidden, IGNORED),
            n_targets=int(hidden.sum()),
        )


def level_loss(numbers: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the absolute differences of numbers (…, 1) from grey levels (…) over 255, and which of them agree."""
    asked = targets != IGNORED
    levels = numbers.squeeze(-1).float()
    loss = (levels - targets / GREY).abs().masked_fill(~asked, 0.0).sum()
    return loss, asked & ((levels * GREY).round() == targets)


def restores_levels(task: Task) -> bool:
    """Whether grey levels are restored as numbers: on natural pictures, where a level is much like the next."""
    return task.kind == "pixels" and not task.name.startswith("pathfinder")


def outputs(task: Task) -> int:
    """Numbers that a denoiser of a task gives for a token."""
    return 1 if restores_levels(task) else task.vocab_size


def objective(task: Task, moment: int | str) -> Objective:
    """What denoising asks at a step, or in the evaluation of that name."""
    return Objective(partial(masked_micro_batches, moment=moment), level_loss if restores_levels(task) else class_loss)


@lru_cache(maxsize=2)
def held_out_examples(n: int, seed: int) -> Indices:
    """The examples of a training set of n that denoising is evaluated on, in ascending order.

    Raises
    ------
    ValueError
        If there are fewer than two.
    """
    if n < 2:
        raise ValueError(f"Pretraining needs two examples at least, one to train on and one to look at. Got {n}.")
    return np.sort(shuffled(n, seed, HELD_OUT, 0)[: min(HELD_OUT_MOST, max(1, n // HELD_OUT_SHARE))])


@lru_cache(maxsize=2)
def kept_examples(n: int, seed: int) -> Indices:
    """The examples of a training set of n that denoising trains on, in ascending order."""
    return np.setdiff1d(np.arange(n), held_out_examples(n, seed))


class DenoisingTask(LabelTask):
    """Restoring masked tokens of the training set, evaluated by the loss on the part of it that is held out."""

    held_out = HELD_OUT
    measure = "negative_held_out_loss"

    def indices(self, step: int) -> Indices:
        """The training examples of a step: of those that are not held out."""
        kept = kept_examples(len(self.splits["train"]), self.config.seed)
        return kept[endless_batch(len(kept), self.config.batch_size, self.config.seed, FOLDER, step)]

    def objective(self, moment: int | str) -> Objective:
        """Masks that follow from the step, or from the name of the evaluation."""
        return objective(self.splits["train"].task, moment)

    def validate(self, run: Run) -> dict[str, Any]:
        """Evaluate on the held-out examples, and keep the weights if they are the best so far."""
        config, examples = self.config, self.splits["train"]
        indices = held_out_examples(len(examples), config.seed)
        with run.averaged():
            loss, counts = evaluate(
                run.state.model, run.accelerator, examples, indices, config, self.objective(HELD_OUT)
            )
        if not math.isfinite(loss):
            raise diverged(run, f"The held-out loss became {loss} after step {run.progress.step:,}.")
        best = ", the best so far" if keep_best(run, -loss) else ""
        run.console.note(
            f"pretraining step {run.progress.step}: held-out loss {loss:.4f}, restored exactly "
            f"{100 * counts.accuracy:.2f} %{best}"
        )
        return figures(run, loss, counts.accuracy)


def _write_result(run: Run, task: DenoisingTask) -> None:
    progress, config = run.progress, task.config
    result = {
        "task": config.task,
        "model": config.model,
        "seed": config.seed,
        "masked": config.mask_share,
        "held_out": len(held_out_examples(len(task.splits["train"]), config.seed)),
        "held_out_loss": -progress.best_score,
        "best_step": progress.best_step,
        "steps": progress.step,
        "tokens": progress.tokens,
        "seconds": round(progress.seconds, 3),
        "training_seconds": round(progress.training_seconds, 3),
    }
    write_json(run.folder.result, result)
    run.console.say(
        f"Pretrained: the weights of step {progress.best_step:,} restore what is masked in {result['held_out']:,} "
        f"training examples that were held out with a loss of {result['held_out_loss']:.4f}."
    )
