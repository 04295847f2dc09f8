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
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nip.counter_rng import split_mix
from nip.data import Examples
from nip.data.tasks.registry import Task
from nip.graphs import Pattern
from nip.lra.batches import Indices, endless_batch, shuffled
from nip.lra.config import RunConfig
from nip.lra.evaluation import Run, encoder_config, keep_best, ready, write_best
from nip.lra.learning import Phase, learn
from nip.lra.train_step import NONE, Objective, Part, evaluate, judge_classes, padded_parts
from nip.models import build_denoiser
from nip.runs.console import Console
from nip.runs.folder import RunFolder, write_json
from nip.training.checkpoint import read_tensors
from nip.training.distributed import Weights, load_weights
from nip.training.train_step import TrainingDivergedError

FOLDER = "pretraining"
HELD_OUT = "held-out"
HELD_OUT_SHARE, HELD_OUT_MOST = 20, 1024  # one example in twenty, at most so many
GREY = 255


def pretrained(run: Run, graph: Pattern) -> Weights:
    """The best weights of denoising for a run, trained now as far as they are not: in ``pretraining/`` of its folder.

    Raises
    ------
    TrainingDivergedError
        If the loss is not finite; the last checkpoint stays.
    ValueError
        If the training set is too small.
    """
    config, accelerator = denoising_config(run.config), run.accelerator
    folder = RunFolder(run.folder.path / FOLDER)
    finished = folder.result.is_file()
    accelerator.wait_for_everyone()  # all have looked before the first writes
    if not finished:
        main = accelerator.is_main_process
        if main:
            folder.path.mkdir(exist_ok=True)
        examples = run.splits["train"]
        endless_batch(len(kept_examples(len(examples), config.seed)), config.batch_size, config.seed, FOLDER, 0)
        model = build_denoiser(
            encoder_config(config), graph, outputs=outputs(examples.task), seed=config.seed, backend=config.backend
        )
        with Console(run.folder.log if main else None, config.max_steps) as console:
            console.say(f"Pretraining: {config.max_steps:,} steps of denoising, {config.mask_share:.0%} masked.")
            phase_run = ready(
                model, config, folder, accelerator, {"train": examples}, console, measure="negative_held_out_loss"
            )
            accelerator.wait_for_everyone()
            if phase_run.best and main:  # a kill may have come between the checkpoint and the file of the best weights
                write_best(phase_run)
            learn(phase_run, DENOISING)
            if main:
                _write_result(phase_run)
    accelerator.wait_for_everyone()
    return read_tensors(folder.best)[0]


def start_from(run: Run, weights: Weights) -> None:
    """Give the model of a run the weights that it has in common with a denoiser."""
    own = run.bare_model.state_dict()
    load_weights(run.accelerator, run.model, {name: weight for name, weight in weights.items() if name in own})


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


def masked_parts(examples: Examples, parts: Iterable[Indices], config: RunConfig, moment: int | str) -> Iterator[Part]:
    """The examples of every part with some tokens masked, and those tokens as the answers."""
    assert config.mask_share is not None
    parts = list(parts)
    for indices, part in zip(parts, padded_parts(examples, parts, config), strict=True):
        hidden = torch.from_numpy(hidden_tokens(part.mask.numpy(), config.mask_share, config.seed, moment, indices))
        masked = part.input_ids.masked_fill(hidden, examples.task.vocab_size)
        yield Part(masked, part.mask, part.input_ids.masked_fill(~hidden, NONE))


def judge_levels(numbers: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the absolute differences of numbers (…, 1) from grey levels (…) over 255, and which of them agree."""
    asked = answers != NONE
    levels = numbers.squeeze(-1).float()
    loss = (levels - answers / GREY).abs().masked_fill(~asked, 0.0).sum()
    return loss, asked & ((levels * GREY).round() == answers)


def restores_levels(task: Task) -> bool:
    """Whether grey levels are restored as numbers: on natural pictures, where a level is much like the next."""
    return task.kind == "pixels" and not task.name.startswith("pathfinder")


def outputs(task: Task) -> int:
    """Numbers that a denoiser of a task gives for a token."""
    return 1 if restores_levels(task) else task.vocab_size


def objective(task: Task, moment: int | str) -> Objective:
    """What denoising asks at a step, or in the evaluation of that name."""
    return Objective(partial(masked_parts, moment=moment), judge_levels if restores_levels(task) else judge_classes)


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


def _batch(run: Run, step: int) -> Indices:
    kept = kept_examples(len(run.splits["train"]), run.config.seed)
    return kept[endless_batch(len(kept), run.config.batch_size, run.config.seed, FOLDER, step)]


def _develop(run: Run) -> tuple[float, float]:
    config, examples = run.config, run.splits["train"]
    indices = held_out_examples(len(examples), config.seed)
    with run.averaged():
        loss, answers = evaluate(
            run.model, run.accelerator, examples, indices, config, objective(examples.task, HELD_OUT)
        )
    if not math.isfinite(loss):
        raise TrainingDivergedError(f"The held-out loss became {loss} after step {run.progress.step}.")
    better = keep_best(run, -loss)
    run.console.note(
        f"pretraining step {run.progress.step}: held-out loss {loss:.4f}, restored exactly "
        f"{100 * answers.accuracy:.2f} %{', the best so far' if better else ''}"
    )
    return loss, answers.accuracy


DENOISING = Phase(_batch, lambda run, step: objective(run.splits["train"].task, step), _develop, HELD_OUT)


def _write_result(run: Run) -> None:
    progress = run.progress
    run.tick()
    result = {
        "task": run.config.task,
        "model": run.config.model,
        "seed": run.config.seed,
        "masked": run.config.mask_share,
        "held_out": len(held_out_examples(len(run.splits["train"]), run.config.seed)),
        "held_out_loss": -progress.best_accuracy,
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
