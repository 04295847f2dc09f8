"""The training loop: steps, evaluations, checkpoints, and at the end the test of the best weights."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from nip.data import open_split
from nip.training.batches import endless_batch
from nip.training.checkpoints import read_tensors
from nip.training.config import RunConfig, read_config
from nip.training.console import Console
from nip.training.graphs import run_pattern
from nip.training.original_log import write_original_log
from nip.training.process import keep_freed_memory
from nip.training.runs import Metrics, RunFolder, claimed, refuse_other, settle
from nip.training.schedules import one_cycle
from nip.training.stages import (
    Run,
    attention_choice,
    data_checksum,
    develop,
    final_test,
    open_folder,
    record,
    secure,
    set_up,
)
from nip.training.steps import TrainingDivergedError, tokens_in, train_step

__all__ = ["TrainingDivergedError", "train"]

SECONDS_BETWEEN_CHECKPOINTS = 60.0


def train(
    config: RunConfig,
    out: Path,
    *,
    data: Path | None = None,
    skip_train: bool = False,
    original_log: bool = False,
) -> dict[str, Any]:
    """Train as configured, test the weights of the best evaluation, and return what ``result.json`` holds.

    A run that was stopped, by whatever means, goes on where its last checkpoint is and ends with the bits it would have
    ended with. A finished one only has its result returned. A larger ``max_steps`` continues a run: from its last step
    on, the schedule is the longer one's.

    Parameters
    ----------
    config : RunConfig
    out : Path
        The run folder; made where it is missing.
    data : Path, optional
        The data folder; by default `nip.data.data_folder`.
    skip_train : bool, default=False
        Only test the best weights that there are.
    original_log : bool, default=False
        Also write the original's log, ``{task}_{model}_output.log``, into the run folder.

    Raises
    ------
    TrainingDivergedError
        If the loss is not finite; the last checkpoint stays.
    ValueError
        If the folder holds a run of other settings, or a setting is not possible.
    FileNotFoundError
        If the data is missing; the message says which command makes it.
    """
    # where there is no accelerator it must be told, or several processes do not find each other; for bf16 see `steps`
    accelerator = Accelerator(mixed_precision="no", cpu=not torch.accelerator.is_available())
    device = accelerator.device
    if device.type == "cpu":
        keep_freed_memory()
    folder = RunFolder(out)
    splits = {split: open_split(config.task, split, data) for split in ("train", "dev", "test")}
    if config.cut is not None:
        splits = {split: examples.cut(config.cut) for split, examples in splits.items()}
    for split in ("train", *(("dev", "test") if config.protocol == "original" else ())):
        endless_batch(len(splits[split]), config.batch_size, config.seed, split, 0)  # refuses a batch of more than all
    if config.batch_size < accelerator.num_processes:
        raise ValueError(
            f"A batch of {config.batch_size} examples cannot be shared by {accelerator.num_processes} processes."
        )
    if skip_train and not folder.best.is_file():
        raise ValueError(f"{out} has no best weights to test; train first, without skipping it.")
    with claimed(folder) if accelerator.is_main_process else nullcontext():
        accelerator.wait_for_everyone()
        if skip_train:
            config = dataclasses.replace(config, max_steps=read_config(folder.config).max_steps)
        config = settle(config, folder, device.type)
        graph = run_pattern(config, out)
        config = dataclasses.replace(config, checksum=graph.checksum, data=data_checksum(config.task, data))
        refuse_other(config, folder)
        taken = attention_choice(config, graph, device)
        finished = folder.finished(config.max_steps)
        with Console(folder.log if accelerator.is_main_process else None, config.max_steps) as console:
            if finished and not skip_train:
                console.say(f"{out} is finished: {config.max_steps:,} steps are done and tested.")
                return finished
            # dropout is seeded step by step; the caller's generators come back as they were
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                console.note(f"Attention is computed by {taken}.")
                run = set_up(config, folder, accelerator, graph, splits, console)
                accelerator.wait_for_everyone()  # all have read the checkpoint before the first writes another
                if not skip_train:
                    open_folder(run, graph)
                    learn(run, original_log=original_log)
                result = final_test(run, tested_only=skip_train)
                if original_log and accelerator.is_main_process:
                    write_original_log(folder.path, config)
                return result


def learn(run: Run, *, original_log: bool) -> None:
    """Take the steps that are missing."""
    config, progress, train_set = run.config, run.progress, run.splits["train"]
    main = run.accelerator.is_main_process
    metrics = Metrics(run.folder.metrics, progress.metrics_bytes) if main else None
    first_step, started, last_checkpoint = progress.step, run.tick(), run.tick()
    try:
        while progress.step < config.max_steps:
            step = progress.step
            rate, beta = one_cycle(step, config.max_steps, config.learning_rate, config.warmup)
            for group in run.optimizer.param_groups:
                group["lr"], group["betas"] = rate, (beta, group["betas"][1])
            indices = endless_batch(len(train_set), config.batch_size, config.seed, "train", step)
            begun = run.tick()
            loss, accuracy = train_step(run.model, run.optimizer, run.accelerator, train_set, indices, config, step)
            now = run.tick()
            progress.step = step + 1
            progress.tokens += tokens_in(train_set, indices, config)
            progress.training_seconds += now - begun
            record(run, metrics, "train", loss, accuracy, rate)
            run.console.step(
                progress.step,
                loss,
                accuracy,
                progress.tokens / progress.training_seconds,
                (now - started) / (progress.step - first_step) * (config.max_steps - progress.step),
                progress.best_accuracy if progress.best_step else None,
            )
            evaluated = progress.step % config.eval_every == 0 or progress.step == config.max_steps
            if evaluated:
                loss, accuracy = develop(run)
                record(run, metrics, "dev", loss, accuracy, rate)
            if metrics and (evaluated or now - last_checkpoint > SECONDS_BETWEEN_CHECKPOINTS):
                progress.metrics_bytes = metrics.secure()
                secure(run)
                last_checkpoint = run.tick()
                if evaluated and original_log:
                    write_original_log(run.folder.path, config)
    except TrainingDivergedError as error:
        raise TrainingDivergedError(f"{error} {_what_stays(run)}") from None
    finally:
        if metrics:
            metrics.close()


def _what_stays(run: Run) -> str:
    if not run.folder.checkpoint.is_file():
        return "There was no checkpoint yet."
    step = read_tensors(run.folder.checkpoint)[1]["step"]
    return f"The last good checkpoint, of step {step}, is kept in {run.folder.path}."
