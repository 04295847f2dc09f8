"""What is recorded while the Trainer trains: a line a step and an evaluation, exact also after a restart."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from nip.finetuning.folder import output_folder
from nip.training.console import Console
from nip.training.runs import Metrics, read_metrics, read_run_file, write_run_file


class Recorder(TrainerCallback):  # type: ignore[misc]
    """Writes ``metrics.jsonl`` and says how the run goes.

    A step's loss is the mean over everything that the step covers, in all processes. Losses stay on the device until
    something is to be written, so that recording them costs no waiting. After a restart the file is cut back to the
    checkpoint, so that it is in the end the same as without one.

    Parameters
    ----------
    path : Path
        The file.
    console : Console
        Says what is logged; silent in all processes but the first.
    main : bool
        Whether this process writes.
    """

    def __init__(self, path: Path, console: Console, *, main: bool) -> None:
        self.path = path
        self.trainer: Recorded | None = None
        self._console, self._main, self._training = console, main, False
        self._file: Metrics | None = None
        self._open_loss: torch.Tensor | None = None
        self._steps: list[tuple[int, torch.Tensor, float, int, float]] = []
        self._tokens, self._seconds, self._mark, self._rate = 0, 0.0, 0.0, 0.0

    def add(self, loss: torch.Tensor, tokens: int) -> None:
        """Take note of a part of a step: its share of the loss, and its tokens in this process."""
        self._open_loss = loss if self._open_loss is None else self._open_loss + loss
        self._tokens += tokens

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Cut the file back to the step from which training goes on."""
        kept = [row for row in _rows(self.path) if row["step"] <= state.global_step] if state.global_step else []
        steps = [row for row in kept if row["split"] == "train"]
        if steps:
            self._tokens = steps[-1]["tokens"] // args.world_size
            self._seconds = steps[-1]["seconds"]
        if self._main:
            facts = read_run_file(self.path.parent) or {}
            write_run_file(output_folder(self.path.parent), {**facts, "planned_steps": state.max_steps})
            self._file = Metrics(self.path, 0)
            for row in kept:
                self._file.write(row)
            self._file.secure()
        self._mark, self._training = time.monotonic(), True

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Note the rate that the step is taken with."""
        if self.trainer is not None:
            self._rate = float(self.trainer.optimizer.param_groups[0]["lr"])

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Close the step."""
        now = time.monotonic()
        self._seconds += now - self._mark
        self._mark = now
        if self._open_loss is not None:
            self._steps.append((state.global_step, self._open_loss, self._rate, self._tokens, self._seconds))
            self._open_loss = None

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **more: Any) -> None:
        """Write what is noted, and say it."""
        self._write_steps(args.world_size)
        logs = logs or {}
        if "loss" in logs:
            self._console.say(f"step {state.global_step:,} of {state.max_steps:,}  loss {float(logs['loss']):.4f}")
        self._mark = time.monotonic()

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Mapping[str, Any], **more: Any) -> None:
        """Write the evaluation."""
        self._write_steps(args.world_size)
        own = {name[5:]: value for name, value in metrics.items() if name.startswith("eval_")}
        timing = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")
        figures = {name: value for name, value in own.items() if name not in timing and isinstance(value, int | float)}
        if self._training:  # the last evaluation is told with the result
            said = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
            self._console.say(f"step {state.global_step:,}  evaluated: {said}")
        if self._file is not None:
            counts = {"tokens": self._tokens * args.world_size, "seconds": self._seconds}
            self._file.write({"step": state.global_step, "split": "dev", **_finite(figures), **counts})
            self._file.secure()
        self._mark = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Force to the disk what a checkpoint counts on."""
        self._write_steps(args.world_size)
        self._mark = time.monotonic()

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Write what is left; evaluations from now on are no part of the course."""
        self._write_steps(args.world_size)
        if self._file is not None:
            self._file.close()
        self._file, self._training = None, False

    def _write_steps(self, processes: int) -> None:
        if not self._steps:
            return
        losses = torch.stack([loss.float() for _, loss, *_ in self._steps])
        if processes > 1 and self.trainer is not None:
            losses = self.trainer.accelerator.reduce(losses, reduction="mean")
        for (step, _, rate, tokens, seconds), loss in zip(self._steps, losses.tolist(), strict=True):
            row = {"step": step, "split": "train", **_finite({"loss": loss}), "learning_rate": rate}
            if self._file is not None:
                self._file.write({**row, "tokens": tokens * processes, "seconds": seconds})
        self._steps = []
        if self._file is not None:
            self._file.secure()


class BestIsSaved(TrainerCallback):  # type: ignore[misc]
    """Saves a checkpoint after every evaluation that is the best so far, whatever ``--save_steps`` says.

    Otherwise the best model would be lost where it falls between two checkpoints, or where the run ends before the
    first.
    """

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Mapping[str, Any], **more: Any) -> None:
        """Ask for a checkpoint where the metric is better than the best known."""
        name = args.metric_for_best_model or "loss"
        value = metrics.get(name if name.startswith("eval_") else f"eval_{name}")
        if value is not None and state.global_step:
            best = state.best_metric
            better = best is None or (value > best if args.greater_is_better else value < best)
            control.should_save = control.should_save or better


class Recorded(Trainer):  # type: ignore[misc]
    """A Trainer that tells a `Recorder` the loss and the tokens of every part of a step.

    Mixed with another Trainer where one is needed: ``class RecordedSeq2Seq(Recorded, Seq2SeqTrainer)``.
    """

    def __init__(self, *arguments: Any, recorder: Recorder, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.recorder = recorder
        recorder.trainer = self
        self.add_callback(recorder)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """A step's part, as the Trainer does it, with its loss and tokens noted."""
        ids = inputs.get("input_ids")
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        self.recorder.add(loss.detach(), 0 if ids is None else ids.numel())
        return loss


def _rows(path: Path) -> list[dict[str, Any]]:
    return read_metrics(path) if path.is_file() else []


def _finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}
