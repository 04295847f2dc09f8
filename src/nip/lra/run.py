"""A run: denoising if the configuration asks for it, training, and the test of the best weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from nip.data import Examples, open_split
from nip.data.tasks.storage import pickles_length, read_manifest
from nip.graphs import Pattern
from nip.lra.batches import endless_batch, indices_to_test
from nip.lra.config import RunConfig, check_same_config, read_config, resolve
from nip.lra.denoising import load_encoder, pretrained_weights
from nip.lra.evaluation import final_test
from nip.lra.graphs import is_named_pattern, run_pattern
from nip.lra.model import attention_choice, encoder_config
from nip.lra.original_log import write_original_log
from nip.lra.original_model import fitted, original_pattern, read_original_model
from nip.lra.recipes import recipe
from nip.lra.record import KIND, OWNED, command_of, make_record
from nip.lra.task import LabelTask, start_run, write_best
from nip.models import build_classifier
from nip.runs.console import Console
from nip.runs.environment import environment, warn_of_changes
from nip.runs.folder import RunFolder, claimed, write_json, write_manifest
from nip.runs.process import keep_freed_memory
from nip.runs.record import write_record
from nip.training.distributed import new_accelerator
from nip.training.train_step import TrainingDivergedError
from nip.training.trainer import Run
from nip.training.trainer import train as run_steps

__all__ = ["TrainingDivergedError", "train"]


def train(
    config: RunConfig,
    out: Path,
    *,
    data: Path | None = None,
    skip_train: bool = False,
    original_log: bool = False,
) -> dict[str, Any]:
    """Train as configured, and test the weights of the best evaluation.

    A stopped run, even a killed one, resumes from its last checkpoint, with bit-identical results. The result of a
    finished run is returned as it is. A larger ``max_steps`` continues a run, from its last step on with the longer
    schedule.

    Parameters
    ----------
    config : RunConfig
    out : Path
        The run folder; created if missing.
    data : Path, optional
        The data folder; by default `nip.data.data_folder`.
    skip_train : bool, default=False
        Only test the best weights of an earlier run in the folder.
    original_log : bool, default=False
        Also write the log of the original code, ``{task}_{model}_output.log``, into the run folder.

    Returns
    -------
    dict
        The contents of ``result.json``.

    Raises
    ------
    TrainingDivergedError
        If the loss is NaN or infinite; the last checkpoint is kept.
    ValueError
        If the folder contains a different run, or settings are impossible.
    FileNotFoundError
        If the data is missing; the message names the command that makes it.
    """
    accelerator = new_accelerator()
    device = accelerator.device
    if device.type == "cpu":
        keep_freed_memory()
    folder = RunFolder(out)
    splits = open_splits(config, data)
    if config.batch_size < accelerator.num_processes:
        raise ValueError(
            f"A batch of {config.batch_size} examples cannot be shared by {accelerator.num_processes} processes."
        )
    if skip_train and not folder.best.is_file():
        raise ValueError(f"{out} has no best weights to test; train first, without skipping it.")
    with claimed(folder, KIND, OWNED) if accelerator.is_main_process else nullcontext():
        accelerator.wait_for_everyone()
        if skip_train:
            config = dataclasses.replace(config, max_steps=read_config(folder.config).max_steps)
        config = resolve(config, folder, device.type)
        graph = run_pattern(config, out)
        config = dataclasses.replace(config, checksum=graph.checksum, data=data_checksum(config.task, data))
        if folder.config.is_file():
            check_same_config(folder.path, read_config(folder.config), config)
        taken = attention_choice(config, graph, device)
        finished = folder.finished(config.max_steps)
        with Console(folder.log if accelerator.is_main_process else None, config.max_steps) as console:
            if finished and not skip_train:
                console.say(f"{out} is finished: {config.max_steps:,} steps are done and tested.")
                return finished
            # dropout is seeded step by step; the caller's generators are restored
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                console.note(f"Attention is computed by {taken}.")
                say_protocol(config, data, console)
                model = build_classifier(encoder_config(config), graph, seed=config.seed, backend=config.backend)
                run = start_run(model, config, folder, accelerator, console)
                task = LabelTask(config, splits, original_log=original_log)
                accelerator.wait_for_everyone()  # all have read the checkpoint before the first process writes another
                if not skip_train:
                    write_run_files(run, config, graph, task.measure)
                    if config.pretrain_steps and not run.progress.step:
                        load_encoder(run, pretrained_weights(run, config, splits, graph))
                    run_steps(run, task)
                result = final_test(run, config, splits, record=not skip_train)
                if original_log and accelerator.is_main_process:
                    write_original_log(folder.path, config)
                if accelerator.is_main_process and not skip_train:
                    write_manifest(folder.path, KIND, command_of(config), OWNED, finished=True)
                return result


def evaluate_original_model(config: RunConfig, file: Path, *, data: Path | None = None) -> dict[str, Any]:
    """Test the weights of a ``.model`` file that the original's ``run_tasks.py`` has written. Nothing is written.

    Parameters
    ----------
    config : RunConfig
        Of the original's protocol, to repeat its test.
    file : Path
    data : Path, optional
        The data folder; by default `nip.data.data_folder`.

    Returns
    -------
    dict
        As ``result.json``, with the file as ``weights``. Its best step and development accuracy are not known: None.

    Raises
    ------
    ValueError
        If the file is damaged, or of another task, attention or size.
    OSError
        If the file or the data cannot be read.
    """
    if config.protocol != "original":
        raise ValueError(f"{file} was trained by the original's protocol. Give --protocol original.")
    found, layout, softmax = read_original_model(file)
    accelerator = new_accelerator()
    splits = open_splits(config, data)
    config = resolve(config, RunFolder(file), accelerator.device.type)
    graph = original_pattern(file, config, layout, softmax=softmax)
    if graph != run_pattern(config) and accelerator.is_main_process:
        print(f"The blocks that were drawn for {file} are used: it contains its layout.", file=sys.stderr)
    with Console(None, config.max_steps) as console:
        model = build_classifier(encoder_config(config), graph, seed=config.seed, backend=config.backend)
        weights = fitted(file, found, model.state_dict())
        run = start_run(model, config, RunFolder(file), accelerator, console)
        return final_test(run, config, splits, record=False, original=(file, weights))


def open_splits(config: RunConfig, data: Path | None) -> dict[str, Examples]:
    """The three splits of the task, cut as configured, with enough examples for the protocol; else a ValueError."""
    splits = {split: open_split(config.task, split, data) for split in ("train", "dev", "test")}
    if config.cut is not None:
        splits = {split: examples.cut(config.cut) for split, examples in splits.items()}
    check_sizes(config, splits)
    return splits


def write_run_files(run: Run, config: RunConfig, graph: Pattern, measure: str) -> None:
    """Write the files that describe the run, and print what a resumed run changes.

    Parameters
    ----------
    run : Run
    config : RunConfig
    graph : Pattern
        Saved if the configuration's pattern and parameters do not build it.
    measure : str
        The name of the score in the header of the best weights.
    """
    folder, console, accelerator = run.folder, run.console, run.accelerator
    here = environment(accelerator.device, accelerator.num_processes, accelerator.distributed_type.value.lower())
    warn_of_changes(folder.environment, here, console)
    if run.progress.step:
        console.say(f"Resuming after step {run.progress.step:,} of {config.max_steps:,}.")
        planned = read_config(folder.config).max_steps
        if planned < config.max_steps:
            console.say(
                f"The run was planned for {planned:,} steps. From here on it follows the schedule of "
                f"{config.max_steps:,} steps; a run with that schedule from the start would have other results."
            )
    if not run.main:
        return
    if not is_named_pattern(graph, config):
        graph.save(folder.pattern)
    write_json(folder.config, dataclasses.asdict(config))
    write_record(folder, make_record(config))
    write_json(folder.environment, here)
    write_manifest(folder.path, KIND, command_of(config), OWNED, finished=False)
    if run.state.best:  # the run may have been killed between writing the checkpoint and the best weights
        write_best(run, measure)


def check_sizes(config: RunConfig, splits: Mapping[str, Examples]) -> None:
    """Check that the splits have a complete batch where the protocol needs one; a ValueError names the split."""
    n, size, seed = {split: len(examples) for split, examples in splits.items()}, config.batch_size, config.seed
    endless_batch(n["train"], size, seed, "train", 0, drop_last=config.drop_last)
    indices_to_test(n["test"], size, seed, config.protocol)


def say_protocol(config: RunConfig, data: Path | None, console: Console) -> None:
    """Print what the original's protocol makes of the settings and of the original's pickles."""
    if config.protocol == "original" and pickles_length(config.task, data) == config.seq_len:
        usual = recipe(config.task, "original").seq_len
        if config.seq_len != usual:
            console.say(f"The pickles' {config.seq_len:,} tokens are taken as they are; the recipe has {usual:,}.")
    if config.attention_dropout != config.attention_dropout_here:
        console.say(
            f"Attention weights over {config.model} are not dropped: in the original, attention_dropout "
            f"{config.attention_dropout:g} acts on softmax attention only."
        )
    if config.protocol == "original" and config.protocol_version == 1:
        console.say(
            "This run was started by an earlier version of nip and resumes as it began: the last incomplete batch of a "
            "pass is dropped, and attention_dropout acts on every pattern. In the original, neither is so."
        )


def data_checksum(task: str, data: Path | None) -> str:
    """One checksum of all splits of a task, from its manifest."""
    splits = read_manifest(task, data)["splits"]
    sums = {split: described["sha256"] for split, described in splits.items()}
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()
