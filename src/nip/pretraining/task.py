"""A stage of pretraining, with samples of one length, as a `TrainingTask`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nip.data.corpus import Corpus
from nip.pretraining.budget import HOUR, batch_size_at, end_reason, eval_every, learning_rate, share, stage_at
from nip.pretraining.export import export_model
from nip.pretraining.microbatches import Lookahead, training_micro_batches
from nip.pretraining.model import MaskedLMObjective, masked_lm_sums, total_loss
from nip.pretraining.settings import Settings
from nip.pretraining.setup import masking_of, micro_batch_size
from nip.pretraining.throughput import forecast_run
from nip.pretraining.validation import evaluate
from nip.training.train_step import Batch, BatchTotals, LossSums, MicroBatch, StepResult
from nip.training.trainer import Run, TrainingTask, checkpoint

FORECAST_AFTER = 4  # steps since the start; the first is a warm-up


@dataclass
class PretrainingTask(TrainingTask):
    """Masked-token prediction, and next-sentence prediction if the settings ask for it.

    Parameters
    ----------
    settings : Settings
    corpus, validation : Corpus
        Training samples and held-out samples, of the stage's length.
    flops : list of float
        Model FLOPs of training on one token, by stage.
    peak : float
        Measured peak FLOP/s of all devices together.
    forecast_done : bool
        Whether the forecast of the run was printed.
    """

    settings: Settings
    corpus: Corpus
    validation: Corpus
    flops: list[float]
    peak: float
    forecast_done: bool = False
    held_out: str = "dev"
    _steps: int = 0
    _first: tuple[int, float] = (0, 0.0)
    _lookahead: Lookahead[..., list[MicroBatch]] = field(default_factory=lambda: Lookahead(training_micro_batches))

    @property
    def length(self) -> int:
        """Tokens of a sample."""
        return self.corpus.max_seq_length

    def finished(self, run: Run) -> bool:
        """Whether the run or its stage ends here."""
        return self.over(run) or stage_at(self.settings, self.share_done(run)) > run.progress.stage

    def over(self, run: Run) -> bool:
        """Whether the budget is used up, or the run was stopped before."""
        progress, exit_at = run.progress, self.settings.early_exit_hours
        if end_reason(self.settings, progress) is not None or progress.stopped is not None:
            return True
        if exit_at is not None and progress.seconds >= HOUR * exit_at:
            progress.stopped = f"the early exit is at {exit_at:g} hours"
        return progress.stopped is not None

    def share_done(self, run: Run) -> float:
        """The used share of the budget."""
        return share(self.settings, run.progress)

    def batch(self, run: Run) -> Batch:
        """The next samples of the corpus, masked; those of the step after are prepared in a thread."""
        settings, accelerator, first = self.settings, run.accelerator, run.progress.stage_samples
        processes = accelerator.num_processes
        count = batch_size_at(settings, self.share_done(run))
        size = micro_batch_size(settings, self.length, accelerator.device, processes)
        size, masking = min(size, count // processes), masking_of(settings, self.length)
        place = {"seed": settings.seed, "process": accelerator.process_index, "processes": processes}
        micro_batches = self._lookahead.get(self.corpus, first, count, size, masking, **place)
        self._lookahead.start(self.corpus, first + count, count, size, masking, **place)
        return Batch(micro_batches, count)

    def learning_rate(self, run: Run) -> tuple[float, float | None]:
        """From the schedule of the settings; beta1 is constant."""
        return learning_rate(self.settings, run.progress), None

    def loss(self, run: Run, micro_batch: MicroBatch, totals: BatchTotals) -> LossSums:
        """The micro-batch's share of the mean loss, and its correct predictions.

        Parameters
        ----------
        run : Run
        micro_batch : MicroBatch
        totals : BatchTotals

        Returns
        -------
        LossSums
        """
        sums = masked_lm_sums(run.state.model, run.accelerator, micro_batch, self.settings.precision)
        total = total_loss(sums, totals.targets, totals.samples)
        return LossSums(total, total, sums.correct)

    def mean_loss(self, loss_sum: float, totals: BatchTotals) -> float:
        """The sum itself: micro-batches report shares of the mean."""
        return loss_sum

    def after_step(self, run: Run, result: StepResult, seconds: float) -> dict[str, Any]:
        """Count samples, padding and FLOPs, and pass the step's metrics to the experiment trackers.

        Parameters
        ----------
        run : Run
        result : StepResult
        seconds : float
            That the step took.

        Returns
        -------
        dict
            Further metrics of the step.
        """
        settings, progress, (_, tokens, samples) = self.settings, run.progress, result.totals
        flops = self.flops[progress.stage] * tokens
        progress.stage_samples += samples
        progress.padded_tokens += samples * self.length
        progress.flops += flops
        more: dict[str, Any] = {
            "grad_norm": result.grad_norm, "batch": samples, "length": self.length, "samples": progress.samples
        }  # fmt: skip
        if result.loss_scale is not None:
            more["loss_scale"] = result.loss_scale
        if run.main and progress.step % settings.log_every == 0:
            rate = run.state.optimizer.param_groups[0]["lr"]
            metrics = {"loss": result.loss, "accuracy": result.accuracy, "learning_rate": rate}
            speed = {"tokens_per_second": tokens / seconds, "samples_per_second": samples / seconds}
            run.log({**metrics, **more, **speed, "mfu": flops / seconds / self.peak}, progress.step)
        self._print_forecast(run)
        return more

    def _print_forecast(self, run: Run) -> None:
        """Print a forecast of the run, once its speed is known."""
        progress = run.progress
        self._steps += 1
        if self._steps == 1:
            self._first = (progress.tokens, progress.training_seconds)
        if self._steps < FORECAST_AFTER or self.forecast_done:
            return
        self.forecast_done = True
        tokens, seconds = self._first
        objective = run.state.unwrapped_model
        assert isinstance(objective, MaskedLMObjective)
        forecast = forecast_run(
            self.settings,
            self.flops,
            (progress.tokens - tokens) / max(progress.training_seconds - seconds, 1e-9),
            progress.stage,
            fill=progress.tokens / max(progress.padded_tokens, 1),
            weights=sum(weight.numel() for weight in objective.model.parameters()),
            corpus=self.corpus.tokens,
        )
        for sentence in [*forecast.sentences, *([f"Warning: {forecast.warning}"] if forecast.warning else [])]:
            run.console.say(sentence)

    def evaluation_due(self, run: Run) -> bool:
        """Every `budget.eval_every` steps, and at the end of the run."""
        last = self.over(run)
        return last or run.progress.step - run.progress.dev_step >= eval_every(self.settings, self.share_done(run))

    def validate(self, run: Run) -> dict[str, Any]:
        """Evaluate on held-out samples, and stop the run if the loss is above the early-stop limit."""
        settings, progress = self.settings, run.progress
        found = evaluate(run, settings, self.validation, settings.eval_samples)
        run.tick()
        metrics: dict[str, Any] = {"loss": found.loss, "accuracy": found.counts.accuracy}
        if found.sentence_accuracy is not None:
            metrics["sentence_accuracy"] = found.sentence_accuracy
        if run.main:
            run.log({f"dev_{name}": value for name, value in metrics.items()}, progress.step)
        accuracy = 100 * found.counts.accuracy
        run.console.say(f"step {progress.step:,}: held-out loss {found.loss:.4f}, accuracy {accuracy:.2f} %")
        limit = settings.early_stop_loss
        if limit is not None and progress.seconds >= 60 * settings.early_stop_minutes and not found.loss <= limit:
            progress.stopped = f"the held-out loss was {found.loss:.4f} after {progress.seconds / 60:.1f} minutes"
        return {**metrics, "learning_rate": None, "length": self.length}

    def between_steps(self, run: Run) -> None:
        """Export the model after each of `Settings.finetune_hours`."""
        progress = run.progress
        for hours in self.settings.finetune_hours:
            if progress.seconds >= HOUR * hours and hours not in progress.kept:
                export_model(run, self.settings, self.corpus, hours)
                progress.kept.append(hours)

    def at_end(self, run: Run) -> None:
        """Start the next stage unless the run is over, and write a checkpoint."""
        progress = run.progress
        if not self.over(run):
            progress.stage, progress.stage_samples = progress.stage + 1, 0
            progress.loss_spikes.reset()
        checkpoint(run)

    def close(self) -> None:
        """End the thread that prepares batches."""
        self._lookahead.close()
