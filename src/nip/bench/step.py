"""One training step of ListOps with attention over a pattern and with dense attention: same code outside attention.

The dense step attends over the complete pattern by torch's `scaled_dot_product_attention`, the padding masked.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from nip.bench.machine import Machine, this_machine
from nip.bench.profile import GROUPS, make_loading, make_step, padded_in_full, plainly, profile_step
from nip.bench.quiet import mm_probe, time_alternately
from nip.data import Examples, generate
from nip.graphs.pattern import check_int
from nip.lra import RunConfig, recipe
from nip.lra.config import settle
from nip.lra.graphs import run_pattern
from nip.lra.model import attention_choice
from nip.runs.folder import RunFolder
from nip.runs.process import keep_freed_memory

DENSE = "dense"
LOADING = "loading"

WAYS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "plain": plainly,
    "full": padded_in_full,
    "own": nullcontext,
}
"""How a batch is computed. ``plain``: at once, every example padded to the full length, with torch's dropout, memory
given back to the system. ``full``: in parts as in training, every example padded to the full length. ``own``: as in
training, each part padded to its own longest example."""


@dataclass(frozen=True)
class StepRow:
    """A step with one kind of attention, computed in one way."""

    attention: str
    """The backend; "dense" attends over the complete pattern."""
    pattern: str
    way: str
    """Among `WAYS`."""
    batch_size: int
    seq_len: int
    ms: float
    ratio_to_dense: float
    """Time / time of the dense step, computed in the same way."""
    loading_ms: float
    """Of the step, until its examples are there: a batch drawn, sorted, cut in parts and padded."""
    parts: dict[str, float]
    """Milliseconds by parts, as the profiler sees them, which slows the step; ``step`` is the whole."""
    repeats: int
    kept: int
    """Samples that were taken while the machine was quiet; 0 if none was, and all count."""
    machine: Machine

    @property
    def attention_share(self) -> float:
        """The part of the profiled step that attention takes."""
        return self.parts["attention"] / self.parts["step"]

    @property
    def loading_share(self) -> float:
        """The part of the step that goes by until its examples are there."""
        return self.loading_ms / self.ms

    def to_dict(self) -> dict[str, Any]:
        """JSON values; `parts` is an object, all else is flat."""
        record = {key: value for key, value in asdict(self).items() if key != "machine"}
        more = {
            "speedup_over_dense": 1 / self.ratio_to_dense,
            "attention_share": self.attention_share,
            "loading_share": self.loading_share,
        }
        return {**record, **more, **asdict(self.machine)}


def bench_step(
    backends: Sequence[str] = ("auto",),
    ways: Sequence[str] = ("full", "own"),
    *,
    model: str = "hypercube",
    batch_size: int = 32,
    seq_len: int = 2048,
    repeats: int = 7,
) -> Iterator[StepRow]:
    """Measure the step in every way, the dense one first; rows come as they are measured.

    The examples are drawn by the official rule of ListOps, so no data need be there. From the first way on that is not
    plain, the process keeps freed memory as training does.

    Parameters
    ----------
    backends : sequence of str
        Names as `attend` takes them.
    ways : sequence of str
        Among `WAYS`.
    model : str, default="hypercube"
        The pattern.
    batch_size, seq_len : int
        Examples of a step, and tokens that an example is cut or padded to.
    repeats : int, default=7
        Samples wanted of each while the machine is quiet.

    Raises
    ------
    ValueError
        If a name is unknown, a number is below 1, or a backend cannot do this.
    """
    check_int("repeats", repeats, "bench step", minimum=1)
    for way in ways:
        if way not in WAYS:
            raise ValueError(f"There is no way {way!r} to compute a batch. The ways are {', '.join(WAYS)}.")
    base = dataclasses.replace(
        recipe("listops"), batch_size=batch_size, seq_len=seq_len, positions=seq_len, precision="fp32"
    )
    configs = {DENSE: dataclasses.replace(base, model="softmax", backend="dense")}
    for name in backends:
        config = dataclasses.replace(base, model=model, backend=name)
        graph = run_pattern(config)
        taken = attention_choice(settle(config, RunFolder(Path()), "cpu"), graph, torch.device("cpu")).backend
        configs[f"{taken} {model}"] = dataclasses.replace(config, backend=taken)
    return _measure(configs, [way for way in WAYS if way in ways], repeats)


def _measure(configs: dict[str, RunConfig], ways: Sequence[str], repeats: int) -> Iterator[StepRow]:
    machine, probe = this_machine(), mm_probe()
    batch_size = configs[DENSE].batch_size
    examples: Examples = generate(sizes=(batch_size, 1, 1))["train"]
    for way in ways:
        if way == "plain":
            settled = {name: dataclasses.replace(c, gradient_accumulation=1) for name, c in configs.items()}
        else:
            keep_freed_memory()
            settled = {name: settle(config, RunFolder(Path()), "cpu") for name, config in configs.items()}
        with WAYS[way]():
            calls = {name: make_step(config, examples) for name, config in settled.items()}
            loading = make_loading(settled[DENSE], examples)
            timings = time_alternately({**calls, LOADING: loading}, repeats, probe)
            for name, call in calls.items():
                timing = timings[name]
                yield StepRow(
                    attention=settled[name].backend,
                    pattern=settled[name].model,
                    way=way,
                    batch_size=batch_size,
                    seq_len=settled[name].seq_len,
                    ms=timing.ms,
                    ratio_to_dense=timing.ms / timings[DENSE].ms,
                    loading_ms=timings[LOADING].ms,
                    parts=profile_step(call),
                    repeats=repeats,
                    kept=timing.kept,
                    machine=machine,
                )


HEADER = ["way", "attention", "pattern", "ms a step", "times dense", "attention's share", "loading", "quiet"]


def cells(row: StepRow) -> list[str]:
    """What a reader sees of a row, in the order of `HEADER`."""
    return [
        row.way,
        row.attention,
        row.pattern,
        f"{row.ms:,.0f}",
        f"{1 / row.ratio_to_dense:.3g}",
        f"{row.attention_share:.0%}",
        f"{row.loading_share:.1%}",
        f"{row.kept}",
    ]


def caption(rows: Sequence[StepRow]) -> str:
    """On what and how the rows were measured."""
    first = rows[0]
    return f"{first.machine}; {first.batch_size} examples of {first.seq_len:,} tokens, fp32; medians of {first.repeats}"


def to_markdown(rows: Sequence[StepRow]) -> str:
    """A table of the steps, and one of their parts."""
    columns = [f"{row.attention} {row.pattern}, {row.way}" for row in rows]
    lines = [caption(rows), "", f"| {' | '.join(HEADER)} |", "|---|---|---|--:|--:|--:|--:|--:|"]
    lines += [f"| {' | '.join(cells(row))} |" for row in rows]
    lines += ["", "Parts, in milliseconds, slowed by the profiler:", ""]
    lines += [f"| part | {' | '.join(columns)} |", f"|---|{'--:|' * len(rows)}"]
    for part in (*GROUPS, "other", "step"):
        lines.append(f"| {part} | {' | '.join(f'{row.parts[part]:,.0f}' for row in rows)} |")
    return "\n".join(lines) + "\n"
