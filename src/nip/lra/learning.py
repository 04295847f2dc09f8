"""The training loop: steps, evaluations and checkpoints of one phase of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nip.lra.batches import Indices, endless_batch
from nip.lra.evaluation import Run, develop, record, secure
from nip.lra.original_log import write_original_log
from nip.lra.train_step import LABELS, Objective, tokens_in, train_step
from nip.runs.folder import Metrics
from nip.training.checkpoint import read_tensors
from nip.training.distributed import anywhere
from nip.training.ema import follow
from nip.training.lr_schedules import SCHEDULES
from nip.training.train_step import TrainingDivergedError

SECONDS_BETWEEN_CHECKPOINTS = 60.0


@dataclass(frozen=True)
class Phase:
    """What a run does for a while: all are functions of what they are given, so that a stopped run can go on.

    Parameters
    ----------
    batch : callable
        The examples of the step of that number.
    objective : callable
        What the step of that number asks.
    develop : callable
        Evaluates, keeps the weights if they are the best so far, and returns loss and accuracy.
    held : str, default="dev"
        What `develop` evaluates on.
    """

    batch: Callable[[Run, int], Indices]
    objective: Callable[[Run, int], Objective]
    develop: Callable[[Run], tuple[float, float]]
    held: str = "dev"


def labelled_batch(run: Run, step: int) -> Indices:
    """A batch of the training set."""
    return endless_batch(len(run.splits["train"]), run.config.batch_size, run.config.seed, "train", step)


TRAINING = Phase(labelled_batch, lambda run, step: LABELS, develop)


def learn(run: Run, phase: Phase = TRAINING, *, original_log: bool = False) -> None:
    """Take the steps that are missing."""
    config, progress, train_set = run.config, run.progress, run.splits["train"]
    main = run.accelerator.is_main_process
    metrics = Metrics(run.folder.metrics, progress.metrics_bytes) if main else None
    first_step, started, last_checkpoint = progress.step, run.tick(), run.tick()
    schedule = SCHEDULES[config.schedule or config.recipe]
    if config.ema is not None and not run.average:
        run.average = {name: weight.clone() for name, weight in run.bare_model.state_dict().items()}
    try:
        while progress.step < config.max_steps and not out_of_patience(run):
            step = progress.step
            rate, beta = schedule(step, config.max_steps, config.learning_rate, config.warmup)
            for group in run.optimizer.param_groups:
                group["lr"], group["betas"] = rate, (beta, group["betas"][1])
            indices, objective = phase.batch(run, step), phase.objective(run, step)
            begun = run.tick()
            loss, accuracy = train_step(
                run.model, run.optimizer, run.accelerator, train_set, indices, config, step, objective
            )
            now = run.tick()
            progress.step = step + 1
            progress.tokens += tokens_in(train_set, indices, config)
            progress.training_seconds += now - begun
            if config.ema is not None:
                follow(run.average, run.bare_model.state_dict(), config.ema, progress.step)
            record(run, metrics, "train", loss, accuracy, rate)
            run.console.step(
                progress.step,
                loss,
                accuracy,
                progress.tokens / progress.training_seconds,
                (now - started) / (progress.step - first_step) * (config.max_steps - progress.step),
                progress.best_accuracy if progress.best_step and phase is TRAINING else None,
            )
            evaluated = progress.step % config.eval_every == 0 or progress.step == config.max_steps
            if evaluated:
                loss, accuracy = phase.develop(run)
                record(run, metrics, phase.held, loss, accuracy, rate)
            long_ago = main and now - last_checkpoint > SECONDS_BETWEEN_CHECKPOINTS  # one clock decides for all
            if evaluated or anywhere(run.accelerator, long_ago):
                if metrics:
                    progress.metrics_bytes = metrics.secure()
                secure(run)
                last_checkpoint = run.tick()
                if main and evaluated and original_log:
                    write_original_log(run.folder.path, config)
    except TrainingDivergedError as error:
        raise TrainingDivergedError(f"{error} {_what_stays(run)}") from None
    finally:
        if metrics:
            metrics.close()


def out_of_patience(run: Run) -> bool:
    """Whether so many evaluations as the configuration has patience for brought nothing better."""
    patience, progress = run.config.patience, run.progress
    if patience is None or not progress.best_step:
        return False
    return progress.step - progress.best_step >= patience * run.config.eval_every


def _what_stays(run: Run) -> str:
    if not run.folder.checkpoint.is_file():
        return "There was no checkpoint yet."
    step = read_tensors(run.folder.checkpoint)[1]["step"]
    return f"The last good checkpoint, of step {step}, is kept in {run.folder.path}."
