"""Where the time of a training step goes: ``python -m nip.training.profile --data FOLDER``.

The step is measured twice in one process: plainly (the whole batch padded to full length, torch's dropout, memory given
back to the system) and as the loop takes it.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from accelerate import Accelerator
from torch.profiler import ProfilerActivity, profile, record_function

from nip.data import open_split
from nip.models import build_classifier, lra
from nip.training import RunConfig, RunFolder, recipe, steps
from nip.training.batches import endless_batch
from nip.training.environment import environment
from nip.training.graphs import run_pattern
from nip.training.process import keep_freed_memory
from nip.training.runs import settle
from nip.training.stages import encoder_config

# Parts of a step, by what the names of the profiler's outermost events contain; the first that fits counts.
GROUPS = {
    "attention": ("attention", "_Gather", "Attend", "ScaledDotProduct"),
    "dropout": ("ropout",),
    "layer norm": ("layer_norm", "LayerNorm"),
    "GELU": ("gelu", "Gelu"),
    "linear maps": ("linear", "Addmm", "Linear", "TBackward", "MmBackward", "mm"),
    "embeddings": ("embedding", "Embedding"),
    "gradients added up": ("AccumulateGrad",),
    "copies": ("Split", "View", "Transpose", "reshape", "transpose", "chunk", "Clone"),
    "optimizer": ("Optimizer",),
}


def profile_step(config: RunConfig, data: Path | None = None, repeats: int = 5) -> dict[str, float]:
    """Milliseconds of one training step, by parts; ``step`` is the whole, ``other`` what no part accounts for.

    The figures are medians over `repeats` steps, each with another batch, after two steps to warm up. The profiler
    slows them all.
    """
    train_set = open_split(config.task, "train", data)
    accelerator = Accelerator(mixed_precision="no")
    model = build_classifier(encoder_config(config), run_pattern(config), seed=config.seed, backend=config.backend)
    model = accelerator.prepare(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=accelerator.device.type in ("cpu", "cuda"))

    def take(step: int) -> None:
        indices = endless_batch(len(train_set), config.batch_size, config.seed, "train", step)
        steps.train_step(model, optimizer, accelerator, train_set, indices, config, step)

    take(0)
    take(1)
    found: list[dict[str, float]] = []
    for step in range(repeats):
        with profile(activities=[ProfilerActivity.CPU]) as profiled:
            began = time.perf_counter()
            take(step)
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
    """Let the profiler see attention as one event."""
    from nip.attention import attend

    def named(*arguments: Any, **options: Any) -> Any:
        with record_function("attention"):
            return attend(*arguments, **options)

    with replaced(lra, attend=named):
        yield


@contextmanager
def plainly() -> Iterator[None]:
    """Train as one would write it down first: full padding, and torch's own dropout."""

    def dropout(x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
        return torch.nn.functional.dropout(x, p, training)

    def add_dropout(residual: torch.Tensor, x: torch.Tensor, p: float, training: bool) -> torch.Tensor:
        return residual + torch.nn.functional.dropout(x, p, training)

    def padded_length(longest: int, config: RunConfig) -> int:
        return config.seq_len

    with replaced(lra, dropout=dropout, add_dropout=add_dropout), replaced(steps, padded_length=padded_length):
        yield


@contextmanager
def replaced(module: Any, **functions: Callable[..., Any]) -> Iterator[None]:
    """Put other functions in the place of a module's for a while."""
    before = {name: getattr(module, name) for name in functions}
    try:
        for name, function in functions.items():
            setattr(module, name, function)
        yield
    finally:
        for name, function in before.items():
            setattr(module, name, function)


def main(
    model: str = "hypercube",
    task: str = "listops",
    data: Path | None = None,
    repeats: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Print where the time of a training step goes, as a Markdown table."""
    config = dataclasses.replace(recipe(task), model=model)
    with attention_named():
        with plainly():
            before = profile_step(dataclasses.replace(config, gradient_accumulation=1, precision="fp32"), data, repeats)
        keep_freed_memory()
        after = profile_step(settle(config, RunFolder(Path()), "cpu"), data, repeats)
    machine = environment(torch.device("cpu"), 1)
    print(f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}; milliseconds\n")
    print("| part | plainly | as trained |\n|---|---:|---:|")
    for name in (*GROUPS, "other", "step"):
        print(f"| {name} | {before[name]:,.0f} | {after[name]:,.0f} |")


if __name__ == "__main__":
    typer.run(main)
