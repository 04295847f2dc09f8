"""A pretraining run from its settings to its model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from nip.data.text import verify
from nip.training.console import Console
from nip.training.environment import changes, environment
from nip.training.pretraining.ending import finish, run_facts
from nip.training.pretraining.folder import claimed_run, finished, refuse_other, settings_of
from nip.training.pretraining.loop import keep_good, secure, train_stage
from nip.training.pretraining.opening import (
    attention_choice,
    corpus_checksum,
    refuse_impossible,
    reopened,
    settled,
    slow_precision,
)
from nip.training.pretraining.run import Run, micro_batch, set_up
from nip.training.pretraining.settings import Settings
from nip.training.pretraining.speed import peak_of, works
from nip.training.pretraining.state import Progress, progress_in
from nip.training.pretraining.tracking import tracked
from nip.training.process import keep_freed_memory
from nip.training.runs import RUN_FILE, RunFolder, read_run_file, write_json
from nip.training.sharding import new_accelerator


def pretrain(settings: Settings, dataset: Path, out: Path, *, command: Sequence[str] = ()) -> dict[str, Any]:
    """Pretrain as the settings say, and return what ``result.json`` holds.

    A run that was stopped, by whatever means, goes on where its last checkpoint is; with budgets of steps and tokens it
    ends with the bits it would have ended with. A finished one only has its result returned. A larger budget continues
    a run.

    Parameters
    ----------
    settings : Settings
    dataset : Path
        A corpus that ``nip data corpus`` made.
    out : Path
        The run's folder; made where it is missing.
    command : sequence of str
        What was typed, for the record.

    Raises
    ------
    TrainingDivergedError
        If the loss stays no number, or jumps again and again; the last good state stays.
    ValueError
        If the folder holds another run, or a setting is not possible.
    FileNotFoundError
        If there is no corpus.
    """
    accelerator = new_accelerator()
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    folder = RunFolder(out)
    data = corpus_checksum(dataset)
    refuse_impossible(settings, dataset, accelerator)
    with claimed_run(folder) if accelerator.is_main_process else nullcontext():
        accelerator.wait_for_everyone()
        facts = read_run_file(folder.path)
        there = settings_of(facts, folder.path) if facts is not None else None
        settings = settled(settings, there, accelerator.device)
        described = run_facts(settings, data, command)
        if facts is not None:
            refuse_other(folder, facts, settings, data, described["checksum"])
        elif accelerator.is_main_process:
            verify(dataset)  # every byte, once: hours follow
        result = finished(folder, settings)
        with Console(folder.log if accelerator.is_main_process else None, settings.max_steps) as console:
            if result is not None:
                console.say(f"{out} is finished: {result['ended']}.")
                return result
            progress = progress_in(folder.checkpoint) if folder.checkpoint.is_file() else Progress()
            accelerator.wait_for_everyone()  # all know where the run stands before the first writes
            # dropout is seeded step by step; the caller's generators come back as they were
            devices = [accelerator.device] if accelerator.device.type == "cuda" else []
            fork = torch.random.fork_rng(devices=devices)
            with fork, tracked(settings, accelerator, folder, progress.step) as log:
                begun = foreseen = False
                while True:
                    run = set_up(settings, dataset, folder, accelerator, console, progress, log)
                    if not begun:
                        begin(run, described, again=reopened(settings, there))
                        flops = works(settings, run)
                        peak = peak_of(accelerator.device, settings.precision) * accelerator.num_processes
                    begun = True
                    run.flops, run.peak, run.foreseen = flops, peak, foreseen
                    say_stage(run)
                    over = train_stage(run)
                    progress, foreseen = run.progress, run.foreseen
                    if over:
                        return finish(run)
                    del run
                    accelerator.free_memory()


def begin(run: Run, described: dict[str, Any], *, again: bool) -> None:
    """Secure the run as it is, so that what cannot be written is known before the first step, and say what is there.

    Parameters
    ----------
    described : dict
        For ``run.json``.
    again : bool
        Whether the run goes on past what stopped it.
    """
    folder, console, accelerator = run.folder, run.console, run.accelerator
    if again:
        run.progress.stopped = None
    if run.main and not (folder.path / RUN_FILE).is_file():
        write_json(folder.path / RUN_FILE, described)  # first: what follows must not lie there without an owner
    if again or not folder.checkpoint.is_file():
        secure(run, None)
    else:
        keep_good(run)  # a kill may have come between the two
    if run.progress.step:
        console.say(f"Going on after step {run.progress.step:,}.")
    slow = slow_precision(run.settings, accelerator.device)
    if slow is not None:
        console.say(f"Warning: {slow}")
    here = environment(accelerator.device, accelerator.num_processes)
    here["distribution"] = accelerator.distributed_type.value.lower()
    if folder.environment.is_file():
        changed = changes(json.loads(folder.environment.read_text("utf-8")), here)
        if changed:
            console.say(f"Warning: {'; '.join(changed)}. The run goes on, but its last bits may come out otherwise.")
    accelerator.wait_for_everyone()
    if run.main:
        write_json(folder.path / RUN_FILE, described)  # new budgets, once the state knows of them
        write_json(folder.environment, here)


def say_stage(run: Run) -> None:
    """Say what the samples of the stage are, and what computes their attention."""
    accelerator = run.accelerator
    size = micro_batch(run.settings, run.length, accelerator.device, accelerator.num_processes)
    choice = attention_choice(run.settings, run.length, size, accelerator.device)
    run.console.note(f"Attention over {run.length} tokens is computed by {choice}.")
    if run.progress.step and not run.progress.stage_samples:
        run.console.say(f"From step {run.progress.step:,} on samples have {run.length} tokens.")
