"""A run's parts and what is done with them beside the steps: set up, evaluate, test, write down."""

from __future__ import annotations

import hashlib
import json
import math
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from nip.attention import Choice, explain
from nip.data import TASKS, Examples, baselines
from nip.data.tasks.storage import read_manifest
from nip.graphs import Pattern
from nip.lra.batches import development_indices, indices_to_test
from nip.lra.config import OWNED, RunConfig, read_config, record_of
from nip.lra.graphs import named_exactly
from nip.lra.train_step import evaluate
from nip.models import EncoderConfig, build_classifier
from nip.runs.accuracy import in_words, learnt
from nip.runs.console import Console
from nip.runs.environment import changes, environment
from nip.runs.folder import Metrics, RunFolder, write_json, write_manifest
from nip.runs.record import write_record
from nip.training.checkpoint import Progress, load_checkpoint, read_tensors, save_checkpoint, write_tensors
from nip.training.distributed import (
    Weights,
    anywhere,
    bare,
    load_states,
    load_weights,
    share_of,
    shared_out,
    whole,
    whole_states,
)
from nip.training.ema import standing_in
from nip.training.train_step import TrainingDivergedError


@dataclass
class Run:
    """All that a run works with."""

    config: RunConfig
    folder: RunFolder
    accelerator: Accelerator
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    splits: dict[str, Examples]
    console: Console
    progress: Progress
    best: Weights
    average: Weights = field(default_factory=dict)
    measure: str = "dev_accuracy"
    """What `progress.best_accuracy` is."""
    looked: float = field(default_factory=time.perf_counter)

    def tick(self) -> float:
        """Count the seconds since the last look at the clock; what it shows."""
        now = time.perf_counter()
        self.progress.seconds += now - self.looked
        self.looked = now
        return now

    def averaged(self) -> AbstractContextManager[None]:
        """The average of the weights in their place for a while, where one is kept."""
        return standing_in(self.bare_model, self.average)

    @property
    def bare_model(self) -> torch.nn.Module:
        """The model without what accelerate wraps it in."""
        return bare(self.model)


def set_up(
    config: RunConfig,
    folder: RunFolder,
    accelerator: Accelerator,
    graph: Pattern,
    splits: dict[str, Examples],
    console: Console,
) -> Run:
    """Model and optimizer, new or as the checkpoint has them."""
    model = build_classifier(encoder_config(config), graph, seed=config.seed, backend=config.backend)
    return ready(model, config, folder, accelerator, splits, console)


def ready(
    model: torch.nn.Module,
    config: RunConfig,
    folder: RunFolder,
    accelerator: Accelerator,
    splits: dict[str, Examples],
    console: Console,
    measure: str = "dev_accuracy",
) -> Run:
    """A run of a model, as its checkpoint has it where there is one."""
    model.to(accelerator.device)
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=(0.9, config.beta2),
        eps=1e-6,
        weight_decay=config.weight_decay,
        fused=accelerator.device.type in ("cpu", "cuda"),
    )
    names = list(model.state_dict())
    model, optimizer = shared_out(accelerator, model, optimizer, config.precision)
    run = Run(config, folder, accelerator, model, optimizer, splits, console, Progress(), {}, measure=measure)
    if folder.checkpoint.is_file():
        weights, states, run.progress, run.best, average = load_checkpoint(folder.checkpoint, names)
        load_weights(accelerator, model, weights)
        load_states(accelerator, model, optimizer, states)
        held = run.bare_model.state_dict()
        run.average = {name: share_of(held[name], tensor) for name, tensor in average.items()}
    return run


def encoder_config(config: RunConfig) -> EncoderConfig:
    """The sizes of the model that a configuration asks for."""
    task, modern = TASKS[config.task], config.recipe == "modern"
    return EncoderConfig(
        vocab_size=task.vocab_size,
        n_classes=task.n_classes,
        length=config.seq_len,
        positions=config.positions,
        block_size=config.block_size,
        width=config.width,
        heads=config.heads,
        head_dim=config.head_dim,
        inner_width=config.inner_width,
        layers=config.layers,
        repeats=config.repeats,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        mean_over_padding=config.protocol == "original",
        pair=task.pair,
        per_token=task.targets,
        rotary=modern,
        columns=task.shape[1] if modern and task.shape else None,
        gated=modern,
        masked=modern,
        gradient_checkpointing=config.gradient_checkpointing,
        head_width=config.head_width,
        token_std=config.token_std,
        parts=task.parts,
    )


def attention_choice(config: RunConfig, graph: Pattern, device: torch.device) -> Choice:
    """Which backend attends over full inputs; a ValueError where the one asked for does not exist or cannot."""
    sizes = encoder_config(config)
    assert config.gradient_accumulation
    part = -(-config.batch_size // config.gradient_accumulation)
    q = torch.empty(part, sizes.heads, config.seq_len, sizes.head_dim, device=device)
    return explain(q, q, q, graph, config.block_size, dropout_p=config.attention_dropout, backend=config.backend)


def open_folder(run: Run, graph: Pattern) -> None:
    """Write what is known before the first step, and say what a resumed run should know."""
    config, folder, console = run.config, run.folder, run.console
    accelerator = run.accelerator
    here = environment(accelerator.device, accelerator.num_processes)
    here["distribution"] = accelerator.distributed_type.value.lower()
    if folder.environment.is_file():
        changed = changes(json.loads(folder.environment.read_text("utf-8")), here)
        if changed:
            console.say(f"Warning: {'; '.join(changed)}. The run goes on, but its last bits may come out otherwise.")
    if run.progress.step:
        console.say(f"Going on after step {run.progress.step:,} of {config.max_steps:,}.")
        planned = read_config(folder.config).max_steps
        if planned < config.max_steps:
            console.say(
                f"The run was planned for {planned:,} steps. From here on it follows the schedule of "
                f"{config.max_steps:,}; one that was planned for as many from the start would end otherwise."
            )
    if not accelerator.is_main_process:
        return
    if not named_exactly(graph, config):
        graph.save(folder.pattern)
    write_json(folder.config, json.loads(config.to_json()))
    write_record(folder, record_of(config))
    write_json(folder.environment, here)
    write_manifest(folder.path, (), OWNED, finished=False)
    if run.best:  # the checkpoint decides: a kill may have come between it and the file of the best weights
        write_best(run)


def develop(run: Run) -> tuple[float, float]:
    """Evaluate on the development set, and keep the weights if they are the best so far; loss and accuracy.

    Raises
    ------
    TrainingDivergedError
        If the loss is not finite.
    """
    config, progress, dev = run.config, run.progress, run.splits["dev"]
    indices = development_indices(
        len(dev),
        config.batch_size,
        config.seed,
        eval_steps=config.eval_steps,
        protocol=config.protocol,
        evaluation=progress.evaluations,
    )
    with run.averaged():
        loss, answers = evaluate(run.model, run.accelerator, dev, indices, config)
    if not math.isfinite(loss):
        raise TrainingDivergedError(f"The development loss became {loss} after step {progress.step}.")
    accuracy = answers.accuracy
    better = keep_best(run, accuracy)
    best = ", the best so far" if better else ""
    run.console.note(f"step {progress.step}: dev loss {loss:.4f}, dev accuracy {100 * accuracy:.2f} %{best}")
    return loss, accuracy


def keep_best(run: Run, score: float) -> bool:
    """Count an evaluation, and keep the weights that it was of if the score is the best so far; whether it is."""
    progress = run.progress
    progress.evaluations += 1
    better = not progress.best_step or score > progress.best_accuracy
    if better:
        progress.best_accuracy, progress.best_step = score, progress.step
        weights = whole(run.average or run.bare_model.state_dict(), kept=run.accelerator.is_main_process)
        run.best = {name: tensor.clone() for name, tensor in weights.items()}
    return better


def final_test(run: Run, *, tested_only: bool) -> dict[str, Any]:
    """Test the best weights, say how they do, and (unless nothing was trained) write it down."""
    config, folder, examples = run.config, run.folder, run.splits["test"]
    run.accelerator.wait_for_everyone()  # only the first process writes the best weights
    weights, header = read_tensors(folder.best)
    load_weights(run.accelerator, run.model, weights)
    indices = indices_to_test(len(examples), config.batch_size, config.seed, config.protocol)
    loss, answers = evaluate(run.model, run.accelerator, examples, indices, config)
    interval = answers.interval
    without_learning = baselines(run.splits["train"], examples)
    run.tick()
    progress = run.progress
    result = {
        "task": config.task,
        "model": config.model,
        "seed": config.seed,
        "protocol": config.protocol,
        "test_accuracy": answers.accuracy,
        "interval": list(interval),
        "test_loss": loss,
        "n_test": len(indices),
        **({"n_answers": answers.asked} if examples.task.targets else {}),
        "dev_accuracy": header["dev_accuracy"],
        "best_step": header["step"],
        "steps": progress.step,
        **({} if config.patience is None else {"planned_steps": config.max_steps}),
        "baselines": without_learning,
        "learnt": learnt(interval, without_learning),
        "tokens": progress.tokens,
        "tokens_per_second": round(progress.tokens / max(progress.training_seconds, 1e-9), 1),
        "seconds": round(progress.seconds, 3),
        "training_seconds": round(progress.training_seconds, 3),
    }
    if run.accelerator.is_main_process and not tested_only:
        metrics = Metrics(folder.metrics, progress.metrics_bytes)
        record(run, metrics, "test", loss, result["test_accuracy"], None)
        metrics.secure()
        metrics.close()
        write_json(folder.result, result)
        write_manifest(folder.path, (), OWNED, finished=True)
    run.console.note(in_words(result))
    return result


def record(run: Run, metrics: Metrics | None, split: str, loss: float, accuracy: float, rate: float | None) -> None:
    """Write one line of measurements."""
    run.tick()
    if metrics:
        progress = run.progress
        metrics.write(
            {
                "step": progress.step,
                "split": split,
                "loss": loss,
                "accuracy": accuracy,
                "learning_rate": rate,
                "tokens": progress.tokens,
                "seconds": round(progress.seconds, 3),
            }
        )


def secure(run: Run) -> None:
    """Write a checkpoint, and the best weights where they are new; to be called by all processes.

    Raises
    ------
    TrainingDivergedError
        If a weight is not finite; the checkpoint before stays.
    """
    main = run.accelerator.is_main_process
    weights = whole(run.bare_model.state_dict(), kept=main)
    if anywhere(run.accelerator, not all(bool(tensor.isfinite().all()) for tensor in weights.values())):
        raise TrainingDivergedError(f"The weights are no numbers any more after step {run.progress.step}.")
    states = whole_states(run.accelerator, run.model, run.optimizer)
    average = whole(run.average, kept=main)
    if main:
        save_checkpoint(run.folder.checkpoint, weights, states, run.progress, run.best, average)
        if run.progress.best_step == run.progress.step:
            write_best(run)


def write_best(run: Run) -> None:
    """Write the best weights so far, with their step and what they are the best by."""
    header = {"step": run.progress.best_step, run.measure: run.progress.best_accuracy}
    write_tensors(run.folder.best, run.best, header)


def data_checksum(task: str, data: Path | None) -> str:
    """One checksum of all splits of a task, from its manifest."""
    splits = read_manifest(task, data)["splits"]
    sums = {split: described["sha256"] for split, described in splits.items()}
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()
