"""A prepared training step, and its time by groups of operations under torch's profiler."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch.profiler import ProfilerActivity, profile, record_function

from nip.data import Examples
from nip.lra import RunConfig, batches
from nip.lra.batches import endless_batch, longest_first, padded_micro_batches
from nip.lra.graphs import run_pattern
from nip.lra.model import encoder_config
from nip.lra.task import LabelTask
from nip.models import build_classifier, lra
from nip.runs.console import Console
from nip.runs.folder import RunFolder
from nip.training.checkpoint import TrainState
from nip.training.trainer import EngineSettings, Run, take_step

# Groups of operations, by substrings of the names of the profiler's outermost events; the first match decides.
GROUPS = {
    "attention": ("attention", "_Gather", "_FirstOnly", "Attend", "attend", "ScaledDotProduct", "MaskedFill"),
    "dropout": ("ropout",),
    "layer norm": ("layer_norm", "LayerNorm"),
    "GELU": ("gelu", "Gelu"),
    "linear maps": ("linear", "Addmm", "Linear", "TBackward", "MmBackward", "mm"),
    "embeddings": ("embedding", "Embedding"),
    "gradients added up": ("AccumulateGrad",),
    "copies": ("Split", "View", "Transpose", "reshape", "transpose", "chunk", "Clone"),
    "optimizer": ("Optimizer",),
}


def make_step(config: RunConfig, examples: Examples) -> Callable[[], None]:
    """Return a training step of a new model on the CPU, always with the same batch.

    Raises
    ------
    ValueError
        If accelerate selects another device.
    """
    accelerator = Accelerator(mixed_precision="no")
    if accelerator.device.type != "cpu":
        raise ValueError("A step is measured on a CPU. Set ACCELERATE_USE_CPU=1 in the environment.")
    model = build_classifier(encoder_config(config), run_pattern(config), seed=config.seed, backend=config.backend)
    model = accelerator.prepare(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    task = LabelTask(config, {"train": examples})
    state = TrainState(accelerator, model, optimizer)
    run = Run(EngineSettings(seed=config.seed), RunFolder(Path()), state, Console(None, None))

    def step() -> None:
        state.progress.step = 0
        take_step(run, task, task.batch(run))

    return step


def make_loading(config: RunConfig, examples: Examples) -> Callable[[], None]:
    """Return the loading of a training step, every time for the next batch: draw, sort, split and pad it."""
    assert config.gradient_accumulation
    parts, number = config.gradient_accumulation, itertools.count()

    def load() -> None:
        batch = endless_batch(len(examples), config.batch_size, config.seed, "train", next(number))
        for _ in padded_micro_batches(examples, np.array_split(longest_first(examples, batch), parts), config):
            pass

    return load


def profile_step(step: Callable[[], None], repeats: int = 3) -> dict[str, float]:
    """Milliseconds of a step by groups of operations; ``step`` is the total, ``other`` the remainder.

    The times are medians over `repeats` steps after one for warm-up. The profiler slows all of them.
    """
    step()
    found: list[dict[str, float]] = []
    for _ in range(repeats):
        with attention_named(), profile(activities=[ProfilerActivity.CPU]) as profiled:
            began = time.perf_counter()
            step()
            whole = 1e3 * (time.perf_counter() - began)
        found.append({"step": whole, **_grouped(profiled.events(), whole)})
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def _grouped(events: Any, whole: float) -> dict[str, float]:
    sums = dict.fromkeys(GROUPS, 0.0)
    for event in events:
        if event.cpu_parent is not None:
            continue
        name = event.name.removeprefix("autograd::engine::evaluate_function: ")
        group = next((group for group, words in GROUPS.items() if any(word in name for word in words)), None)
        if group is not None:
            sums[group] += event.cpu_time_total / 1e3
    return {**sums, "other": whole - sum(sums.values())}


@contextmanager
def attention_named() -> Iterator[None]:
    """Record attention as one event of the profiler."""
    from nip.attention import attend

    def named(*arguments: Any, **options: Any) -> Any:
        with record_function("attention"):
            return attend(*arguments, **options)

    with replaced(lra, attend=named):
        yield


@contextmanager
def padded_in_full() -> Iterator[None]:
    """Pad every example to the run's full length, as in the original code, not to the longest of its micro-batch."""

    def padded_length(longest: int, config: RunConfig) -> int:
        return config.seq_len

    with replaced(batches, padded_length=padded_length):
        yield


@contextmanager
def plainly() -> Iterator[None]:
    """Train with the simplest implementation: full padding, and torch's dropout."""

    def dropout(x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
        return torch.nn.functional.dropout(x, p, training)

    def add_dropout(residual: torch.Tensor, x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
        return residual + torch.nn.functional.dropout(x, p, training)

    with replaced(lra, dropout=dropout, add_dropout=add_dropout), padded_in_full():
        yield


@contextmanager
def replaced(module: Any, **functions: Callable[..., Any]) -> Iterator[None]:
    """Temporarily replace functions of a module."""
    before = {name: getattr(module, name) for name in functions}
    try:
        for name, function in functions.items():
            setattr(module, name, function)
        yield
    finally:
        for name, function in before.items():
            setattr(module, name, function)
