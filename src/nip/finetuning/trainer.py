"""How every finetuning task runs: claim the folder, train or go on, evaluate, predict, and say what came of it.

A new task is a function that makes a `TaskSetup` of a `Command`, and a call::

    def main(words: Sequence[str]) -> dict[str, Any]:
        command = parse(words, QaArguments, program="nip qa")
        with begin(command, kind="qa", task="squad") as claim:
            setup = prepare(command)          # data, model, metrics: everything that can be wrong is told here
            return run_task(command, setup, claim)

Training that was stopped goes on with the same command and comes to the same weights; training that has ended is not
repeated, and its model is evaluated and predicts.

What is recorded while the Trainer trains: a line a step and an evaluation, exact also after a restart.

What a task hands to the run that trains, evaluates and predicts.

What decides the numbers of a run: two commands that agree in it mean the same run.

What came of a run: ``result.json``, ``run.json``, and the words on the console.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
)
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_callback import ProgressCallback, TrainerState

from nip.finetuning.arguments import Command, described
from nip.finetuning.datasets import disable_progress_bars
from nip.finetuning.evaluate_checkpoints import draw_curves
from nip.finetuning.output_dir import OWNED, STATE_FILE, Claim, claimed_output, clear
from nip.models.huggingface.config import ENTRY
from nip.models.huggingface.norms import NORM, RMS, swap
from nip.runs.accuracy import learned, wilson_interval
from nip.runs.console import Console
from nip.runs.environment import environment
from nip.runs.folder import (
    Metrics,
    add_to_run_file,
    file_sha256,
    read_metrics,
    read_run_file,
    write_json,
    write_manifest,
)
from nip.runs.process import peak_mib
from nip.runs.record import RunRecord, write_record


class MetricsRecorder(TrainerCallback):  # type: ignore[misc]
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
        self.trainer: RecordedTrainer | None = None
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
            add_to_run_file(self.path.parent, planned_steps=state.max_steps)
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


class SaveBestModel(TrainerCallback):  # type: ignore[misc]
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


class RecordedTrainer(Trainer):  # type: ignore[misc]
    """A Trainer that tells a `MetricsRecorder` the loss and the tokens of every part of a step.

    Mixed with another Trainer where one is needed: ``class RecordedSeq2SeqTrainer(RecordedTrainer, Seq2SeqTrainer)``.
    """

    def __init__(self, *arguments: Any, recorder: MetricsRecorder, **named: Any) -> None:
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


@dataclass
class TaskSetup:
    """What a task brings to be trained, evaluated and predicted.

    Parameters
    ----------
    kind, task : str
        Such as ``glue`` and ``mrpc``: a report groups runs by the task.
    model, tokenizer
        From `nip.finetuning.model_loading`.
    seq_len : int
        Tokens of an input at most; with the block size it says which graph a report shows.
    train : Dataset or None
        Examples as the model takes them, with ``labels``.
    evaluation : mapping of str to Dataset
        Sets to evaluate; the first is the one that is evaluated while training. Names of the others begin the names of
        their metrics: ``{"": matched, "mm": mismatched}``.
    collator : callable
        Makes a batch of examples.
    metrics : callable or None
        What ``Trainer`` calls `compute_metrics`. Shares between 0 and 1.
    metric : str
        The one that counts, under its name without ``eval_``.
    metric_names : tuple of str
        All of them: ``--metric_for_best_model`` is checked against these, ``loss`` and ``runtime`` come by themselves.
    loss : callable or None
        ``loss(outputs, labels, num_items_in_batch)``, from `nip.finetuning.losses`: the mean over all that a step
        covers. None: the model's own, divided by the number of parts of a step.
    reduce_logits : callable or None
        What ``Trainer`` calls `preprocess_logits_for_metrics`: keeps memory bounded.
    describe : callable or None
        ``describe(metrics)`` gives further fields of ``result.json``: ``n_test``, ``baselines``, ``interval``.
    predict : callable or None
        ``predict(trainer, folder)`` writes predictions and returns the files.
    data : mapping
        What the data is, by content: a run with other data is another run.
    trainer_class : type, default=RecordedTrainer
        Another Trainer, mixed with `RecordedTrainer`.
    trainer_settings : mapping
        What it takes beside.
    after : callable or None
        ``after(trainer, folder, metrics)`` is called at the end, to write what else the task leaves.
    """

    kind: str
    task: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    seq_len: int
    train: Any
    evaluation: Mapping[str, Any]
    collator: Callable[..., Any]
    metrics: Callable[[Any], dict[str, float]] | None
    metric: str
    metric_names: tuple[str, ...]
    loss: Callable[..., Any] | None = None
    reduce_logits: Callable[..., Any] | None = None
    describe: Callable[[Mapping[str, float]], Mapping[str, Any]] | None = None
    predict: Callable[[Any, Path], list[Path]] | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    trainer_class: type = RecordedTrainer
    trainer_settings: Mapping[str, Any] = field(default_factory=dict)
    after: Callable[[Any, Path, Mapping[str, float]], None] | None = None


# Settings of TrainingArguments that decide a run's numbers; all others may change between two starts.
DECISIVE = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "weight_decay", "adam_beta1"),
    *("adam_beta2", "adam_epsilon", "max_grad_norm", "num_train_epochs", "max_steps", "lr_scheduler_type"),
    *("lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args", "seed", "data_seed", "fp16", "bf16"),
    *("label_smoothing_factor", "train_sampling_strategy", "dataloader_drop_last", "neftune_noise_alpha"),
    *("load_best_model_at_end", "metric_for_best_model", "greater_is_better", "eval_strategy", "eval_steps"),
    *("eval_delay", "full_determinism"),
)
DECISIVE_IN_RUN = ("early_stopping_patience", "early_stopping_threshold", "max_train_samples", "max_eval_samples")
DECISIVE_IN_MODEL = ("model_name_or_path", "config_name", "tokenizer_name", "model_revision", "ignore_mismatched_sizes")


def decisive(command: Command, processes: int) -> dict[str, Any]:
    """What decides the numbers of a run, as JSON values."""
    training, run, model = described(command.training), described(command.run), described(command.model)
    attention = command.attention
    free = getattr(command.task, "FREE", ())  # what a task says may change between two starts, such as a test file
    graph = {"attention": attention.attention}
    if attention.graph:
        graph = {"graph": attention.graph, "graph_file": file_sha256(Path(attention.graph))}
    if attention.attention_layers is not None:
        graph["attention_layers"] = attention.attention_layers
    chosen: dict[str, Any] = {
        **graph,
        "param": attention.parameters,
        "block_size": attention.block_size,
        "extend_positions": attention.extend_positions,
        **{name: model[name] for name in DECISIVE_IN_MODEL},
        **{name: value for name, value in described(command.task).items() if name not in free},
        **{name: run[name] for name in DECISIVE_IN_RUN},
        **{name: training[name] for name in DECISIVE if name in training},
    }
    if processes > 1:
        chosen["processes"] = processes
    return chosen


def outcome(
    command: Command, setup: TaskSetup, trained: Mapping[str, Any], measured: Mapping[str, float], metrics: Path
) -> dict[str, Any]:
    """What ``result.json`` says."""
    rows = read_metrics(metrics) if metrics.is_file() and command.training.do_train else []
    steps = [row for row in rows if row["split"] == "train"]
    losses = [row["loss"] for row in steps if row["loss"] is not None]  # a loss that is no number is null
    developed = [row[setup.metric] for row in rows if row["split"] == "dev" and row.get(setup.metric) is not None]
    more = dict(setup.describe(measured)) if setup.describe is not None and measured else {}
    score, graph = finite(measured.get(setup.metric)), graph_facts(setup.model)
    best = [row for row in rows if row["split"] == "dev" and row["step"] == trained.get("best_step")]
    result: dict[str, Any] = {
        "kind": setup.kind,
        "task": setup.task,
        "model": graph["pattern"],
        "parameters": graph["parameters"],
        "metric": setup.metric,
        "score": score,
        "test_accuracy": finite(measured.get("accuracy")),
        "tested_on": "validation",
        "dev_accuracy": best[-1].get(setup.metric) if best else (max(developed) if developed else None),
        **{name: trained.get(name) for name in ("best_step", "steps", "planned_steps")},
        "seconds": steps[-1]["seconds"] if steps else None,
        "tokens_per_second": steps[-1]["tokens"] / steps[-1]["seconds"] if steps and steps[-1]["seconds"] else None,
        "peak_mib": peak_mib(setup.model.device),
        "train_loss": sum(losses) / len(losses) if losses and len(losses) == len(steps) else None,
        **more,
        "metrics": {name: finite(value) for name, value in measured.items() if is_metric(name)},
    }
    asked, accuracy = result.get("n_test"), result["test_accuracy"]
    if accuracy is not None and asked and "interval" not in result:
        result["interval"] = list(wilson_interval(round(accuracy * asked), asked))
    if result.get("interval") and result.get("baselines"):
        result["learnt"] = learned(tuple(result["interval"]), result["baselines"])
    return result


def record_of(command: Command, setup: TaskSetup, processes: int) -> RunRecord:
    """The record of a run that begins."""
    entry = getattr(setup.model.config, "nip", None) or {}
    training = command.training
    graph = graph_facts(setup.model)
    return RunRecord(
        kind=setup.kind,
        task=setup.task,
        metric=setup.metric,
        pattern=graph["pattern"],
        parameters=graph["parameters"],
        block_size=graph["block_size"],
        seq_len=setup.seq_len,
        layers=entry.get("layers"),
        checksum=graph["checksum"],
        data=dict(setup.data),
        batch_size=training.per_device_train_batch_size * training.gradient_accumulation_steps * processes,
        seed=training.seed,
        settings=decisive(command, processes),
        planned_steps=training.max_steps if training.max_steps > 0 else None,
        command=list(command.words),
    )


def graph_facts(model: PreTrainedModel) -> dict[str, Any]:
    """The graph of a model's layers: its name, parameters, block size; of one without a name the checksum."""
    entry = getattr(model.config, "nip", None) or {}
    graph = entry.get("default") or {"pattern": "softmax", "block_size": 1}
    return {
        "pattern": graph["pattern"],
        "parameters": graph.get("parameters", {}),
        "block_size": graph["block_size"],
        "checksum": graph.get("checksum"),
    }


def report(command: Command, result: Mapping[str, Any]) -> None:
    """Print what came of a run: in words, or as JSON where the command asks for it."""
    if not PartialState().is_main_process:
        return
    if command.run.json:
        print(json.dumps(result, allow_nan=False, indent=2))
        return
    for name, value in result["metrics"].items():
        print(f"{name:24} {'no number' if value is None else format(value, '.4f')}")
    print(command.training.output_dir)
    sys.stdout.flush()


def finite(value: float | None) -> float | None:
    """The number; None for what JSON has no word for."""
    return value if value is not None and math.isfinite(value) else None


def is_metric(name: str) -> bool:
    """Whether an evaluation's figure is a metric, not a time."""
    return not name.endswith(("runtime", "per_second", "preparation_time"))


@contextmanager
def begin(command: Command, *, kind: str, task: str) -> Iterator[Claim]:
    """Claim the output folder for a run, and refuse another run's; nothing is deleted yet.

    Without ``--output_dir`` it is ``KIND-TASK-PATTERN-seedSEED`` in the folder of runs.

    Raises
    ------
    ValueError
        As `nip.finetuning.output_dir.claimed_output` does.
    """
    from nip.data import runs_folder

    training = command.training
    if "output_dir" not in command.given:
        pattern = Path(command.attention.graph).stem if command.attention.graph else command.attention.attention
        training.output_dir = str(runs_folder() / f"{kind}-{task}-{pattern}-seed{training.seed}")
    if command.run.tensorboard_dir is not None:
        os.environ["TENSORBOARD_LOGGING_DIR"] = command.run.tensorboard_dir
        if "report_to" not in command.given:
            training.report_to = ["tensorboard"]
    state = PartialState()
    settings = decisive(command, state.num_processes)
    with claimed_output(
        str(training.output_dir),
        settings,
        overwrite=command.run.overwrite_output_dir,
        trains=training.do_train,
        main=state.is_main_process,
    ) as claim:
        state.wait_for_everyone()
        # the result alone goes to standard output, not what libraries print on the way, such as DeepSpeed's log
        with redirect_stdout(sys.stderr):
            disable_progress_bars()
            yield claim


def run_task(command: Command, setup: TaskSetup, claim: Claim) -> dict[str, Any]:
    """Train, evaluate and predict as the command says; what came of it, as ``result.json`` holds it.

    Raises
    ------
    ValueError
        If the metric that is to choose the best model is none of the task's, data that the command needs is missing, or
        the folder's run had other data.
    """
    check_setup(command, setup)
    training, folder, state = command.training, claim.folder, PartialState()
    there = claim.there or {}
    if not claim.replace and there.get("data", setup.data) != dict(setup.data):
        if command.run.overwrite_output_dir:
            claim = replace(claim, replace=True)
        else:
            raise ValueError(
                f"{folder.path} holds a run on other data. Name another --output_dir, or give --overwrite_output_dir."
            )
    if training.resume_from_checkpoint and training.do_train:
        if not Path(training.resume_from_checkpoint).is_dir():
            raise ValueError(f"--resume_from_checkpoint: there is no folder {training.resume_from_checkpoint}.")
        checkpoint: Path | None = Path(training.resume_from_checkpoint)
    else:
        checkpoint = claim.checkpoint(state.num_processes) if state.is_main_process else None
        state.wait_for_everyone()
        if not state.is_main_process:
            checkpoint = claim.checkpoint(state.num_processes)
    if training.do_train and state.is_main_process:
        if claim.trained is None and checkpoint is None:
            source = command.model.model_name_or_path
            starts_here = source is not None and Path(source).resolve() == folder.path.resolve()
            clear(folder, weights=claim.there is not None and not starts_here)
        if claim.trained is None:
            write_record(folder, record_of(command, setup, state.num_processes))
            versions = {name: importlib.metadata.version(name) for name in ("transformers", "datasets")}
            write_json(folder.environment, {**environment(state.device, state.num_processes), **versions})
            write_manifest(folder.path, command.words, OWNED, finished=False)
    state.wait_for_everyone()
    with Console(folder.log if state.is_main_process else None, 0) as console:
        trainer = make_trainer(command, setup, folder.metrics, console, main=state.is_main_process)
        trained = dict(claim.trained or {})
        if training.do_train:
            if claim.trained is not None:
                console.say(f"training has ended already: {folder.path}")
                load_weights(setup.model, folder.path)
            else:
                trained = train(trainer, setup, checkpoint, console)
                if state.is_main_process:
                    add_to_run_file(folder.path, trained=trained)
        measured = evaluate(trainer, setup, console) if training.do_eval else {}
        if training.do_predict and setup.predict is not None:
            for file in setup.predict(trainer, folder.path):
                console.say(f"wrote {file}")
        result = outcome(command, setup, trained, measured, folder.metrics)
        if setup.after is not None:
            setup.after(trainer, folder.path, measured)
        if state.is_main_process and (training.do_train or read_run_file(folder.path) is None):
            if training.do_train:
                draw_curves(read_metrics(folder.metrics), setup.metric, folder.path / "curves.svg")
            if measured or claim.trained is None:  # what was evaluated before stays, where now nothing was
                write_json(folder.result, result)
            write_manifest(folder.path, command.words, OWNED, finished=True)
    return result


def check_setup(command: Command, setup: TaskSetup) -> None:
    """Refuse, before anything is written, what the data or the task cannot give."""
    training = command.training
    if training.do_train and setup.train is None:
        raise ValueError("--do_train needs training data.")
    if (training.do_eval or training.load_best_model_at_end) and not setup.evaluation:
        raise ValueError("--do_eval needs data to evaluate.")
    if training.do_predict and setup.predict is None:
        raise ValueError("--do_predict needs data to predict.")
    check_report_to(training.report_to)
    best = (training.metric_for_best_model or "loss").removeprefix("eval_")
    if training.load_best_model_at_end and best not in ("loss", *setup.metric_names):
        raise ValueError(
            f"--metric_for_best_model {best!r} is no metric of {setup.task}: it has loss, "
            f"{', '.join(setup.metric_names)}."
        )


def check_report_to(names: Sequence[str]) -> None:
    """Refuse a service that is to hear of the run, but is unknown or whose package is missing."""
    unknown = [name for name in names if name not in INTEGRATION_TO_CALLBACK]
    if unknown:
        raise ValueError(f"--report_to takes {', '.join(INTEGRATION_TO_CALLBACK)}. Got {unknown[0]!r} instead.")
    for name in names:
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (RuntimeError, ImportError) as error:
            raise ValueError(f"--report_to {name}: {' '.join(str(error).split())}") from error


def make_trainer(command: Command, setup: TaskSetup, metrics: Path, console: Console, *, main: bool) -> RecordedTrainer:
    """The Trainer of a run, its losses scaled right whatever the number of parts and processes."""
    training = command.training
    training.restore_callback_states_from_checkpoint = True  # else early stopping counts anew after a restart
    training.disable_tqdm = True
    training.dataloader_pin_memory = training.dataloader_pin_memory and torch.accelerator.is_available()
    # BERT-like heads take any keyword and ignore the number of items, so that the Trainer, believing them, would not
    # divide the loss by the number of parts, and would multiply it by that of processes. (Where `loss` is given, it
    # divides by the number of items itself.)
    setup.model.accepts_loss_kwargs = False
    callbacks: list[Any] = []
    if training.load_best_model_at_end:
        callbacks.append(SaveBestModel())
    if command.run.early_stopping_patience is not None:
        callbacks.append(
            EarlyStoppingCallback(command.run.early_stopping_patience, command.run.early_stopping_threshold)
        )
    trainer: RecordedTrainer = setup.trainer_class(
        model=setup.model,
        args=training,
        data_collator=setup.collator,
        train_dataset=setup.train,
        eval_dataset=next(iter(setup.evaluation.values()), None),
        processing_class=setup.tokenizer,
        compute_loss_func=setup.loss,
        compute_metrics=setup.metrics,
        preprocess_logits_for_metrics=setup.reduce_logits,
        callbacks=callbacks,
        recorder=MetricsRecorder(metrics, console, main=main),
        **setup.trainer_settings,
    )
    for noisy in (PrinterCallback, ProgressCallback):  # they print to standard output
        trainer.remove_callback(noisy)
    return trainer


def train(trainer: RecordedTrainer, setup: TaskSetup, checkpoint: Path | None, console: Console) -> dict[str, Any]:
    """Train from the start or from a checkpoint, save the model, and say what training came to."""
    training = trainer.args
    if checkpoint is not None:
        console.say(f"going on from {checkpoint}")
    state = TrainerState.load_from_json(str(checkpoint / STATE_FILE)) if checkpoint is not None else None
    if checkpoint is not None and state is not None and has_ended(state):
        best = state.best_model_checkpoint if training.load_best_model_at_end else None
        load_weights(setup.model, Path(best) if best and Path(best).is_dir() else checkpoint)
        trainer.state = state
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
        state = trainer.state
    trainer.save_model()
    if trainer.is_world_process_zero():
        trainer.save_state()
    taken = state.best_global_step if training.load_best_model_at_end and state.best_model_checkpoint else None
    return {
        "steps": state.global_step,
        "planned_steps": state.max_steps,
        "epochs": state.epoch,
        "best_step": taken or state.global_step,
        "best_metric": finite(state.best_metric),
    }


def has_ended(state: TrainerState) -> bool:
    """Whether training had come to its end at this checkpoint; the Trainer itself would take one step more."""
    control = state.stateful_callbacks.get("TrainerControl", {})
    stopped = isinstance(control, dict) and control.get("args", {}).get("should_training_stop", False)
    return bool(state.global_step >= state.max_steps or stopped)


def load_weights(model: PreTrainedModel, folder: Path) -> None:
    """Load the weights that are saved in a folder into the model."""
    saved = type(model).from_pretrained(folder, config=model.config)
    if (getattr(model.config, ENTRY, None) or {}).get(NORM) == RMS:
        swap(saved)  # transformers has made LayerNorms of them
    model.load_state_dict(saved.state_dict())


def evaluate(trainer: RecordedTrainer, setup: TaskSetup, console: Console) -> dict[str, float]:
    """The metrics on every set that is evaluated; those of the first without a prefix."""
    found: dict[str, float] = {}
    for name, data in setup.evaluation.items():
        measured = trainer.evaluate(eval_dataset=data)
        own = {key.removeprefix("eval_"): float(value) for key, value in measured.items() if key.startswith("eval_")}
        found.update({f"{name}_{key}" if name else key: value for key, value in own.items()})
        if trainer.is_world_process_zero():
            trainer.save_metrics("eval" + (f"_{name}" if name else ""), measured)
    said = "  ".join(f"{name} {found[name]:.4f}" for name in found if is_metric(name))
    console.say(f"{setup.task}: {said}")
    return found
