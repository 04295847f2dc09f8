"""What is recorded while the Hugging Face Trainer trains: ``metrics.jsonl``, a line for each step and evaluation."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import (
    Trainer,
    TrainerCallback,
)

from nip.runs.console import Console
from nip.runs.folder import (
    Metrics,
    add_to_run_file,
    read_metrics,
)
from nip.training.train_step import TrainingDivergedError

ADVICE = "Lower --learning_rate, or start from other weights. Checkpoints written before this are kept."


class RecordedTrainer(Trainer):  # type: ignore[misc]
    """A Trainer that passes the loss and the tokens of every micro-batch to a `MetricsRecorder`.

    To record another Trainer inherit from both: ``class RecordedSeq2SeqTrainer(RecordedTrainer, Seq2SeqTrainer)``.
    """

    def __init__(self, *arguments: Any, recorder: MetricsRecorder, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.recorder = recorder
        recorder.trainer = self
        self.add_callback(recorder)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """The Trainer's forward and backward pass of a micro-batch, recorded."""
        ids = inputs.get("input_ids")
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        self.recorder.add(loss.detach(), 0 if ids is None else ids.numel(), num_items_in_batch)
        return loss

    def evaluation_loop(self, *arguments: Any, **named: Any) -> Any:
        """The Trainer's loop; raises TrainingDivergedError if weights, predictions or the loss are NaN or Inf."""
        check_weights(self.model)
        output = super().evaluation_loop(*arguments, **named)
        check_evaluation(output)
        for name in [name for name in output.metrics or () if name.endswith("_model_preparation_time")]:
            del output.metrics[name]  # measured only if nothing was trained before
        return output

    def _save_checkpoint(self, *arguments: Any, **named: Any) -> None:
        """The Trainer's; it writes no checkpoint of weights that are NaN or Inf, after which none could be resumed."""
        self.recorder.write_steps(self.args.world_size)
        check_weights(self.model)
        with one_sentence_on_full_disk(Path(self.args.output_dir)):
            super()._save_checkpoint(*arguments, **named)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """The Trainer's; OSError with what to do if it cannot be written."""
        if _internal_call:  # within `_save_checkpoint`
            super().save_model(output_dir, _internal_call)
            return
        with one_sentence_on_full_disk(Path(output_dir or self.args.output_dir)):
            super().save_model(output_dir, _internal_call)


@contextmanager
def one_sentence_on_full_disk(folder: Path) -> Iterator[None]:
    """Raise OSError with what to do where torch or safetensors cannot write; they have errors of their own."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        signs = ("No space left", "File too large", "Disk quota", "PytorchStreamWriter failed", "unexpected pos")
        if isinstance(error, OSError) or any(sign in str(error) for sign in signs):
            reason = " ".join(str(error).split())[:200]
            raise OSError(
                f"{folder} cannot be written ({reason}). Checkpoints written before are kept: free space, and repeat "
                "the command to resume."
            ) from error
        raise


def check_weights(model: torch.nn.Module) -> None:
    """Raise TrainingDivergedError if a weight is NaN or Inf."""
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not bool(weight.detach().isfinite().all()):
            raise TrainingDivergedError(
                f"The weights of {name} contain NaN or Inf: nothing is saved or predicted. {ADVICE}"
            )


def check_evaluation(output: Any) -> None:
    """Raise TrainingDivergedError if predictions or the loss of an evaluation are NaN or Inf."""
    predictions = output.predictions if isinstance(output.predictions, tuple | list) else (output.predictions,)
    for values in predictions:
        if isinstance(values, np.ndarray) and values.dtype.kind == "f" and not np.isfinite(values).all():
            raise TrainingDivergedError(f"Predictions contain NaN or Inf. {ADVICE}")
    for name, value in (output.metrics or {}).items():
        if name.endswith("_loss") and not math.isfinite(value):
            raise TrainingDivergedError(f"{name} is NaN or Inf. {ADVICE}")


class MetricsRecorder(TrainerCallback):  # type: ignore[misc]
    """Writes ``metrics.jsonl``, one line per step and per evaluation, and prints progress.

    A step's loss is the mean over its micro-batches and processes. Losses stay on the device until they are written, so
    that recording needs no synchronization. A restart truncates the file to the checkpoint: in the end it is the same
    as that of an uninterrupted run.

    Parameters
    ----------
    path : Path
        The file.
    console : Console
        Prints and logs progress.
    main : bool
        Whether this is the main process, which writes.
    """

    def __init__(self, path: Path, console: Console, *, main: bool) -> None:
        self.path = path
        self.trainer: RecordedTrainer | None = None
        self._console, self._main, self._training = console, main, False
        self._file: Metrics | None = None
        self._step_loss: torch.Tensor | None = None
        self._items: Any = None
        self._steps: list[tuple[int, torch.Tensor, float, int, float]] = []
        self._step_items: list[Any] = []
        self._tokens, self._seconds, self._mark, self._rate = 0, 0.0, 0.0, 0.0

    def add(self, loss: torch.Tensor, tokens: int, items: Any = None) -> None:
        """Add a micro-batch to the step.

        Parameters
        ----------
        loss : Tensor of shape ()
            Its share of the loss.
        tokens : int
            Its tokens in this process.
        items : Tensor or int, optional
            The number of labels of the whole step, if known: a step without any has no loss.
        """
        self._items = items
        self._step_loss = loss if self._step_loss is None else self._step_loss + loss
        self._tokens += tokens

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Truncate the file to the step from which training resumes."""
        rows = read_metrics(self.path) if state.global_step and self.path.is_file() else []
        kept = [row for row in rows if row["step"] <= state.global_step]
        steps = [row for row in kept if row["split"] == "train"]
        if steps:
            self._tokens = steps[-1]["tokens"] // args.world_size
            self._seconds = steps[-1]["seconds"]
        if self._main:
            add_to_run_file(self.path.parent, planned_steps=state.max_steps)
            self._file = Metrics(self.path, 0)
            for row in kept:
                self._file.write(row)
            self._file.secure()
        self._mark, self._training = time.monotonic(), True

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Keep the step's learning rate, before the scheduler changes it."""
        if self.trainer is not None:
            self._rate = float(self.trainer.optimizer.param_groups[0]["lr"])

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Keep the step's loss, tokens and time."""
        now = time.monotonic()
        self._seconds += now - self._mark
        self._mark = now
        if self._step_loss is not None:
            self._steps.append((state.global_step, self._step_loss, self._rate, self._tokens, self._seconds))
            self._step_items.append(self._items)
            if self._step_loss.device.type == "cpu" and args.world_size == 1 and not bool(self._step_loss.isfinite()):
                self.write_steps(args.world_size)  # raises; on other devices a look at every loss would take time
            self._step_loss = None

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **more: Any) -> None:
        """Write the steps so far, and print the loss."""
        self.write_steps(args.world_size)
        logs = logs or {}
        if "loss" in logs:
            self._console.say(f"step {state.global_step:,} of {state.max_steps:,}  loss {float(logs['loss']):.4f}")
        self._mark = time.monotonic()

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Mapping[str, Any], **more: Any) -> None:
        """Write the evaluation, and print it while training: the last one is printed with the result."""
        self.write_steps(args.world_size)
        own = {name[5:]: value for name, value in metrics.items() if name.startswith("eval_")}
        figures = {name: value for name, value in own.items() if is_metric(name) and isinstance(value, int | float)}
        if self._training:
            self._console.say(f"step {state.global_step:,}  evaluated: {format_metrics(figures)}")
        if self._file is not None:
            counts = {"tokens": self._tokens * args.world_size, "seconds": self._seconds}
            finite = {name: finite_or_none(value) for name, value in figures.items()}
            self._file.write({"step": state.global_step, "split": "dev", **finite, **counts})
            self._file.secure()
        self._mark = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Write the steps that the checkpoint includes."""
        self.write_steps(args.world_size)
        self._mark = time.monotonic()

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Write the last steps and close the file: later evaluations are not those of training."""
        self.write_steps(args.world_size)
        if self._file is not None:
            self._file.close()
        self._file, self._training = None, False

    def write_steps(self, processes: int) -> None:
        """Write the steps so far; raises TrainingDivergedError if a loss is NaN or Inf."""
        if not self._steps:
            return
        losses = torch.stack([loss.float() for _, loss, *_ in self._steps])
        if processes > 1 and self.trainer is not None:
            losses = self.trainer.accelerator.reduce(losses, reduction="mean")
        diverged: int | None = None
        for (step, _, rate, tokens, seconds), loss, items in zip(
            self._steps, losses.tolist(), self._step_items, strict=True
        ):
            # such as a step without masked tokens
            empty = items is not None and int(torch.as_tensor(items, device="cpu").sum()) == 0
            row = {
                "step": step,
                "split": "train",
                "loss": None if empty else finite_or_none(loss),
                "learning_rate": rate,
            }
            if self._file is not None:
                self._file.write({**row, "tokens": tokens * processes, "seconds": seconds})
            if not math.isfinite(loss):
                diverged = step
                break
        self._steps, self._step_items = [], []
        if self._file is not None:
            self._file.secure()
        if diverged is not None:
            raise TrainingDivergedError(f"The loss is NaN or Inf at step {diverged:,}: training has diverged. {ADVICE}")


class SaveBestModel(TrainerCallback):  # type: ignore[misc]
    """Saves a checkpoint after every best evaluation so far, in addition to those of ``--save_steps``.

    Otherwise the best model would be lost if it falls between two checkpoints, or if the run ends before the first.
    """

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Mapping[str, Any], **more: Any) -> None:
        """Request a checkpoint if the metric has improved."""
        name = args.metric_for_best_model or "loss"
        value = metrics.get(name if name.startswith("eval_") else f"eval_{name}")
        if value is not None and state.global_step:
            best = state.best_metric
            better = best is None or (value > best if args.greater_is_better else value < best)
            control.should_save = control.should_save or better


def finite_or_none(value: float | None) -> float | None:
    """The number; None for NaN and Inf, which JSON lacks."""
    return value if value is not None and math.isfinite(value) else None


def is_metric(name: str) -> bool:
    """Whether an evaluation's figure is a metric, not a time."""
    return not name.endswith(("runtime", "per_second", "preparation_time"))


def format_metrics(metrics: Mapping[str, float]) -> str:
    """Metrics on one line.

    Examples
    --------
    >>> format_metrics({"accuracy": 0.5, "f1": 2 / 3})
    'accuracy 0.5000  f1 0.6667'
    """
    return "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
