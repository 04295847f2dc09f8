"""The training loop: steps, evaluations, checkpoints and loss spikes, for any `TrainingTask`.

The task defines batches, the loss, the schedule and the end of the run; the loop knows no data set and no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any, Protocol

from accelerate import Accelerator

from nip.runs.console import Console
from nip.runs.folder import Metrics, RunFolder, writing
from nip.training import ema
from nip.training.checkpoint import (
    Progress,
    TrainState,
    link_checkpoint,
    load_checkpoint,
    read_progress,
    save_checkpoint,
)
from nip.training.distributed import all_reduce_sum, any_process, gather_full
from nip.training.loss_spikes import SpikeRule
from nip.training.train_step import (
    Batch,
    BatchTotals,
    LossSums,
    MicroBatch,
    StepResult,
    TrainingDivergedError,
    train_step,
)

ROLLBACK = "good.safetensors"
"""The file of the checkpoint that a run rolls back to."""


@dataclass(frozen=True)
class EngineSettings:
    """The settings of the training loop.

    Parameters
    ----------
    seed : int
    clip : float or None
        Largest norm of the gradient; 0: no limit; None: the norm is not computed.
    spikes : SpikeRule or None
        None: the first NaN or Inf in a loss or gradient ends the run with an error.
    checkpoint_seconds : float
        Seconds between checkpoints, in addition to those that the loop writes anyway.
    log_every : int
        Steps between lines of ``metrics.jsonl``.
    ema : float or None
        Decay rate of the moving average of the weights.
    """

    seed: int
    clip: float | None = None
    spikes: SpikeRule | None = None
    checkpoint_seconds: float = 60.0
    log_every: int = 1
    ema: float | None = None


@dataclass
class Run:
    """A run that is being trained: its settings, folder, state and output."""

    settings: EngineSettings
    folder: RunFolder
    state: TrainState
    console: Console
    log: Callable[[dict[str, float], int], None] = lambda metrics, step: None
    """Passes the metrics of a step to experiment trackers."""
    metrics_file: Metrics | None = None
    """The open ``metrics.jsonl``: while the loop runs, in the first process."""
    last_tick: float = field(default_factory=lambda: perf_counter())  # noqa: PLW0108 — tests replace the clock

    @property
    def progress(self) -> Progress:
        """Counts and results so far."""
        return self.state.progress

    @property
    def accelerator(self) -> Accelerator:
        """The device and the processes."""
        return self.state.accelerator

    @property
    def main(self) -> bool:
        """Whether this process writes."""
        return self.state.main

    def tick(self) -> float:
        """Add the seconds since the last call to the progress; return the total.

        Called by all processes, which use the clock of the first, so that they take the same decisions.
        """
        now = perf_counter()
        (since,) = all_reduce_sum(self.accelerator, (now - self.last_tick) * self.main)
        self.last_tick = now
        self.progress.seconds += since
        return self.progress.seconds

    def averaged(self) -> AbstractContextManager[None]:
        """Use the moving average of the weights, if there is one, inside the block."""
        return ema.swapped_in(self.state.unwrapped_model, self.state.average)

    def record(self, split: str, metrics: Mapping[str, Any]) -> None:
        """Append the metrics of a split to ``metrics.jsonl``; NaN and Inf become null."""
        if self.metrics_file is not None:
            finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in metrics.items()}
            counts = {"tokens": self.progress.tokens, "seconds": round(self.progress.seconds, 3)}
            self.metrics_file.write({"step": self.progress.step, "split": split, **finite, **counts})

    def event(self, text: str) -> None:
        """Print a message, and append it to ``metrics.jsonl``."""
        self.console.say(text)
        if self.metrics_file is not None:
            self.metrics_file.write({"step": self.progress.step, "split": "event", "event": text})

    @property
    def rollback_checkpoint(self) -> Path:
        """The checkpoint that the run rolls back to."""
        return self.folder.checkpoint.with_name(ROLLBACK)


class TrainingTask(Protocol):
    """What the loop trains: batches, loss, schedule, evaluation and the end of the run.

    Every method is a function of the run's progress and the seed alone, so that a stopped run can resume.
    """

    held_out: str
    """The name of the split that `validate` evaluates on, in ``metrics.jsonl``."""

    def finished(self, run: Run) -> bool:
        """Whether the loop ends here."""

    def share_done(self, run: Run) -> float:
        """The used share of the run's budget, in [0, 1]."""

    def batch(self, run: Run) -> Batch:
        """The batch of the next step."""

    def learning_rate(self, run: Run) -> tuple[float, float | None]:
        """Learning rate and Adam's beta1 of the next step; None does not change beta1."""

    def loss(self, run: Run, micro_batch: MicroBatch, totals: BatchTotals) -> LossSums:
        """The loss and the correct predictions of a micro-batch.

        Parameters
        ----------
        run : Run
        micro_batch : MicroBatch
        totals : BatchTotals
            Of the global batch that it belongs to.

        Returns
        -------
        LossSums
        """

    def mean_loss(self, loss_sum: float, totals: BatchTotals) -> float:
        """The mean loss of a batch from the sum over its micro-batches."""

    def after_step(self, run: Run, result: StepResult, seconds: float) -> dict[str, Any]:
        """Update the task's counts in the progress; return further metrics of the step, by default none.

        Parameters
        ----------
        run : Run
        result : StepResult
        seconds : float
            Wall time of the step.

        Returns
        -------
        dict
            For the step's line in ``metrics.jsonl``.
        """
        return {}

    def evaluation_due(self, run: Run) -> bool:
        """Whether to evaluate after this step."""

    def validate(self, run: Run) -> dict[str, Any]:
        """Evaluate on held-out samples; return the metrics, ``loss`` and ``accuracy`` at least."""

    def between_steps(self, run: Run) -> None:
        """Called after the evaluation, if there is one, and before the checkpoint; by default does nothing."""
        return

    def on_checkpoint(self, run: Run) -> None:
        """Called after a checkpoint was written; by default does nothing."""
        return

    def at_end(self, run: Run) -> None:
        """Called when the loop ends, while metrics can still be recorded; by default does nothing."""
        return


def train(run: Run, task: TrainingTask) -> None:
    """Train until the task is finished.

    Raises
    ------
    TrainingDivergedError
        If the loss, the gradients or the weights are NaN or infinite, or the loss keeps spiking; the last checkpoint is
        kept.
    """
    progress, settings, state = run.progress, run.settings, run.state
    run.metrics_file = Metrics(run.folder.metrics, progress.metrics_bytes) if run.main else None
    if settings.ema is not None and not state.average:
        state.average = {name: weight.clone() for name, weight in state.unwrapped_model.state_dict().items()}
    saved_at = monotonic()
    try:
        if settings.spikes is not None and any_process(
            run.accelerator, run.main and not run.rollback_checkpoint.is_file()
        ):
            checkpoint(run)  # the first rollback needs one
        while not task.finished(run):
            started = run.tick()
            batch = task.batch(run)
            result = take_step(run, task, batch)
            seconds = run.tick() - started
            progress.training_seconds += seconds
            report_step(run, task, result, seconds)
            saved_at = evaluate_and_checkpoint(run, task, saved_at)
        task.at_end(run)
    finally:
        if run.metrics_file is not None:
            with suppress(OSError):  # a full disk, which the checkpoint has reported
                run.metrics_file.close()


def take_step(run: Run, task: TrainingTask, batch: Batch) -> StepResult:
    """Take the next step, or skip it, and count it.

    Parameters
    ----------
    run : Run
    task : TrainingTask
    batch : Batch
        That of the next step.

    Returns
    -------
    StepResult

    Raises
    ------
    TrainingDivergedError
        If the step cannot be taken and the run has no `SpikeRule`.
    """
    progress, settings, state = run.progress, run.settings, run.state
    rate, beta1 = task.learning_rate(run)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
        if beta1 is not None:
            group["betas"] = (beta1, group["betas"][1])
    result = train_step(
        state,
        batch,
        lambda micro_batch, totals: task.loss(run, micro_batch, totals),
        task.mean_loss,
        seed=settings.seed,
        clip=settings.clip,
        spike=settings.spikes.deviations if settings.spikes is not None else 0.0,
    )
    if result.skip_reason is not None and settings.spikes is None:
        raise diverged(run, f"Step {progress.step + 1:,} cannot be taken: {result.skip_reason}.")
    progress.step += 1
    progress.tokens += result.totals.tokens
    progress.samples += result.totals.samples
    if settings.ema is not None:
        ema.update(state.average, state.unwrapped_model.state_dict(), settings.ema, progress.step)
    return result


def report_step(run: Run, task: TrainingTask, result: StepResult, seconds: float) -> None:
    """Handle a loss spike, record the step's metrics and print the progress.

    Parameters
    ----------
    run : Run
    task : TrainingTask
    result : StepResult
    seconds : float
        That the step took.
    """
    progress, settings = run.progress, run.settings
    if settings.spikes is not None:
        handle_loss_spike(run, result, settings.spikes)
    metrics = {
        "loss": result.loss,
        "accuracy": result.accuracy,
        "learning_rate": run.state.optimizer.param_groups[0]["lr"],
        **task.after_step(run, result, seconds),
    }
    if progress.step % settings.log_every == 0:
        run.record("train", metrics)
    done = max(task.share_done(run), 1e-9)
    run.console.step(
        progress.step,
        result.loss,
        result.accuracy,
        progress.tokens / max(progress.training_seconds, 1e-9),
        progress.seconds * (1 - done) / done,
        progress.best_score if progress.best_step and progress.best_score >= 0 else None,
    )


def handle_loss_spike(run: Run, result: StepResult, rule: SpikeRule) -> None:
    """Update the spike detector with a step, and roll back if too many in a row were skipped.

    Parameters
    ----------
    run : Run
    result : StepResult
    rule : SpikeRule

    Raises
    ------
    TrainingDivergedError
        If the run was rolled back as often as the rule allows.
    """
    progress, detector = run.progress, run.progress.loss_spikes
    if result.loss_scale is not None and result.loss_scale <= 1:
        progress.low_scales += 1
        if progress.low_scales >= rule.overflow_limit:
            progress.stopped = f"{progress.low_scales} steps had a loss scale of 1 or less"
    if result.skip_reason is None:
        detector.accept(result.loss)
        return
    if result.overflowed:
        return
    detector.skip()
    run.event(f"Step {progress.step:,} was skipped: {result.skip_reason}.")
    if detector.bad < rule.bad_steps:
        return
    back = read_progress(run.rollback_checkpoint).step
    if detector.rollbacks >= rule.max_rollbacks:
        raise TrainingDivergedError(
            f"{detector.bad} steps in a row were skipped, the last one because {result.skip_reason}, and the run was "
            f"rolled back {detector.rollbacks} times before. The last good state, of step {back:,}, is kept in "
            f"{run.rollback_checkpoint}."
        )
    load_checkpoint(run.rollback_checkpoint, run.state)
    detector.rollbacks += 1
    detector.reset()
    run.event(f"After step {progress.step:,} the weights were rolled back to those of step {back:,}.")


def evaluate_and_checkpoint(run: Run, task: TrainingTask, saved_at: float) -> float:
    """Evaluate and write a checkpoint after a step, if they are due.

    Parameters
    ----------
    run : Run
    task : TrainingTask
    saved_at : float
        The time of the last checkpoint, by `time.monotonic`.

    Returns
    -------
    float
        The time of the last checkpoint.
    """
    progress, settings = run.progress, run.settings
    evaluated = task.evaluation_due(run)
    if evaluated:
        metrics = task.validate(run)
        run.tick()
        progress.evaluations += 1
        progress.dev_step, progress.dev_loss, progress.dev_accuracy = (
            progress.step,
            metrics["loss"],
            metrics["accuracy"],
        )
        run.record(task.held_out, metrics)
    task.between_steps(run)
    if settings.spikes is None:
        due = evaluated
    else:
        due = progress.step % settings.spikes.rollback_every == 0 and not progress.loss_spikes.bad
    long_ago = run.main and monotonic() - saved_at > settings.checkpoint_seconds  # by the first process's clock
    if not due and not any_process(run.accelerator, long_ago):
        return saved_at
    checkpoint(run)
    task.on_checkpoint(run)
    return monotonic()


def checkpoint(run: Run) -> None:
    """Write a checkpoint; called by all processes.

    Raises
    ------
    TrainingDivergedError
        If a weight is NaN or infinite; the previous checkpoint is kept.
    OSError
        If it cannot be written; the previous checkpoint is kept.
    """
    progress = run.progress
    with writing(run.folder, "the checkpoint"):
        if run.metrics_file is not None:
            progress.metrics_bytes = run.metrics_file.secure()
        began = run.tick()
        finite = save_checkpoint(run.folder.checkpoint, run.state)
    if not finite:
        raise diverged(run, f"Weights contain NaN or Inf after step {progress.step:,}.")
    link_rollback_checkpoint(run)
    progress.checkpoint_seconds += run.tick() - began


def link_rollback_checkpoint(run: Run) -> None:
    """Make the current checkpoint the one to roll back to, at the steps that the rule names."""
    progress, rule = run.progress, run.settings.spikes
    if run.main and rule is not None and progress.step % rule.rollback_every == 0 and not progress.loss_spikes.bad:
        link_checkpoint(run.folder.checkpoint, run.rollback_checkpoint)


def keep_best(run: Run, score: float) -> bool:
    """Keep the weights if the score of an evaluation is the best so far; return whether it is."""
    progress, state = run.progress, run.state
    better = not progress.best_step or score > progress.best_score
    if better:
        progress.best_score, progress.best_step = score, progress.step
        weights = gather_full(state.average or state.unwrapped_model.state_dict(), keep=run.main)
        state.best = {name: tensor.clone() for name, tensor in weights.items()}
    return better


def diverged(run: Run, reason: str) -> TrainingDivergedError:
    """The error that ends a run; its message names the last checkpoint."""
    if not run.folder.checkpoint.is_file():
        return TrainingDivergedError(f"{reason} There is no checkpoint yet.")
    step = read_progress(run.folder.checkpoint).step
    return TrainingDivergedError(f"{reason} The last good checkpoint, of step {step:,}, is kept in {run.folder.path}.")
