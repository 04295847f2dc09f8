"""The labels of a Long Range Arena task as a `TrainingTask`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from nip.data import Examples
from nip.lra.batches import Indices, development_indices, endless_batch, longest_first, process_share
from nip.lra.config import RunConfig
from nip.lra.evaluation import evaluate
from nip.lra.objective import LABELS, Objective, forward
from nip.lra.original_log import write_original_log
from nip.runs.console import Console
from nip.runs.folder import RunFolder
from nip.training.checkpoint import TrainState, load_checkpoint, write_tensors
from nip.training.distributed import prepare_model
from nip.training.lr_schedules import SCHEDULES
from nip.training.train_step import Batch, BatchTotals, LossSums, MicroBatch
from nip.training.trainer import EngineSettings, Run, TrainingTask, diverged, keep_best


def start_run(
    model: torch.nn.Module, config: RunConfig, folder: RunFolder, accelerator: Accelerator, console: Console
) -> Run:
    """A run of a model: new, or resumed from its checkpoint.

    Parameters
    ----------
    model : Module
        With its initial weights.
    config : RunConfig
    folder : RunFolder
    accelerator : Accelerator
    console : Console

    Returns
    -------
    Run
    """
    model.to(accelerator.device)
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=(0.9, config.beta2),
        eps=1e-6,
        weight_decay=config.weight_decay,
        fused=accelerator.device.type in ("cpu", "cuda"),
    )
    state = TrainState(accelerator, *prepare_model(accelerator, model, optimizer, config.precision))
    if folder.checkpoint.is_file():
        state.progress = load_checkpoint(folder.checkpoint, state)
    return Run(EngineSettings(seed=config.seed, ema=config.ema), folder, state, console)


class LabelTask(TrainingTask):
    """Training on the labels of the training set, evaluated by accuracy on the development set.

    Parameters
    ----------
    config : RunConfig
    splits : mapping of str to Examples
    original_log : bool, default=False
        Also write the original's log at every evaluation.
    """

    held_out = "dev"
    measure = "dev_accuracy"
    """The name of `Progress.best_score` in the header of the best weights."""

    def __init__(self, config: RunConfig, splits: Mapping[str, Examples], *, original_log: bool = False) -> None:
        self.config, self.splits, self.original_log = config, splits, original_log

    def indices(self, step: int) -> Indices:
        """The training examples of a step."""
        config, n = self.config, len(self.splits["train"])
        return endless_batch(n, config.batch_size, config.seed, "train", step, drop_last=config.drop_last)

    def objective(self, step: int | str) -> Objective:
        """The objective of a step, or of the evaluation of that name."""
        return LABELS

    def finished(self, run: Run) -> bool:
        """Whether all steps are done, or `patience` evaluations in a row brought no improvement."""
        config, progress = self.config, run.progress
        if progress.step >= config.max_steps:
            return True
        if config.patience is None or not progress.best_step:
            return False
        return progress.step - progress.best_step >= config.patience * config.eval_every

    def share_done(self, run: Run) -> float:
        """Finished steps over all steps."""
        return run.progress.step / self.config.max_steps

    def batch(self, run: Run) -> Batch:
        """The micro-batches of the next step, longest examples first."""
        config, examples, step = self.config, self.splits["train"], run.progress.step
        assert config.gradient_accumulation
        indices = self.indices(step)
        # the same number in every process: with sharded weights they must compute together
        number = min(config.gradient_accumulation, len(indices) // run.accelerator.num_processes)
        groups = np.array_split(process_share(longest_first(examples, indices), run.accelerator), number)
        return Batch(list(self.objective(step).micro_batches(examples, groups, config)), len(indices))

    def learning_rate(self, run: Run) -> tuple[float, float | None]:
        """From the schedule of the configuration, or of its recipe."""
        config = self.config
        schedule = SCHEDULES[config.schedule or config.recipe]
        return schedule(run.progress.step, config.max_steps, config.learning_rate, config.warmup)

    def loss(self, run: Run, micro_batch: MicroBatch, totals: BatchTotals) -> LossSums:
        """The loss and the correct predictions of a micro-batch.

        Parameters
        ----------
        run : Run
        micro_batch : MicroBatch
        totals : BatchTotals

        Returns
        -------
        LossSums

        Raises
        ------
        ValueError
            If the batch has no targets.
        """
        if totals.targets == 0:
            raise ValueError(
                f"The batch of step {run.progress.step + 1} has no targets within {self.config.seq_len} tokens."
            )
        loss, correct = forward(
            run.state.model, run.accelerator, micro_batch, self.config, self.objective(run.progress.step)
        )
        return LossSums(loss * (1 / totals.targets), loss, correct)

    def mean_loss(self, loss_sum: float, totals: BatchTotals) -> float:
        """The mean over the targets."""
        return loss_sum / totals.targets

    def evaluation_due(self, run: Run) -> bool:
        """Every `eval_every` steps, and at the last."""
        return run.progress.step % self.config.eval_every == 0 or run.progress.step == self.config.max_steps

    def validate(self, run: Run) -> dict[str, Any]:
        """Evaluate on the development set, and keep the weights if they are the best so far.

        Raises
        ------
        TrainingDivergedError
            If the loss is NaN or infinite.
        """
        config, dev = self.config, self.splits["dev"]
        indices = development_indices(
            len(dev),
            config.batch_size,
            config.seed,
            eval_steps=config.eval_steps,
            protocol=config.protocol,
            evaluation=run.progress.evaluations,
            drop_last=config.drop_last,
        )
        with run.averaged():
            loss, counts = evaluate(run.state.model, run.accelerator, dev, indices, config)
        if not math.isfinite(loss):
            raise diverged(run, f"The development loss became {loss} after step {run.progress.step:,}.")
        best = ", the best so far" if keep_best(run, counts.accuracy) else ""
        run.console.note(
            f"step {run.progress.step}: dev loss {loss:.4f}, dev accuracy {100 * counts.accuracy:.2f} %{best}"
        )
        return evaluation_metrics(run, loss, counts.accuracy)

    def on_checkpoint(self, run: Run) -> None:
        """Write new best weights, and the original's log after an evaluation."""
        if run.main and run.progress.best_step == run.progress.step:
            write_best(run, self.measure)
        if run.main and self.original_log and run.progress.dev_step == run.progress.step:
            write_original_log(run.folder.path, self.config)


def evaluation_metrics(run: Run, loss: float, accuracy: float) -> dict[str, Any]:
    """The metrics of an evaluation, as ``metrics.jsonl`` records them.

    Parameters
    ----------
    run : Run
    loss, accuracy : float
        Mean loss in nats, and share of correct predictions.
    """
    return {"loss": loss, "accuracy": accuracy, "learning_rate": run.state.optimizer.param_groups[0]["lr"]}


def write_best(run: Run, measure: str) -> None:
    """Write the best weights so far, with their step and their score under the name `measure`."""
    header = {"step": run.progress.best_step, measure: run.progress.best_score}
    write_tensors(run.folder.best, run.state.best, header)
