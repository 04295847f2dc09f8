"""A step of BERT pretraining with attention over patterns and dense, with the same code, batch and optimizer otherwise.

The step is that of `nip pretrain`: forward and backward pass, only masked positions through the output layer (or all of
them, as in transformers, for comparison), gradient clipping, AdamW. Every sample is one document without padding; dense
attention is transformers' ``sdpa``. Reading and masking samples, which a separate thread does, is not included.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from nip.attention import explain
from nip.bench.machine import Machine, this_machine
from nip.bench.memory import high_water, in_own_process
from nip.bench.quiet import mm_probe, time_alternately
from nip.bench.table import markdown_table
from nip.data.corpus import Vocabulary
from nip.graphs import pattern
from nip.graphs.pattern import check_int
from nip.pretraining.cost import training_flops
from nip.pretraining.model import MaskedLMObjective, ModelSettings, build_model, total_loss
from nip.pretraining.settings import ARCHITECTURES
from nip.runs.process import keep_freed_memory
from nip.training.optimizers import make_optimizer

DENSE = "sdpa"
OUTPUTS = ("masked", "all")
CLIP = 1.0


@dataclass(frozen=True)
class Problem:
    """A model and its batch."""

    n_tokens: int
    batch: int = 1
    layers: int = 6
    width: int = 384
    heads: int = 12
    vocab_size: int = 8192
    block_size: int = 16
    family: str = "bert"
    masked: float = 0.15
    """Share of tokens that are predicted."""
    bf16: bool = False

    def __post_init__(self) -> None:
        for name in ("n_tokens", "batch", "layers", "width", "heads", "vocab_size", "block_size"):
            object.__setattr__(self, name, check_int(name, getattr(self, name), "bench pretrain", minimum=1))
        if not 0 < self.masked <= 1:
            raise ValueError(f"The share of masked tokens must be above 0, at most 1. Got {self.masked} instead.")
        if self.family not in ARCHITECTURES:
            raise ValueError(f"There is no model {self.family!r}. The models are {', '.join(ARCHITECTURES)}.")
        _ = self.settings  # raises ValueError for inconsistent settings

    @property
    def settings(self) -> ModelSettings:
        """Settings of the model, without dropout."""
        return ModelSettings(
            self.layers,
            self.width,
            self.heads,
            4 * self.width,
            architecture=self.family,
            max_position_embeddings=self.n_tokens,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )

    @property
    def vocabulary(self) -> Vocabulary:
        """A vocabulary of the size, without tokens."""
        return Vocabulary(self.vocab_size, 0, 2, 3, 4, (0, 1, 2, 3, 4))

    @property
    def n_masked(self) -> int:
        """Number of masked tokens of a sample."""
        return max(1, round(self.masked * self.n_tokens))


@dataclass(frozen=True)
class PretrainingRow:
    """A measurement of a step with one kind of attention."""

    attention: str
    """The backend; "sdpa" is transformers' dense attention."""
    pattern: str
    output: str
    """The positions that the output layer computes, from `OUTPUTS`."""
    problem: Problem
    ms: float
    ratio_to_dense: float
    """Time / time of the dense step with the same output."""
    work_to_dense: float
    """Floating-point operations of the step / those of the dense step: the time ratio to expect at equal FLOP/s."""
    peak_mib: float | None
    """Memory of the step in addition to model and optimizer; None if it was not measured."""
    repeats: int
    kept: int
    """Samples taken while the machine was quiet; if 0, all samples are used."""
    machine: Machine

    @property
    def tokens_per_second(self) -> float:
        """Throughput of the step."""
        return 1e3 * self.problem.batch * self.problem.n_tokens / self.ms

    def to_dict(self) -> dict[str, Any]:
        """JSON values, flat."""
        return {
            "backend": self.attention,
            "pattern": self.pattern,
            "pass": "training",
            "output": self.output,
            **asdict(self.problem),
            "head_dim": self.problem.width // self.problem.heads,
            "dtype": "bfloat16" if self.problem.bf16 else "float32",
            "ms": self.ms,
            "ratio_to_dense": self.ratio_to_dense,
            "speedup_over_dense": 1 / self.ratio_to_dense,
            "speedup_of_arithmetic": 1 / self.work_to_dense,
            "tokens_per_second": self.tokens_per_second,
            "peak_mib": self.peak_mib,
            "repeats": self.repeats,
            "kept": self.kept,
            **asdict(self.machine),
        }


def bench_pretraining(
    problems: Sequence[Problem],
    patterns: Sequence[str] = ("hypercube",),
    outputs: Sequence[str] = ("masked",),
    *,
    backend: str = "auto",
    repeats: int = 7,
    memory: bool = True,
) -> Iterator[PretrainingRow]:
    """Measure steps with attention over patterns and with dense attention, in turns; rows are yielded when measured.

    Parameters
    ----------
    problems : sequence of Problem
    patterns : sequence of str
        Names of patterns, with their default parameters.
    outputs : sequence of str
        From `OUTPUTS`.
    backend : str, default="auto"
        As for `nip.attend`.
    repeats : int, default=7
        Number of samples to take while the machine is quiet.
    memory : bool, default=True
        Also measure peak memory, in a separate process each.

    Yields
    ------
    PretrainingRow

    Raises
    ------
    ValueError
        If a pattern or an output is unknown or a number is below 1.
    """
    repeats = check_int("repeats", repeats, "bench pretrain", minimum=1)
    for output in outputs:
        if output not in OUTPUTS:
            raise ValueError(f"There is no output {output!r}. The outputs are {', '.join(OUTPUTS)}.")
    for problem in problems:
        for name in patterns:
            pattern(name, -(-problem.n_tokens // problem.block_size))
    return _measure(problems, patterns, outputs, backend, repeats, memory)


def _measure(
    problems: Sequence[Problem],
    patterns: Sequence[str],
    outputs: Sequence[str],
    backend: str,
    repeats: int,
    memory: bool,
) -> Iterator[PretrainingRow]:
    keep_freed_memory()
    machine, probe = this_machine(), mm_probe()
    for problem in problems:
        calls = {(name, output): prepare(problem, name, output, backend)
                 for output in outputs for name in (DENSE, *patterns)}  # fmt: skip
        timings = time_alternately(calls, repeats, probe)
        del calls
        for (name, output), timing in timings.items():
            yield PretrainingRow(
                attention=DENSE if name == DENSE else _selected_backend(problem, name, backend),
                pattern="softmax" if name == DENSE else name,
                output=output,
                problem=problem,
                ms=timing.ms,
                ratio_to_dense=timing.ms / timings[DENSE, output].ms,
                work_to_dense=_work(problem, name, output) / _work(problem, DENSE, output),
                peak_mib=_peak_mib(problem, name, output, backend, machine.threads) if memory else None,
                repeats=repeats,
                kept=timing.kept,
                machine=machine,
            )


def prepare(problem: Problem, name: str, output: str = "masked", backend: str = "auto") -> Callable[[], object]:
    """Return a call that takes one step, always on the same batch.

    Parameters
    ----------
    problem : Problem
    name : str
        A pattern or "sdpa".
    output : str, default="masked"
        From `OUTPUTS`.
    backend : str, default="auto"
        As for `nip.attend`.

    Returns
    -------
    callable
    """
    model = build_model(
        problem.settings,
        problem.vocabulary,
        None if name == DENSE else name,  # without a pattern a layer uses transformers' sdpa
        block_size=problem.block_size,
        backend=backend,
    )
    objective = MaskedLMObjective(model).train()
    optimizer = make_optimizer(objective, "adamw", learning_rate=1e-4)
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(5, problem.vocab_size, (problem.batch, problem.n_tokens), generator=draw, device="cpu")
    places = torch.stack(
        [torch.randperm(problem.n_tokens, generator=draw, device="cpu")[: problem.n_masked] for _ in ids]
    )
    positions = (places + problem.n_tokens * torch.arange(problem.batch, device="cpu")[:, None]).flatten()
    labels = ids.flatten()[positions]
    everywhere = torch.full_like(ids, -100).flatten().index_copy(0, positions, labels).view_as(ids)

    def loss() -> torch.Tensor:
        if output == "masked":
            return total_loss(objective(ids, positions, labels), len(labels), problem.batch)
        mean_loss: torch.Tensor = model(ids, labels=everywhere).loss
        return mean_loss

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=problem.bf16):
            found = loss()
        found.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(objective.parameters(), CLIP)
        optimizer.step()

    return step


def _work(problem: Problem, name: str, output: str) -> float:
    with torch.device("meta"):
        graph = None if name == DENSE else name
        model = build_model(problem.settings, problem.vocabulary, graph, block_size=problem.block_size)
    return training_flops(model, problem.n_tokens, problem.n_masked if output == "masked" else problem.n_tokens).total


def _selected_backend(problem: Problem, name: str, backend: str) -> str:
    dtype = torch.bfloat16 if problem.bf16 else torch.float32
    shape = problem.batch, problem.heads, problem.n_tokens, problem.width // problem.heads
    like = torch.empty(shape, dtype=dtype, requires_grad=True, device="cpu")
    graph = pattern(name, -(-problem.n_tokens // problem.block_size))
    return explain(like, like, like, graph, problem.block_size, backend=backend).backend


def _peak_mib(problem: Problem, name: str, output: str, backend: str, threads: int) -> float | None:
    job = {"problem": asdict(problem), "step": [name, output, backend], "threads": threads}
    return in_own_process("nip.bench.pretrain", job, f"{name} at {problem.n_tokens} tokens")


HEADER = [
    "tokens", "batch", "attention", "pattern", "output", "ms", "times dense", "times dense by FLOP", "tokens/s",
    "peak MiB", "quiet",
]  # fmt: skip


def cells(row: PretrainingRow) -> list[str]:
    """The displayed texts of a row, in the order of `HEADER`."""
    return [
        f"{row.problem.n_tokens:,}",
        f"{row.problem.batch}",
        row.attention,
        row.pattern,
        row.output,
        f"{row.ms:,.4g}",
        f"{1 / row.ratio_to_dense:.3g}",
        f"{1 / row.work_to_dense:.3g}",
        f"{row.tokens_per_second:,.0f}",
        "—" if row.peak_mib is None else f"{row.peak_mib:,.0f}",
        f"{row.kept}",
    ]


def caption(rows: Sequence[PretrainingRow]) -> str:
    """The machine, the model and the settings of the measurement."""
    first, problem = rows[0], rows[0].problem
    return (
        f"{first.machine}; {problem.family}, {problem.layers} layers, {problem.width} wide, {problem.heads} heads, "
        f"vocabulary {problem.vocab_size:,}, {'bfloat16' if problem.bf16 else 'float32'}, blocks of "
        f"{problem.block_size}, {problem.masked:.0%} masked; forward, backward, clipping and AdamW; medians of "
        f"{first.repeats}"
    )


def to_markdown(rows: Sequence[PretrainingRow]) -> str:
    """The caption and a Markdown table."""
    return markdown_table(caption(rows), HEADER, map(cells, rows))


def _main(job: str) -> None:
    request = json.loads(job)
    torch.set_num_threads(request["threads"])
    problem = Problem(**request["problem"])
    small = Problem(**{**request["problem"], "n_tokens": 2 * problem.block_size, "batch": 1})
    prepare(small, *request["step"])()  # initializes libraries and threads
    print(high_water(prepare(problem, *request["step"])) / 2**20)


if __name__ == "__main__":
    _main(sys.argv[1])
