"""A run from its configuration to its result: pretraining if asked for, training, the test of the best weights."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from nip.data import open_split
from nip.lra.batches import endless_batch
from nip.lra.config import KIND, RunConfig, check_same_config, read_config, settle
from nip.lra.denoising import pretrained, start_from
from nip.lra.evaluation import attention_choice, data_checksum, final_test, open_folder, set_up
from nip.lra.graphs import run_pattern
from nip.lra.learning import learn
from nip.lra.original_log import write_original_log
from nip.runs.console import Console
from nip.runs.folder import RunFolder, claimed
from nip.runs.process import keep_freed_memory
from nip.training.distributed import new_accelerator
from nip.training.train_step import TrainingDivergedError

__all__ = ["TrainingDivergedError", "train"]


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
    accelerator = new_accelerator()
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
    with claimed(folder, KIND, early=(folder.pattern,)) if accelerator.is_main_process else nullcontext():
        accelerator.wait_for_everyone()
        if skip_train:
            config = dataclasses.replace(config, max_steps=read_config(folder.config).max_steps)
        config = settle(config, folder, device.type)
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
            # dropout is seeded step by step; the caller's generators come back as they were
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                console.note(f"Attention is computed by {taken}.")
                run = set_up(config, folder, accelerator, graph, splits, console)
                accelerator.wait_for_everyone()  # all have read the checkpoint before the first writes another
                if not skip_train:
                    open_folder(run, graph)
                    if config.pretrain_steps and not run.progress.step:
                        start_from(run, pretrained(run, graph))
                    learn(run, original_log=original_log)
                result = final_test(run, tested_only=skip_train)
                if original_log and accelerator.is_main_process:
                    write_original_log(folder.path, config)
                return result
