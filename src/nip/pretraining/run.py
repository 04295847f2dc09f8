"""A pretraining run, from its settings to its model.

The model's ``config.json`` is written last, and that of an earlier end of the run is removed first, so that no folder
contains the weights of one model and the configuration of another.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from nip.data.corpus import open_corpus, read_manifest, verify
from nip.pretraining.budget import end_reason
from nip.pretraining.checks import check_run, slow_precision
from nip.pretraining.export import model_weights, write_model
from nip.pretraining.init_from import load_initial_weights
from nip.pretraining.model import MaskedLMObjective, extend_table
from nip.pretraining.output_dir import (
    KIND,
    OWNED,
    check_same_settings,
    claimed_run,
    finished,
    owned_folder,
    planned,
    settings_of,
)
from nip.pretraining.settings import Settings
from nip.pretraining.setup import attention_choice, graph_of, micro_batch_size, new_model, positions_in, resolve
from nip.pretraining.task import PretrainingTask
from nip.pretraining.throughput import flops_per_token, peak_flops
from nip.pretraining.trackers import tracked
from nip.pretraining.validation import commonest_token, evaluate
from nip.runs.accuracy import learned
from nip.runs.console import Console
from nip.runs.environment import environment, warn_of_changes
from nip.runs.folder import RUN_FILE, Metrics, RunFolder, read_run_file, write_json, write_manifest, writing
from nip.runs.process import keep_freed_memory, peak_mib
from nip.runs.record import RunRecord, write_record
from nip.training.checkpoint import Progress, TrainState, load_checkpoint, read_progress
from nip.training.distributed import new_accelerator, prepare_model, uses_deepspeed
from nip.training.loss_spikes import SpikeRule
from nip.training.optimizers import make_optimizer
from nip.training.trainer import EngineSettings, Run, checkpoint, diverged, link_rollback_checkpoint, train

TASK = "masked language model"
TEST_FACTOR = 4  # samples of the final evaluation, over those of the others


def pretrain(settings: Settings, dataset: Path, out: Path, *, command: Sequence[str] = ()) -> dict[str, Any]:
    """Pretrain a model.

    A stopped run, even a killed one, resumes from its last checkpoint; with budgets of steps and tokens the results are
    bit-identical. The result of a finished run is returned as it is. A larger budget continues a run.

    Parameters
    ----------
    settings : Settings
    dataset : Path
        A corpus that ``nip data corpus`` made.
    out : Path
        The run folder; created if missing.
    command : sequence of str
        The command line, for the record.

    Returns
    -------
    dict
        The contents of ``result.json``.

    Raises
    ------
    TrainingDivergedError
        If the loss keeps being NaN or keeps spiking; the last good checkpoint is kept.
    ValueError
        If the folder contains a different run, or the settings are impossible.
    FileNotFoundError
        If there is no corpus.
    """
    accelerator = new_accelerator()
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    folder = RunFolder(out)
    data = corpus_checksum(dataset)
    check_run(settings, dataset, accelerator)
    with claimed_run(folder) if accelerator.is_main_process else nullcontext():
        accelerator.wait_for_everyone()
        facts = read_run_file(folder.path)
        there = settings_of(facts, folder.path) if facts is not None else None
        settings = resolve(settings, there, accelerator.device)
        record = make_record(settings, data, command)
        if facts is not None:
            check_same_settings(folder, facts, record)
        elif accelerator.is_main_process:
            verify(dataset)  # every byte, once, because hours of training follow
        result = finished(folder, settings)
        with Console(folder.log if accelerator.is_main_process else None, settings.max_steps) as console:
            if result is not None:
                console.say(f"{out} is finished: {result['ended']}.")
                return result
            progress = read_progress(folder.checkpoint) if folder.checkpoint.is_file() else Progress()
            accelerator.wait_for_everyone()  # all have read the progress before the first process writes
            # dropout is seeded step by step; the caller's generators are restored
            devices = [accelerator.device] if accelerator.device.type == "cuda" else []
            fork = torch.random.fork_rng(devices=devices)
            with fork, tracked(settings, accelerator, folder, progress.step) as log:
                task = None
                while True:
                    first = task is None
                    run, task = open_stage(settings, dataset, folder, accelerator, console, progress, task)
                    run.log = log
                    if first:
                        budget_changed = there is not None and planned(there) != planned(settings)
                        start(run, task, record, budget_changed=budget_changed)
                    print_stage(run, task)
                    with closing(task):
                        train(run, task)
                    progress = run.progress
                    if task.over(run):
                        return finish(run, task, record)
                    del run
                    accelerator.free_memory()


def open_stage(
    settings: Settings,
    dataset: Path,
    folder: RunFolder,
    accelerator: Accelerator,
    console: Console,
    progress: Progress,
    before: PretrainingTask | None,
) -> tuple[Run, PretrainingTask]:
    """The run in its current stage, new or resumed from its checkpoint, and the stage's task.

    Parameters
    ----------
    settings : Settings
    dataset : Path
        The corpus.
    folder : RunFolder
    accelerator : Accelerator
    console : Console
    progress : Progress
        Names the stage.
    before : PretrainingTask or None
        Of the previous stage, whose measurements of this machine are used again.

    Returns
    -------
    run : Run
    task : PretrainingTask
    """
    length = settings.lengths[progress.stage][0]
    corpus = open_corpus(dataset, "train", max_seq_length=length)
    validation = open_corpus(dataset, "test", max_seq_length=length)
    positions = positions_in(settings, progress.stage)
    model = new_model(settings, corpus.vocabulary, positions)
    if settings.init_from is not None and not folder.checkpoint.is_file():
        new = load_initial_weights(model, settings.init_from, dataset, corpus.vocabulary, positions)
        if new:
            console.say(
                f"{settings.init_from} has no weights for next sentences: {', '.join(new)} are initialized at random."
            )
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    objective: Any = MaskedLMObjective(model, next_sentence=settings.next_sentence, seed=settings.seed)
    objective.to(accelerator.device)
    optimizer = make_optimizer(
        objective,
        settings.optimizer,
        learning_rate=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        bias_correction=settings.bias_correction,
        coefficients=(settings.min_coeff, settings.max_coeff),
    )
    if uses_deepspeed(accelerator):
        accelerator.state.deepspeed_plugin.deepspeed_config["gradient_clipping"] = settings.clip
    wrapped, optimizer = prepare_model(accelerator, objective, optimizer, settings.precision)
    scaler = torch.amp.GradScaler(accelerator.device.type) if settings.precision == "fp16" else None

    def grow_positions(saved: Tensor, shape: torch.Size, header: Mapping[str, Any]) -> Tensor:
        fewer = header["positions"]
        grows = len(saved) - fewer == shape[0] - positions
        return extend_table(saved, fewer, positions) if grows else saved

    state = TrainState(
        accelerator, wrapped, optimizer, scaler, progress, extra={"positions": positions}, resize=grow_positions
    )
    if folder.checkpoint.is_file():
        state.progress = load_checkpoint(folder.checkpoint, state)
    if before is None:
        flops = flops_per_token(settings, corpus)
        peak = peak_flops(accelerator.device, settings.precision) * accelerator.num_processes
        task = PretrainingTask(settings, corpus, validation, flops, peak)
    else:
        task = PretrainingTask(settings, corpus, validation, before.flops, before.peak, before.forecast_done)
    spikes = SpikeRule(
        settings.spike, settings.bad_steps, settings.rollback_every, settings.max_rollbacks, settings.overflow_limit
    )
    engine = EngineSettings(
        seed=settings.seed,
        clip=settings.clip,
        spikes=spikes,
        checkpoint_seconds=60 * settings.checkpoint_minutes,
        log_every=settings.log_every,
    )
    return Run(engine, folder, state, console), task


def start(run: Run, task: PretrainingTask, record: RunRecord, *, budget_changed: bool) -> None:
    """Write the run's first files, so that errors of writing occur before the first step, and print how it starts.

    Parameters
    ----------
    run : Run
    task : PretrainingTask
    record : RunRecord
    budget_changed : bool
        Whether settings that may have stopped the run changed, so that it continues.
    """
    folder, console, accelerator = run.folder, run.console, run.accelerator
    if budget_changed:
        run.progress.stopped = None
    if run.main and not (folder.path / RUN_FILE).is_file():
        write_record(folder, record)  # before other files, which must not exist without it
        write_manifest(folder.path, KIND, record.command, OWNED, finished=False)
    if budget_changed or not folder.checkpoint.is_file():
        checkpoint(run)
    else:
        link_rollback_checkpoint(run)  # the run may have been killed before it did so
    if run.progress.step:
        console.say(f"Resuming after step {run.progress.step:,}.")
    slow = slow_precision(task.settings, accelerator.device)
    if slow is not None:
        console.say(f"Warning: {slow}")
    here = environment(accelerator.device, accelerator.num_processes, accelerator.distributed_type.value.lower())
    warn_of_changes(folder.environment, here, console)
    accelerator.wait_for_everyone()
    if run.main:
        write_record(folder, record)  # new budgets, after the checkpoint with them
        write_manifest(folder.path, KIND, record.command, OWNED, finished=False)
        write_json(folder.environment, here)


def print_stage(run: Run, task: PretrainingTask) -> None:
    """Print the length of the stage's samples, and log the attention backend."""
    accelerator, settings = run.accelerator, task.settings
    size = micro_batch_size(settings, task.length, accelerator.device, accelerator.num_processes)
    choice = attention_choice(settings, task.length, size, accelerator.device)
    run.console.note(f"Attention over {task.length} tokens is computed by {choice}.")
    if run.progress.step and not run.progress.stage_samples:
        run.console.say(f"From step {run.progress.step:,} on samples have {task.length} tokens.")


def finish(run: Run, task: PretrainingTask, record: RunRecord) -> dict[str, Any]:
    """Evaluate on more held-out samples, and write the result and the model.

    Parameters
    ----------
    run : Run
    task : PretrainingTask
    record : RunRecord

    Returns
    -------
    dict
        The contents of ``result.json``.
    """
    settings, progress, folder = task.settings, run.progress, run.folder
    run.tick()
    measured = evaluate(run, settings, task.validation, TEST_FACTOR * settings.eval_samples)
    counts = measured.counts
    if not math.isfinite(measured.loss):
        raise diverged(run, f"The held-out loss is {measured.loss} after step {progress.step:,}.")
    baselines = {"commonest_token": commonest_token(task.corpus, task.validation)}
    run.tick()
    result = {
        "task": TASK,
        "model": settings.model,
        "seed": settings.seed,
        "metric": "accuracy",
        "score": counts.accuracy,
        "test_accuracy": counts.accuracy,
        "interval": list(counts.interval),
        "test_loss": measured.loss,
        "perplexity": math.exp(min(measured.loss, 700.0)),
        "n_test": measured.samples,
        "n_answers": counts.asked,
        **({} if measured.sentence_accuracy is None else {"sentence_accuracy": measured.sentence_accuracy}),
        "dev_accuracy": progress.dev_accuracy,
        "dev_loss": progress.dev_loss,
        "baselines": baselines,
        "learnt": learned(counts.interval, baselines),
        "steps": progress.step,
        "planned_steps": settings.max_steps or progress.step,
        "best_step": progress.step,
        "planned": planned(settings),
        "ended": progress.stopped or end_reason(settings, progress),
        "samples": progress.samples,
        "tokens": progress.tokens,
        "skipped_steps": progress.loss_spikes.skipped,
        "rollbacks": progress.loss_spikes.rollbacks,
        "kept_hours": progress.kept,
        "tokens_per_second": round(progress.tokens / max(progress.training_seconds, 1e-9), 1),
        "samples_per_second": round(progress.samples / max(progress.training_seconds, 1e-9), 2),
        "flops": progress.flops,
        "flops_utilisation": round(progress.flops / max(progress.training_seconds, 1e-9) / task.peak, 4),
        "seconds": round(progress.seconds, 3),
        "training_seconds": round(progress.training_seconds, 3),
        "saving_seconds": round(progress.checkpoint_seconds, 3),
        "peak_mib": peak_mib(run.accelerator.device),
    }
    weights = model_weights(run)
    if run.main:
        with writing(folder, "the result"):
            with closing(Metrics(folder.metrics, progress.metrics_bytes)) as run.metrics_file:
                run.record("test", {"loss": measured.loss, "accuracy": counts.accuracy, "learning_rate": None})
                run.metrics_file.secure()
            owned_folder(folder).delete(["config.json"])  # the model is complete once it is there
            write_json(folder.result, result)
            write_model(run, settings, task.corpus, folder.path, weights)
            write_manifest(folder.path, KIND, record.command, OWNED, finished=True)
    run.accelerator.wait_for_everyone()
    run.console.note(format_result(result))
    return result


def make_record(settings: Settings, data: str, command: Sequence[str]) -> RunRecord:
    """The record of a run, with the graph of its longest samples.

    Parameters
    ----------
    settings : Settings
    data : str
        The checksum of the corpus.
    command : sequence of str
        The command line.

    Returns
    -------
    RunRecord
    """
    return RunRecord(
        kind=KIND,
        task=TASK,
        pattern=settings.model,
        parameters=settings.parameters,
        block_size=settings.block_size,
        seq_len=settings.max_length,
        checksum=graph_of(settings, settings.max_length).checksum,
        data={"train": data},
        batch_size=settings.batch_size,
        seed=settings.seed,
        settings=settings.to_dict(),
        planned_steps=settings.max_steps,
        command=list(command),
    )


def corpus_checksum(dataset: Path) -> str:
    """One checksum of all shards and of the tokenizer, from the manifest."""
    manifest = read_manifest(dataset.expanduser())
    sums = [
        {entry["name"]: entry["files"] for entry in split["shards"]} for _, split in sorted(manifest["splits"].items())
    ]
    described = {"shards": sums, "tokenizer": manifest["tokenizer"]["sha256"]}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def format_result(result: dict[str, Any]) -> str:
    """The result as text.

    Examples
    --------
    >>> print(format_result({"steps": 1000, "tokens": 4_000_000, "ended": "1,000 steps are done", "test_loss": 3.25,
    ...     "perplexity": 25.79, "test_accuracy": 0.412, "interval": [0.405, 0.419], "baselines":
    ...     {"commonest_token": 0.05}, "n_answers": 20_000, "saving_seconds": 1.0, "seconds": 400.0,
    ...     "tokens_per_second": 12_345.6, "flops_utilisation": 0.5}))
    The run has ended after 1,000 steps and 4,000,000 tokens: 1,000 steps are done.
    Held-out loss 3.2500, perplexity 25.79; accuracy 41.2 % on 20,000 masked tokens (95 % interval 40.5–41.9 %; always \
predicting the most common token: 5.0 %).
    12,346 tokens/s, 50.0 % of the device's peak FLOP/s; checkpoints took 0.2 % of the time.
    """
    low, high = result["interval"]
    saving = result["saving_seconds"] / max(result["seconds"], 1e-9)
    common = 100 * result["baselines"]["commonest_token"]
    return (
        f"The run has ended after {result['steps']:,} steps and {result['tokens']:,} tokens: {result['ended']}.\n"
        f"Held-out loss {result['test_loss']:.4f}, perplexity {result['perplexity']:.2f}; "
        f"accuracy {100 * result['test_accuracy']:.1f} % on {result['n_answers']:,} masked tokens (95 % interval "
        f"{100 * low:.1f}–{100 * high:.1f} %; always predicting the most common token: {common:.1f} %).\n"
        f"{result['tokens_per_second']:,.0f} tokens/s, {100 * result['flops_utilisation']:.1f} % of the device's peak "
        f"FLOP/s; checkpoints took {100 * saving:.1f} % of the time."
    )
