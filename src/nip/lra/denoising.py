"""Self-pretraining: the encoder first learns to reconstruct masked tokens of the task's training set.

Development and test sets are not used. The best weights are those with the lowest loss on a held-out part of the
training set, on which later only the labels are trained. The mask is a function of the seed, the step and the example,
whatever process reads the example and however it is padded.

For natural images (the image task and its stand-in) grey levels are regressed as numbers between 0 and 1, with the mean
absolute error as loss. All other tokens, Pathfinder's few grey levels too, are classified, with cross-entropy as loss.
A prediction is correct if it is exactly the token id or the grey level.

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
from nip.data.masking import IGNORED
from nip.data.tasks.registry import Task
from nip.graphs import Pattern
from nip.lra.batches import Indices, endless_batch, padded_micro_batches, shuffled
from nip.lra.config import RunConfig
from nip.lra.evaluation import evaluate
from nip.lra.model import encoder_config
from nip.lra.objective import Objective, class_loss
from nip.lra.task import LabelTask, evaluation_metrics, start_run, write_best
from nip.models import build_denoiser
from nip.runs.console import Console
from nip.runs.folder import RunFolder, write_json
from nip.training.checkpoint import read_tensors
from nip.training.distributed import Weights, load_weights
from nip.training.train_step import MicroBatch
from nip.training.trainer import Run, diverged, keep_best, train

FOLDER = "pretraining"
HELD_OUT = "held-out"
HELD_OUT_SHARE, HELD_OUT_LIMIT = 20, 1024  # one example in 20, at most 1,024
WHITE = 255


def pretrained_weights(run: Run, config: RunConfig, splits: Mapping[str, Examples], graph: Pattern) -> Weights:
    """Train on denoising, in ``pretraining/`` of the run folder, or resume or read an earlier training there.

    Parameters
    ----------
    run : Run
        The run that starts from the weights.
    config : RunConfig
        Its configuration.
    splits : mapping of str to Examples
        Only the training set is read.
    graph : Pattern

    Returns
    -------
    dict of str to Tensor
        The best weights.

    Raises
    ------
    TrainingDivergedError
        If the loss is NaN or infinite; the last checkpoint is kept.
    ValueError
        If the training set is too small.
    """
    config, accelerator = denoising_config(config), run.accelerator
    folder = RunFolder(run.folder.path / FOLDER)
    finished = folder.result.is_file()
    accelerator.wait_for_everyone()  # all have checked before the first process writes
    if not finished:
        if run.main:
            folder.path.mkdir(exist_ok=True)
        examples = splits["train"]
        endless_batch(len(training_examples(len(examples), config.seed)), config.batch_size, config.seed, FOLDER, 0)
        model = build_denoiser(
            encoder_config(config), graph, outputs=n_outputs(examples.task), seed=config.seed, backend=config.backend
        )
        task = DenoisingTask(config, {"train": examples})
        with Console(run.folder.log if run.main else None, config.max_steps) as console:
            console.say(f"Pretraining: {config.max_steps:,} steps of denoising, {config.mask_share:.0%} masked.")
            denoising = start_run(model, config, folder, accelerator, console)
            accelerator.wait_for_everyone()
            if denoising.state.best and run.main:  # the run may have been killed between the two writes
                write_best(denoising, task.measure)
            train(denoising, task)
            denoising.tick()
            if run.main:
                _write_result(denoising, task)
    accelerator.wait_for_everyone()
    return read_tensors(folder.best)[0]


def load_encoder(run: Run, weights: Weights) -> None:
    """Load the weights that the model of a run has in common with a denoiser."""
    own = run.state.unwrapped_model.state_dict()
    load_weights(run.accelerator, run.state.model, {name: weight for name, weight in weights.items() if name in own})


def denoising_config(config: RunConfig) -> RunConfig:
    """The configuration of a run's denoising: with its number of steps and its learning rate."""
    assert config.pretrain_learning_rate is not None
    return dataclasses.replace(config, max_steps=config.pretrain_steps, learning_rate=config.pretrain_learning_rate)


def masked_tokens(
    real: NDArray[np.bool_], share: float, seed: int, step: int | str, examples: Indices
) -> NDArray[np.bool_]:
    """Which tokens are masked: each with probability `share`, and at least one of every sequence.

    Parameters
    ----------
    real : ndarray of bool of shape (n, length), or (n, 2, length) for pairs
        False at padding.
    share : float
    seed : int
    step : int or str
        The step, or the name of an evaluation.
    examples : ndarray of shape (n,), int64
        Their numbers in the training set.

    Returns
    -------
    masked : ndarray of bool, of the shape of `real`

    Notes
    -----
    Token t of sequence s gets output ``2³² s + t + 1`` of the SplitMix64 generator whose seed is made of `seed` and
    `step`, so the mask depends neither on the padding nor on the other sequences of the batch.

    References
    ----------
    .. [1] G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014, section 3.

    Examples
    --------
    >>> real = np.arange(10) < np.array([[8], [4]])
    >>> masked_tokens(real, 0.5, 0, 7, np.array([3, 4])).astype(int)
    array([[0, 0, 0, 0, 0, 0, 1, 1, 0, 0],
           [0, 1, 1, 0, 0, 0, 0, 0, 0, 0]])
    """
    tokens = real.reshape(-1, real.shape[-1])
    width = len(tokens) // len(examples)
    sequences = (width * examples[:, None] + np.arange(width)).reshape(-1, 1)
    key = int.from_bytes(hashlib.sha256(f"{seed}/mask/{step}".encode()).digest()[:8], "little")
    draws = split_mix(key, (sequences << 32) + np.arange(1, 1 + tokens.shape[1]))
    masked = tokens & (draws < np.uint64(share * 2.0**64))
    unmasked = np.flatnonzero(tokens.any(axis=1) & ~masked.any(axis=1))
    masked[unmasked, np.where(tokens, draws, np.uint64(2**64 - 1))[unmasked].argmin(axis=1)] = True
    return masked.reshape(real.shape)


def masked_micro_batches(
    examples: Examples, groups: Iterable[Indices], config: RunConfig, step: int | str
) -> Iterator[MicroBatch]:
    """As `padded_micro_batches`, with some tokens masked; their ids are the targets.

    Parameters
    ----------
    examples : Examples
    groups : iterable of ndarray of int64
        Numbers of the examples of each micro-batch.
    config : RunConfig
    step : int or str
        The step, or the name of an evaluation.

    Yields
    ------
    MicroBatch
        Targets are the original ids at masked tokens, and `IGNORED` elsewhere.
    """
    assert config.mask_share is not None
    groups = list(groups)
    for indices, plain in zip(groups, padded_micro_batches(examples, groups, config), strict=True):
        input_ids, mask = plain.inputs["input_ids"], plain.inputs["mask"]
        masked = torch.from_numpy(masked_tokens(mask.numpy(), config.mask_share, config.seed, step, indices))
        yield dataclasses.replace(
            plain,
            inputs={"input_ids": input_ids.masked_fill(masked, examples.task.vocab_size), "mask": mask},
            targets=input_ids.masked_fill(~masked, IGNORED),
            n_targets=int(masked.sum()),
        )


def level_loss(numbers: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The summed absolute error of numbers (…, 1) for grey levels (…) over 255, and which are correct, (…)."""
    counted = targets != IGNORED
    levels = numbers.squeeze(-1).float()
    loss = (levels - targets / WHITE).abs().masked_fill(~counted, 0.0).sum()
    return loss, counted & ((levels * WHITE).round() == targets)


def regresses_levels(task: Task) -> bool:
    """Whether grey levels are regressed: on natural images, where neighbouring levels are similar."""
    return task.kind == "pixels" and not task.name.startswith("pathfinder")


def n_outputs(task: Task) -> int:
    """Outputs of a task's denoiser for each token."""
    return 1 if regresses_levels(task) else task.vocab_size


@lru_cache(maxsize=2)
def held_out_examples(n: int, seed: int) -> Indices:
    """The examples of a training set of n on which denoising is evaluated, in ascending order.

    Raises
    ------
    ValueError
        If there are fewer than two.
    """
    if n < 2:
        raise ValueError(f"Pretraining needs at least two examples: one to train on, one to evaluate on. Got {n}.")
    return np.sort(shuffled(n, seed, HELD_OUT, 0)[: min(HELD_OUT_LIMIT, max(1, n // HELD_OUT_SHARE))])


@lru_cache(maxsize=2)
def training_examples(n: int, seed: int) -> Indices:
    """The examples of a training set of n on which denoising trains, in ascending order."""
    return np.setdiff1d(np.arange(n), held_out_examples(n, seed))


class DenoisingTask(LabelTask):
    """Reconstructing masked tokens of the training set, evaluated by the loss on its held-out examples."""

    held_out = HELD_OUT
    measure = "negative_held_out_loss"

    def indices(self, step: int) -> Indices:
        """The training examples of a step, none of which is held out."""
        kept = training_examples(len(self.splits["train"]), self.config.seed)
        return kept[endless_batch(len(kept), self.config.batch_size, self.config.seed, FOLDER, step)]

    def objective(self, step: int | str) -> Objective:
        """Denoising with the mask of a step, or of the evaluation of that name."""
        loss = level_loss if regresses_levels(self.splits["train"].task) else class_loss
        return Objective(partial(masked_micro_batches, step=step), loss)

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
            f"pretraining step {run.progress.step}: held-out loss {loss:.4f}, accuracy "
            f"{100 * counts.accuracy:.2f} %{best}"
        )
        return evaluation_metrics(run, loss, counts.accuracy)


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
        f"Pretrained: the weights of step {progress.best_step:,} have a loss of {result['held_out_loss']:.4f} on "
        f"{result['held_out']:,} held-out training examples."
    )
