"""The run of every finetuning command: claim the output folder, train or resume, evaluate, predict, write the result.

A task makes a `TaskSetup` of a `Command`, and hands it over::

    def main(argv: Sequence[str], program: str = "nip qa") -> dict[str, Any]:
        command = read_command(argv, program)
        return run_command(command, kind="qa", task="squad", prepare=prepare)

Training that was stopped resumes with the same command and gives bit-identical weights. Training that has ended is
not repeated: its model is evaluated and predicts.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
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
)
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_callback import ProgressCallback, TrainerState

from nip.finetuning.arguments import Command, to_json
from nip.finetuning.datasets import disable_progress_bars
from nip.finetuning.evaluate_checkpoints import draw_curves
from nip.finetuning.output_dir import OWNED, STATE_FILE, Claim, claim_output_dir, clear
from nip.finetuning.recorder import (
    MetricsRecorder,
    RecordedTrainer,
    SaveBestModel,
    check_weights,
    finite_or_none,
    format_metrics,
    is_metric,
)
from nip.locations import runs_folder
from nip.models.huggingface.norms import replace_layer_norms, uses_rms_norm
from nip.runs.accuracy import learned, wilson_interval
from nip.runs.console import Console
from nip.runs.environment import environment
from nip.runs.folder import (
    add_to_run_file,
    file_sha256,
    read_metrics,
    read_run_file,
    write_json,
    write_manifest,
)
from nip.runs.process import peak_mib
from nip.runs.record import RunRecord, write_record


@dataclass
class TaskSetup:
    """A task that is ready to train, evaluate and predict.

    Parameters
    ----------
    kind, task : str
        Such as ``glue`` and ``mrpc``; reports group runs by the task.
    model, tokenizer
        From `nip.finetuning.model_loading`.
    seq_len : int
        Maximum number of tokens of an input; with the block size it determines the graph that a report shows.
    train : Dataset or None
        Tokenized examples, with ``labels``.
    evaluation : mapping of str to Dataset
        Evaluation sets; the first is evaluated during training. The names of the others are prefixes of their metrics:
        ``{"": matched, "mm": mismatched}``.
    collator : callable
        Makes a batch of examples.
    metrics : callable or None
        The Trainer's `compute_metrics`. Fractions in [0, 1].
    metric : str
        The main one, without ``eval_``.
    metric_names : tuple of str
        All of them: ``--metric_for_best_model`` must be one of these, or ``loss``.
    loss : callable or None
        ``loss(outputs, labels, num_items_in_batch)``, from `nip.finetuning.losses`: the mean over the optimizer
        step. None: the model's own, divided by the number of micro-batches.
    reduce_logits : callable or None
        The Trainer's `preprocess_logits_for_metrics`: bounds the memory of an evaluation.
    describe : callable or None
        ``describe(metrics)`` returns further fields of ``result.json``: ``n_test``, ``baselines``, ``interval``.
    predict : callable or None
        ``predict(trainer, folder)`` writes predictions and returns the files.
    data : mapping
        Content hashes of the data: a run on other data is another run.
    trainer_class : type, default=RecordedTrainer
        A subclass of it, for another Trainer.
    after : callable or None
        ``after(trainer, folder, metrics)`` is called at the end, to write further files.
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
    after: Callable[[Any, Path, Mapping[str, float]], None] | None = None


def run_command(command: Command, *, kind: str, task: str, prepare: Callable[[Command], TaskSetup]) -> dict[str, Any]:
    """Claim the output folder, run the command and print the result.

    Parameters
    ----------
    command : Command
    kind, task : str
        As in `TaskSetup`; they name the folder if ``--output_dir`` is not given.
    prepare : callable
        Loads data and model, and raises what is wrong with them, before anything is written.

    Returns
    -------
    dict
        The content of ``result.json``.

    Raises
    ------
    ValueError
        As `claim_output_dir`, `prepare` and `run_task` raise it.
    """
    with claimed_run(command, kind, task) as claim:
        result = run_task(command, prepare(command), claim)
    if PartialState().is_main_process:
        if command.run.json:
            print(json.dumps(result, allow_nan=False, indent=2))
        else:
            for name, value in result["metrics"].items():
                print(f"{name:24} {'NaN or Inf' if value is None else format(value, '.4f')}")
            print(command.training.output_dir, flush=True)
    return result


def default_output_dir(command: Command, kind: str, task: str) -> str:
    """The output folder where none is given: ``KIND-TASK-PATTERN-seedSEED`` in the folder of runs.

    Parameters
    ----------
    command : Command
    kind, task : str
    """
    pattern = Path(command.attention.graph).stem if command.attention.graph else command.attention.attention
    return str(runs_folder() / f"{kind}-{task}-{pattern}-seed{command.training.seed}")


@contextmanager
def claimed_run(command: Command, kind: str, task: str) -> Iterator[Claim]:
    """Claim the output folder; nothing is deleted yet.

    Parameters
    ----------
    command : Command
    kind, task : str
        Without ``--output_dir`` the folder is ``KIND-TASK-PATTERN-seedSEED`` in the folder of runs.

    Yields
    ------
    Claim
    """
    training = command.training
    if "output_dir" not in command.given:
        training.output_dir = default_output_dir(command, kind, task)
    if command.run.tensorboard_dir is not None:
        os.environ["TENSORBOARD_LOGGING_DIR"] = command.run.tensorboard_dir
        if "report_to" not in command.given:
            training.report_to = ["tensorboard"]
    state = PartialState()
    with claim_output_dir(
        training.output_dir,
        kind,
        run_settings(command, state.num_processes),
        overwrite=command.run.overwrite_output_dir,
        trains=training.do_train,
        main=state.is_main_process,
    ) as claim:
        state.wait_for_everyone()
        # Standard output is for the result only, not for what libraries such as DeepSpeed print.
        with redirect_stdout(sys.stderr):
            disable_progress_bars()
            yield claim


# The settings that determine a run's weights and metrics; all others may change when it is resumed.
TRAINING_SETTINGS = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "weight_decay", "adam_beta1"),
    *("adam_beta2", "adam_epsilon", "max_grad_norm", "num_train_epochs", "max_steps", "lr_scheduler_type"),
    *("lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args", "seed", "data_seed", "fp16", "bf16"),
    *("label_smoothing_factor", "train_sampling_strategy", "dataloader_drop_last", "neftune_noise_alpha"),
    *("load_best_model_at_end", "metric_for_best_model", "greater_is_better", "eval_strategy", "eval_steps"),
    *("eval_delay", "full_determinism"),
)
RUN_SETTINGS = ("early_stopping_patience", "early_stopping_threshold", "max_train_samples", "max_eval_samples")
MODEL_SETTINGS = ("model_name_or_path", "config_name", "tokenizer_name", "model_revision", "ignore_mismatched_sizes")


def run_settings(command: Command, processes: int) -> dict[str, Any]:
    """The settings that identify a run, as JSON values: a command with other values is another run."""
    training, run, model = to_json(command.training), to_json(command.run), to_json(command.model)
    attention = command.attention
    changeable = getattr(command.task, "CHANGEABLE", ())  # when the run is resumed, such as a test file
    graph = {"attention": attention.attention}
    if attention.graph:
        graph = {"graph": attention.graph, "graph_file": file_sha256(Path(attention.graph))}
    if attention.attention_layers is not None:
        graph["attention_layers"] = attention.attention_layers
    settings: dict[str, Any] = {
        **graph,
        "param": attention.parameters,
        "block_size": attention.block_size,
        "extend_positions": attention.extend_positions,
        **{name: model[name] for name in MODEL_SETTINGS},
        **{name: value for name, value in to_json(command.task).items() if name not in changeable},
        **{name: run[name] for name in RUN_SETTINGS},
        **{name: training[name] for name in TRAINING_SETTINGS if name in training},
    }
    if processes > 1:
        settings["processes"] = processes
    return settings


def run_task(command: Command, setup: TaskSetup, claim: Claim) -> dict[str, Any]:
    """Train, evaluate and predict as the command says, and write the results.

    Parameters
    ----------
    command : Command
    setup : TaskSetup
    claim : Claim
        The output folder.

    Returns
    -------
    dict
        The content of ``result.json``.

    Raises
    ------
    ValueError
        As `check_setup` raises it, or if the folder's run was trained on other data.
    """
    check_setup(command, setup)
    training, folder, state = command.training, claim.folder, PartialState()
    before = claim.before or {}
    if not claim.replace and before.get("data", setup.data) != dict(setup.data):
        if not command.run.overwrite_output_dir:
            raise ValueError(
                f"{folder.path} holds a run on other data. Name another --output-dir, or give --overwrite_output_dir."
            )
        claim = replace(claim, replace=True)
    if training.resume_from_checkpoint and training.do_train:
        if not Path(training.resume_from_checkpoint).is_dir():
            raise ValueError(f"--resume_from_checkpoint: there is no folder {training.resume_from_checkpoint}.")
        checkpoint: Path | None = Path(training.resume_from_checkpoint)
    else:
        with state.main_process_first():  # it deletes incomplete checkpoints
            checkpoint = claim.checkpoint(state.num_processes)
    if training.do_train and claim.trained is None and state.is_main_process:
        if checkpoint is None:
            source = command.model.model_name_or_path
            starts_here = source is not None and Path(source).resolve() == folder.path.resolve()
            clear(folder, weights=claim.before is not None and not starts_here)
        write_record(folder, make_record(command, setup, state.num_processes))
        versions = {name: importlib.metadata.version(name) for name in ("transformers", "datasets")}
        write_json(folder.environment, {**environment(state.device, state.num_processes), **versions})
        write_manifest(folder.path, setup.kind, command.argv, OWNED, finished=False)
    state.wait_for_everyone()
    with Console(folder.log if state.is_main_process else None, 0) as console:
        trainer = make_trainer(command, setup, folder.metrics, console, main=state.is_main_process)
        trained = dict(claim.trained or {})
        if training.do_train:
            if claim.trained is not None:
                console.say(f"training has ended already: {folder.path}")
                load_weights(setup.model, folder.path)
                if (folder.path / STATE_FILE).is_file():  # evaluations record the epoch
                    trainer.state = TrainerState.load_from_json(str(folder.path / STATE_FILE))
            else:
                trained = train(trainer, setup, checkpoint, console)
                if state.is_main_process:
                    add_to_run_file(folder.path, trained=trained)
        metrics = evaluate(trainer, setup, console) if training.do_eval else {}
        if training.do_predict and setup.predict is not None:
            for file in setup.predict(trainer, folder.path):
                console.say(f"wrote {file}")
        result = make_result(setup, trained, metrics, folder.metrics if training.do_train else None)
        if setup.after is not None:
            setup.after(trainer, folder.path, metrics)
        if state.is_main_process and (training.do_train or read_run_file(folder.path) is None):
            if training.do_train:
                draw_curves(read_metrics(folder.metrics), setup.metric, folder.path / "curves.svg")
            if metrics or claim.trained is None:  # a command that does not evaluate keeps the earlier evaluation
                write_json(folder.result, result)
            if training.do_train:  # else the folder may be a model's that nip did not write
                write_manifest(folder.path, setup.kind, command.argv, OWNED, finished=True)
    return result


def check_setup(command: Command, setup: TaskSetup) -> None:
    """Check, before anything is written, that data and task allow what the command asks for.

    Raises
    ------
    ValueError
        If data is missing, ``--metric_for_best_model`` is not one of the task's, or a tracker cannot be used.
    """
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
    """Check that the experiment trackers exist and their packages are installed; else ValueError."""
    unknown = [name for name in names if name not in INTEGRATION_TO_CALLBACK]
    if unknown:
        raise ValueError(f"--report_to takes {', '.join(INTEGRATION_TO_CALLBACK)}. Got {unknown[0]!r} instead.")
    for name in names:
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (RuntimeError, ImportError) as error:
            raise ValueError(f"--report_to {name}: {' '.join(str(error).split())}") from error


def make_trainer(command: Command, setup: TaskSetup, metrics: Path, console: Console, *, main: bool) -> RecordedTrainer:
    """The Trainer of a run; its loss does not depend on the number of micro-batches and processes.

    Parameters
    ----------
    command : Command
    setup : TaskSetup
    metrics : Path
        The ``metrics.jsonl``.
    console : Console
    main : bool
        Whether this is the main process.
    """
    training = command.training
    training.restore_callback_states_from_checkpoint = True  # else early stopping restarts its count
    training.disable_tqdm = True
    training.dataloader_pin_memory = training.dataloader_pin_memory and torch.accelerator.is_available()
    # Heads such as BERT's accept any keyword and ignore the number of items. The Trainer would take them at their word,
    # not divide the loss by the number of micro-batches, and multiply it by that of processes. (`loss`, if given,
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
    )
    for noisy in (PrinterCallback, ProgressCallback):  # they print to standard output
        trainer.remove_callback(noisy)
    return trainer


def train(trainer: RecordedTrainer, setup: TaskSetup, checkpoint: Path | None, console: Console) -> dict[str, Any]:
    """Train from the start or from a checkpoint, and save the model.

    Parameters
    ----------
    trainer : RecordedTrainer
    setup : TaskSetup
    checkpoint : Path or None
    console : Console

    Returns
    -------
    dict
        ``trained`` in ``run.json``: steps, epochs, the best step and its metric.
    """
    training = trainer.args
    if checkpoint is not None:
        console.say(f"resuming from {checkpoint}")
    state = TrainerState.load_from_json(str(checkpoint / STATE_FILE)) if checkpoint is not None else None
    if checkpoint is not None and state is not None and training_ended(state):
        best = state.best_model_checkpoint if training.load_best_model_at_end else None
        load_weights(setup.model, Path(best) if best and Path(best).is_dir() else checkpoint)
        trainer.state = state
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
        state = trainer.state
    check_weights(trainer.model)
    # The Trainer's last entry has times, and a loss of the steps since the last start only; metrics.jsonl has all.
    trainer.state.log_history = [entry for entry in trainer.state.log_history if "train_runtime" not in entry]
    trainer.save_model()
    if trainer.is_world_process_zero():
        trainer.save_state()
    best_step = state.best_global_step if training.load_best_model_at_end and state.best_model_checkpoint else None
    return {
        "steps": state.global_step,
        "planned_steps": state.max_steps,
        "epochs": state.epoch,
        "best_step": best_step or state.global_step,
        "best_metric": finite_or_none(state.best_metric),
    }


def training_ended(state: TrainerState) -> bool:
    """Whether training had ended at this checkpoint; the Trainer itself would take another step."""
    control = state.stateful_callbacks.get("TrainerControl", {})
    stopped = isinstance(control, dict) and control.get("args", {}).get("should_training_stop", False)
    return bool(state.global_step >= state.max_steps or stopped)


def load_weights(model: PreTrainedModel, folder: Path) -> None:
    """Load the weights in a folder into the model."""
    saved = type(model).from_pretrained(folder, config=model.config, trust_remote_code=False)
    if uses_rms_norm(model.config):
        replace_layer_norms(saved)  # transformers has built LayerNorms
    model.load_state_dict(saved.state_dict())


def evaluate(trainer: RecordedTrainer, setup: TaskSetup, console: Console) -> dict[str, float]:
    """Evaluate every set.

    Parameters
    ----------
    trainer : RecordedTrainer
    setup : TaskSetup
    console : Console

    Returns
    -------
    dict of str to float
        The metrics, those of the first set without a prefix.
    """
    metrics: dict[str, float] = {}
    for name, data in setup.evaluation.items():
        measured = trainer.evaluate(eval_dataset=data)
        own = {key.removeprefix("eval_"): float(value) for key, value in measured.items() if key.startswith("eval_")}
        metrics.update({f"{name}_{key}" if name else key: value for key, value in own.items()})
        if trainer.is_world_process_zero():
            finite = {key: finite_or_none(value) for key, value in measured.items()}
            trainer.save_metrics("eval" + (f"_{name}" if name else ""), finite)
    console.say(f"{setup.task}: {format_metrics({name: metrics[name] for name in metrics if is_metric(name)})}")
    return metrics


def make_result(
    setup: TaskSetup, trained: Mapping[str, Any], metrics: Mapping[str, float], metrics_file: Path | None
) -> dict[str, Any]:
    """The content of ``result.json``.

    Parameters
    ----------
    setup : TaskSetup
    trained : mapping
        As `train` returns it; empty if nothing was trained.
    metrics : mapping
        As `evaluate` returns them; empty if nothing was evaluated.
    metrics_file : Path or None
        The ``metrics.jsonl`` of training.
    """
    rows = read_metrics(metrics_file) if metrics_file is not None and metrics_file.is_file() else []
    steps = [row for row in rows if row["split"] == "train"]
    losses = [row["loss"] for row in steps if row["loss"] is not None]  # NaN and Inf are null
    developed = [row[setup.metric] for row in rows if row["split"] == "dev" and row.get(setup.metric) is not None]
    best = [row for row in rows if row["split"] == "dev" and row["step"] == trained.get("best_step")]
    graph = graph_of(setup.model)
    result: dict[str, Any] = {
        "kind": setup.kind,
        "task": setup.task,
        "model": graph["pattern"],
        "parameters": graph["parameters"],
        "metric": setup.metric,
        "score": finite_or_none(metrics.get(setup.metric)),
        "test_accuracy": finite_or_none(metrics.get("accuracy")),
        "tested_on": "validation",
        "dev_accuracy": best[-1].get(setup.metric) if best else (max(developed) if developed else None),
        **{name: trained.get(name) for name in ("best_step", "steps", "planned_steps")},
        "seconds": steps[-1]["seconds"] if steps else None,
        "tokens_per_second": steps[-1]["tokens"] / steps[-1]["seconds"] if steps and steps[-1]["seconds"] else None,
        "peak_mib": peak_mib(setup.model.device),
        "train_loss": sum(losses) / len(losses) if losses and len(losses) == len(steps) else None,
        **(setup.describe(metrics) if setup.describe is not None and metrics else {}),
        "metrics": {name: finite_or_none(value) for name, value in metrics.items() if is_metric(name)},
    }
    n_test, accuracy = result.get("n_test"), result["test_accuracy"]
    if accuracy is not None and n_test and "interval" not in result:
        result["interval"] = list(wilson_interval(round(accuracy * n_test), n_test))
    if result.get("interval") and result.get("baselines"):
        result["learnt"] = learned(tuple(result["interval"]), result["baselines"])
    return result


def make_record(command: Command, setup: TaskSetup, processes: int) -> RunRecord:
    """The record of a run that starts.

    Parameters
    ----------
    command : Command
    setup : TaskSetup
    processes : int
    """
    entry = getattr(setup.model.config, "nip", None) or {}
    training = command.training
    graph = graph_of(setup.model)
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
        settings=run_settings(command, processes),
        planned_steps=training.max_steps if training.max_steps > 0 else None,
        command=list(command.argv),
    )


def graph_of(model: PreTrainedModel) -> dict[str, Any]:
    """The graph of a model's layers: pattern, parameters, block size, and the checksum of a graph from a file."""
    entry = getattr(model.config, "nip", None) or {}
    graph = entry.get("default") or {"pattern": "softmax", "block_size": 1}
    return {
        "pattern": graph["pattern"],
        "parameters": graph.get("parameters", {}),
        "block_size": graph["block_size"],
        "checksum": graph.get("checksum"),
    }
