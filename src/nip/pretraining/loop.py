"""The steps of a stage of a run, and what is done between them: evaluations, checkpoints, and a watch on the loss."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from nip.pretraining.budget import HOUR, batch_at, ended, eval_every, rate_of, share, stage_at
from nip.pretraining.export import keep_model
from nip.pretraining.microbatches import Lookahead, training_parts
from nip.pretraining.output_dir import good_state, writing
from nip.pretraining.setup import Run, micro_batch
from nip.pretraining.state import link_good, load_state, progress_in, save_state
from nip.pretraining.step import Taken, take_step
from nip.pretraining.throughput import outlook
from nip.pretraining.validation import evaluate
from nip.runs.folder import Metrics
from nip.training.distributed import anywhere
from nip.training.train_step import TrainingDivergedError

FORECAST_AFTER = 4  # steps of a start, of which the first does not count


@dataclass
class _Marks:
    """When things were last done, by the clock or by the step; and what the first step of a start had come to."""

    saved: float
    evaluated: int
    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0


def train_stage(run: Run) -> bool:
    """Take the steps of a stage; whether the run is over, and not only the stage."""
    settings, progress, accelerator = run.settings, run.progress, run.accelerator
    metrics = Metrics(run.folder.metrics, progress.metrics_bytes) if run.main else None
    feed = Lookahead(training_parts)
    marks = _Marks(time.perf_counter(), progress.dev_step)
    size = micro_batch(settings, run.length, accelerator.device, accelerator.num_processes)
    place = {"process": accelerator.process_index, "processes": accelerator.num_processes}
    corpus, masking = run.corpus, run.masking
    try:
        while True:
            done = share(settings, progress)
            if over(run) or stage_at(settings, done) > progress.stage:
                break
            count = batch_at(settings, done)
            own = min(size, count // accelerator.num_processes)
            first = progress.stage_samples
            began = run.tick()
            parts = feed.get(corpus, first, count, own, masking, seed=settings.seed, **place)
            feed.ask(corpus, first + count, count, own, masking, seed=settings.seed, **place)
            taken = take_step(run, parts, rate_of(settings, progress), count)
            progress.step += 1
            progress.samples += count
            progress.stage_samples += count
            progress.tokens += taken.tokens
            progress.padded += count * run.length
            progress.flops += run.flops[progress.stage] * taken.tokens
            now = run.tick()
            progress.step_seconds += now - began
            react(run, taken, metrics)
            report(run, taken, metrics, count, now - began)
            foresee(run, marks)
            after(run, metrics, marks)
        last = over(run)
        if not last:
            progress.stage, progress.stage_samples = progress.stage + 1, 0
            progress.guard.forget()
        secure(run, metrics)
        return last
    finally:
        feed.close()
        if metrics:
            with suppress(OSError):  # of a full disk, which `secure` has told of
                metrics.close()


def over(run: Run) -> bool:
    """Whether the budget is used up, or something stopped the run."""
    settings, progress = run.settings, run.progress
    if ended(settings, progress) is not None or progress.stopped is not None:
        return True
    exit_at = settings.early_exit_hours
    if exit_at is not None and progress.seconds >= HOUR * exit_at:
        progress.stopped = f"{exit_at:g} hours were to be the end"
    return progress.stopped is not None


def react(run: Run, taken: Taken, metrics: Metrics | None) -> None:
    """Learn from a step what is usual, or deal with one that was skipped."""
    settings, progress, guard = run.settings, run.progress, run.progress.guard
    if taken.scale is not None and taken.scale <= 1:
        progress.low_scales += 1
        if progress.low_scales >= settings.overflow_limit:
            progress.stopped = f"{progress.low_scales} steps had a loss scale of 1 or less"
    if taken.objection is None:
        guard.accept(taken.loss)
        return
    if taken.overflowed:
        return
    guard.skip()
    event(run, metrics, f"Step {progress.step:,} was skipped: {taken.objection}.")
    if guard.bad < settings.bad_steps:
        return
    good = good_state(run.folder)
    back = progress_in(good).step
    if guard.rollbacks >= settings.max_rollbacks:
        raise TrainingDivergedError(
            f"{guard.bad} steps in a row were skipped, the last one because {taken.objection}, and the run was rolled "
            f"back {guard.rollbacks} times before. The last good state, of step {back:,}, is kept in {good}."
        )
    load_state(good, run.learner)
    guard.rollbacks += 1
    guard.forget()
    event(run, metrics, f"After step {progress.step:,} the weights were rolled back to those of step {back:,}.")


def event(run: Run, metrics: Metrics | None, says: str) -> None:
    """Say and record something that is no measurement."""
    run.console.say(says)
    if metrics:
        metrics.write({"step": run.progress.step, "split": "event", "event": says})


def report(run: Run, taken: Taken, metrics: Metrics | None, count: int, seconds: float) -> None:
    """Record a step, and say how the run goes."""
    settings, progress = run.settings, run.progress
    rate = run.learner.optimizer.param_groups[0]["lr"]
    figures = {"loss": taken.loss, "accuracy": taken.accuracy, "learning_rate": rate}
    if metrics and progress.step % settings.log_every == 0:
        more = {"grad_norm": taken.norm, "batch": count, "length": run.length, "samples": progress.samples}
        if taken.scale is not None:
            more["loss_scale"] = taken.scale
        record(run, metrics, "train", {**figures, **more})
        speed = {"tokens_per_second": taken.tokens / seconds, "samples_per_second": count / seconds}
        used = run.flops[progress.stage] * taken.tokens / seconds
        run.log({**figures, **more, **speed, "mfu": used / run.peak}, progress.step)
    done = max(share(settings, progress), 1e-9)
    run.console.step(
        progress.step,
        taken.loss,
        taken.accuracy,
        progress.tokens / max(progress.step_seconds, 1e-9),
        progress.seconds * (1 - done) / done,
        None,
    )


def foresee(run: Run, marks: _Marks) -> None:
    """Say, once the speed is known, what the run will have seen at its end."""
    progress = run.progress
    marks.steps += 1
    if marks.steps == 1:
        marks.tokens, marks.seconds = progress.tokens, progress.step_seconds
    if marks.steps < FORECAST_AFTER or run.foreseen:
        return
    run.foreseen = True
    seen, fill = progress.tokens - marks.tokens, progress.tokens / max(progress.padded, 1)
    coming = outlook(
        run.settings,
        run.flops,
        seen / max(progress.step_seconds - marks.seconds, 1e-9),
        progress.stage,
        fill=fill,
        weights=sum(weight.numel() for weight in run.objective.model.parameters()),
        corpus=run.corpus.tokens,
    )
    for sentence in [*coming.sentences, *([f"Warning: {coming.warning}"] if coming.warning else [])]:
        run.console.say(sentence)


def record(run: Run, metrics: Metrics, split: str, figures: dict[str, Any]) -> None:
    """Write one line of measurements."""
    known = {key: value if value is None or math.isfinite(value) else None for key, value in figures.items()}
    counts = {"tokens": run.progress.tokens, "seconds": round(run.progress.seconds, 3)}
    metrics.write({"step": run.progress.step, "split": split, **known, **counts})


def after(run: Run, metrics: Metrics | None, marks: _Marks) -> None:
    """What is done between steps: evaluate, keep models, write checkpoints."""
    settings, progress = run.settings, run.progress
    done = share(settings, progress)
    last = over(run)
    if last or progress.step - marks.evaluated >= eval_every(settings, done):
        marks.evaluated = progress.step
        develop(run, metrics)
    for hours in settings.finetune_hours:
        if progress.seconds >= HOUR * hours and hours not in progress.kept:
            keep_model(run, hours)
            progress.kept.append(hours)
    good = progress.step % settings.rollback_every == 0 and not progress.guard.bad
    long_ago = run.main and time.perf_counter() - marks.saved > 60 * settings.checkpoint_minutes
    if good or anywhere(run.accelerator, long_ago):  # one clock decides for all
        secure(run, metrics)
        marks.saved = time.perf_counter()


def develop(run: Run, metrics: Metrics | None) -> None:
    """Evaluate, and stop the run where it should be stopped for what came out."""
    settings, progress = run.settings, run.progress
    found = evaluate(run, settings.eval_samples)
    run.tick()
    progress.evaluations += 1
    progress.dev_step, progress.dev_loss, progress.dev_accuracy = progress.step, found.loss, found.answers.accuracy
    figures: dict[str, Any] = {"loss": found.loss, "accuracy": found.answers.accuracy}
    if found.sentence_accuracy is not None:
        figures["sentence_accuracy"] = found.sentence_accuracy
    if metrics:
        record(run, metrics, "dev", {**figures, "learning_rate": None, "length": run.length})
        run.log({f"dev_{name}": value for name, value in figures.items()}, progress.step)
    accuracy = 100 * found.answers.accuracy
    run.console.say(f"step {progress.step:,}: held-out loss {found.loss:.4f}, accuracy {accuracy:.2f} %")
    limit = settings.early_stop_loss
    if limit is not None and progress.seconds >= 60 * settings.early_stop_minutes and not found.loss <= limit:
        progress.stopped = f"the held-out loss was {found.loss:.4f} after {progress.seconds / 60:.1f} minutes"


def secure(run: Run, metrics: Metrics | None) -> None:
    """Write the state; at multiples of `rollback_every` steps it is also the one to roll back to.

    Raises
    ------
    TrainingDivergedError
        If a weight is no finite number; the state before stays.
    """
    progress, folder = run.progress, run.folder
    with writing(folder, "the state"):
        if metrics:
            progress.metrics_bytes = metrics.secure()
        began = run.tick()
        sound = save_state(folder.checkpoint, run.learner, progress)
    if not sound:
        raise TrainingDivergedError(
            f"The weights are no numbers any more after step {progress.step:,}. The last good state is kept in "
            f"{folder.checkpoint}."
        )
    keep_good(run)
    progress.save_seconds += run.tick() - began


def keep_good(run: Run) -> None:
    """Let the state that was written be the one to roll back to, where it is one of those."""
    progress = run.progress
    if run.main and progress.step % run.settings.rollback_every == 0 and not progress.guard.bad:
        link_good(run.folder.checkpoint, good_state(run.folder))
