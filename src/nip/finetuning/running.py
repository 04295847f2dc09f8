"""How every finetuning task runs: claim the folder, train or go on, evaluate, predict, and say what came of it.

A new task is a function that makes a `Setup` of a `Command`, and a call::

    def main(words: Sequence[str]) -> dict[str, Any]:
        command = parse(words, QaArguments, program="nip qa")
        with begin(command, kind="qa", task="squad") as claim:
            setup = prepare(command)          # data, model, metrics: everything that can be wrong is told here
            return carry_out(command, setup, claim)

Training that was stopped goes on with the same command and comes to the same weights; training that has ended is not
repeated, and its model is evaluated and predicts.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import EarlyStoppingCallback, PreTrainedModel, PrinterCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_callback import ProgressCallback, TrainerState

from nip.finetuning.arguments import Command
from nip.finetuning.curves import draw_curves
from nip.finetuning.folder import STATE_FILE, Claim, claimed_output, clear
from nip.finetuning.recording import BestIsSaved, Recorded, Recorder
from nip.finetuning.results import finite, is_figure, outcome, run_facts
from nip.finetuning.settings import decisive
from nip.finetuning.setup import Setup
from nip.finetuning.tokenizing import quiet
from nip.models.huggingface_setting import ENTRY
from nip.models.norms import NORM, RMS, swap
from nip.training.console import Console
from nip.training.environment import environment
from nip.training.runs import read_metrics, read_run_file, write_json, write_run_file


@contextmanager
def begin(command: Command, *, kind: str, task: str) -> Iterator[Claim]:
    """Claim the output folder for a run, and refuse another run's; nothing is deleted yet.

    Without ``--output_dir`` it is ``KIND-TASK-PATTERN-seedSEED`` in the folder of runs.

    Raises
    ------
    ValueError
        As `nip.finetuning.folder.claimed_output` does.
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
            quiet()
            yield claim


def carry_out(command: Command, setup: Setup, claim: Claim) -> dict[str, Any]:
    """Train, evaluate and predict as the command says; what came of it, as ``result.json`` holds it.

    Raises
    ------
    ValueError
        If the metric that is to choose the best model is none of the task's, data that the command needs is missing, or
        the folder's run had other data.
    """
    refuse_impossible(command, setup)
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
            write_run_file(folder, run_facts(command, setup, state.num_processes))
            versions = {name: importlib.metadata.version(name) for name in ("transformers", "datasets")}
            write_json(folder.environment, {**environment(state.device, state.num_processes), **versions})
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
                    write_run_file(folder, {**(read_run_file(folder.path) or {}), "trained": trained})
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
    return result


def refuse_impossible(command: Command, setup: Setup) -> None:
    """Refuse, before anything is written, what the data or the task cannot give."""
    training = command.training
    if training.do_train and setup.train is None:
        raise ValueError("--do_train needs training data.")
    if (training.do_eval or training.load_best_model_at_end) and not setup.evaluation:
        raise ValueError("--do_eval needs data to evaluate.")
    if training.do_predict and setup.predict is None:
        raise ValueError("--do_predict needs data to predict.")
    refuse_reporters(training.report_to)
    best = (training.metric_for_best_model or "loss").removeprefix("eval_")
    if training.load_best_model_at_end and best not in ("loss", *setup.metric_names):
        raise ValueError(
            f"--metric_for_best_model {best!r} is no metric of {setup.task}: it has loss, "
            f"{', '.join(setup.metric_names)}."
        )


def refuse_reporters(names: Sequence[str]) -> None:
    """Refuse a service that is to hear of the run, but is unknown or whose package is missing."""
    unknown = [name for name in names if name not in INTEGRATION_TO_CALLBACK]
    if unknown:
        raise ValueError(f"--report_to takes {', '.join(INTEGRATION_TO_CALLBACK)}. Got {unknown[0]!r} instead.")
    for name in names:
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (RuntimeError, ImportError) as error:
            raise ValueError(f"--report_to {name}: {' '.join(str(error).split())}") from error


def make_trainer(command: Command, setup: Setup, metrics: Path, console: Console, *, main: bool) -> Recorded:
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
        callbacks.append(BestIsSaved())
    if command.run.early_stopping_patience is not None:
        callbacks.append(
            EarlyStoppingCallback(command.run.early_stopping_patience, command.run.early_stopping_threshold)
        )
    trainer: Recorded = setup.trainer_class(
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
        recorder=Recorder(metrics, console, main=main),
        **setup.trainer_settings,
    )
    for noisy in (PrinterCallback, ProgressCallback):  # they print to standard output
        trainer.remove_callback(noisy)
    return trainer


def train(trainer: Recorded, setup: Setup, checkpoint: Path | None, console: Console) -> dict[str, Any]:
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


def evaluate(trainer: Recorded, setup: Setup, console: Console) -> dict[str, float]:
    """The metrics on every set that is evaluated; those of the first without a prefix."""
    found: dict[str, float] = {}
    for name, data in setup.evaluation.items():
        measured = trainer.evaluate(eval_dataset=data)
        own = {key.removeprefix("eval_"): float(value) for key, value in measured.items() if key.startswith("eval_")}
        found.update({f"{name}_{key}" if name else key: value for key, value in own.items()})
        if trainer.is_world_process_zero():
            trainer.save_metrics("eval" + (f"_{name}" if name else ""), measured)
    said = "  ".join(f"{name} {found[name]:.4f}" for name in found if is_figure(name))
    console.say(f"{setup.task}: {said}")
    return found
