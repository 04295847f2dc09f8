"""Attention over patterns on a GPU: FlexAttention, torch's dense attention and a sliding window of the same width.

Calls are timed in turns with CUDA events.
"""

from __future__ import annotations

import datetime
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from nip.attention import attend, block_layout
from nip.attention.tiles import tiling
from nip.bench.peers import window
from nip.bench.rows import DENSE, Case
from nip.graphs import pattern_parameters
from nip.graphs.pattern import check_int

WINDOW = "flex-window"
"""FlexAttention with a sliding window of the pattern's mean row width."""

BACKENDS = (DENSE, WINDOW, "flex")
DIRECTIONS = ("forward", "forward+backward")
LENGTHS = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
WARM_UP = 3  # the first call compiles
SAMPLE_MS = 5.0  # duration of a sample, in several calls if they are short: a single one would time the launch


@dataclass(frozen=True)
class Gpu:
    """The device and software of a measurement."""

    device: str
    torch: str
    cuda: str | None
    date: str

    def __str__(self) -> str:
        return f"{self.device}, torch {self.torch}, CUDA {self.cuda}, {self.date}"


@dataclass(frozen=True)
class GpuRow:
    """A measurement of a backend on a case, in one pass."""

    backend: str
    case: Case
    direction: str
    ms: float
    """Median time of a call."""
    ratio_to_dense: float | None
    """Time / time of torch's dense attention: below 1 is faster. None if dense attention did not fit."""
    ratio_to_window: float | None
    repeats: int
    peak_mib: float | None
    """Memory in addition to the inputs, including results and gradients; None if the clock cannot measure it."""
    density: float
    """Attended pairs over all pairs of tokens."""
    tile_density: float
    """Tiles of 128 × 128 tokens with an attended pair, over all tiles: the share that a GPU computes."""
    gpu: Gpu

    def to_dict(self) -> dict[str, Any]:
        """JSON values, flat."""
        record = {name: getattr(self, name) for name in self.__dataclass_fields__}
        del record["case"], record["gpu"]
        return {**asdict(self.case), "pass": record.pop("direction"), **record, **asdict(self.gpu)}


class Clock(Protocol):
    """Measures time and memory on a device."""

    def ms(self, call: Callable[[], object], times: int) -> float:
        """Mean time of a call in milliseconds, over `times` consecutive calls."""
        ...

    def peak_mib(self, call: Callable[[], object]) -> float | None:
        """Peak additional memory of a call in MiB; None if unknown."""
        ...


class CudaClock:
    """CUDA events, and the caching allocator's high-water mark."""

    def ms(self, call: Callable[[], object], times: int) -> float:
        """Mean time of a call in milliseconds, over `times` consecutive calls."""
        event: Any = torch.cuda.Event
        start, end = event(enable_timing=True), event(enable_timing=True)
        start.record()
        for _ in range(times):
            call()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / times

    def peak_mib(self, call: Callable[[], object]) -> float:
        """Peak additional memory of a call in MiB."""
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated() - before) / 2**20


class WallClock:
    """Wall-clock time, for a synchronous device; it cannot measure memory."""

    def ms(self, call: Callable[[], object], times: int) -> float:
        """Mean time of a call in milliseconds, over `times` consecutive calls."""
        start = time.perf_counter()
        for _ in range(times):
            call()
        return 1e3 * (time.perf_counter() - start) / times

    def peak_mib(self, call: Callable[[], object]) -> None:
        """Return None: unknown."""


def missing() -> str | None:
    """Why no GPU can be measured; None if one can."""
    if torch.cuda.is_available():
        return None
    built = "which is built for CPUs only" if torch.version.cuda is None else "which finds none"
    return f"nip bench gpu needs a CUDA device and a torch that uses it; this is torch {torch.__version__}, {built}."


def this_gpu() -> Gpu:
    """Describe the device and the software of a measurement."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    return Gpu(name, torch.__version__, torch.version.cuda, datetime.datetime.now(datetime.UTC).date().isoformat())


def bench_gpu(
    cases: Sequence[Case],
    directions: Sequence[str] = DIRECTIONS,
    *,
    repeats: int = 7,
    skipped: Callable[[str], object] = lambda sentence: None,
    device: str = "cuda",
    clock: Clock | None = None,
) -> Iterator[GpuRow]:
    """Measure every case with FlexAttention, its sliding window and torch's dense attention.

    Parameters
    ----------
    cases : sequence of Case
    directions : sequence of str
        From `DIRECTIONS`.
    repeats : int, default=7
        Number of samples, taken in turns after `WARM_UP` calls of each.
    skipped : callable, optional
        Called with a sentence for each measurement that does not fit into the device's memory.
    device : str, default="cuda"
    clock : Clock, optional
        Default: a `CudaClock`.

    Yields
    ------
    GpuRow

    Raises
    ------
    ValueError
        If a pattern or a pass is unknown, or a number is below 1.
    """
    repeats = check_int("repeats", repeats, "bench gpu", minimum=1)
    for direction in directions:
        if direction not in DIRECTIONS:
            raise ValueError(f"There is no pass {direction!r}. The passes are {', '.join(DIRECTIONS)}.")
    for name in {case.pattern for case in cases}:
        pattern_parameters(name)
    return _measure(cases, directions, repeats, skipped, torch.device(device), clock or CudaClock())


def _measure(
    cases: Sequence[Case], directions: Sequence[str], repeats: int, skipped: Callable[[str], object],
    device: torch.device, clock: Clock,
) -> Iterator[GpuRow]:  # fmt: skip
    gpu = this_gpu()
    for case in cases:
        layout = block_layout(case.graph(), case.block_size, case.n_tokens)
        for direction in directions:
            calls: dict[str, Callable[[], object]] = {}
            times: dict[str, int] = {}
            peaks: dict[str, float | None] = {}
            for backend in BACKENDS:
                try:
                    call = prepare(case, backend, direction, device)
                    for _ in range(WARM_UP):
                        estimate = clock.ms(call, 1)
                    peaks[backend] = clock.peak_mib(call)
                except torch.OutOfMemoryError:
                    what = f"{backend} {direction} of {case.n_tokens:,} tokens in {case.dtype}"
                    skipped(f"{what} does not fit into memory.")
                    continue
                calls[backend], times[backend] = call, max(1, min(100, math.ceil(SAMPLE_MS / max(estimate, 1e-3))))
            samples: dict[str, list[float]] = {backend: [] for backend in calls}
            for _ in range(repeats):
                for backend, call in calls.items():
                    samples[backend].append(clock.ms(call, times[backend]))
            medians = {backend: statistics.median(found) for backend, found in samples.items()}
            for backend, ms in medians.items():
                yield GpuRow(
                    backend=backend,
                    case=case,
                    direction=direction,
                    ms=ms,
                    ratio_to_dense=ms / medians[DENSE] if DENSE in medians else None,
                    ratio_to_window=ms / medians[WINDOW] if WINDOW in medians else None,
                    repeats=repeats,
                    peak_mib=peaks[backend],
                    density=case.density,
                    tile_density=tiling(layout).density,
                    gpu=gpu,
                )


def prepare(case: Case, backend: str, direction: str, device: torch.device) -> Callable[[], object]:
    """Return a call of a backend on random inputs.

    Parameters
    ----------
    case : Case
    backend : str
        From `BACKENDS`.
    direction : str
        From `DIRECTIONS`.
    device : torch.device

    Returns
    -------
    callable
    """
    generator = torch.Generator().manual_seed(0)
    shape = case.batch, case.heads, case.n_tokens, case.head_dim
    q, k, v, gradient = (
        torch.randn(shape, generator=generator, device="cpu").to(device, getattr(torch, case.dtype)) for _ in range(4)
    )
    backward = direction == "forward+backward"
    for x in (q, k, v):
        x.requires_grad_(backward)
    forward = _forward(case, backend, q, k, v)
    if not backward:
        return forward
    return lambda: torch.autograd.grad(forward(), (q, k, v), gradient)


def _forward(case: Case, backend: str, q: Tensor, k: Tensor, v: Tensor) -> Callable[[], Tensor]:
    if backend == DENSE:
        return lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v)
    if backend == "flex":
        pattern = case.graph()
        return lambda: attend(q, k, v, pattern, case.block_size, backend="flex")
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    width, on_gpu = window(case), q.device.type == "cuda"
    # Compiled on a GPU, so that the mask of tokens² is never materialized.
    mask = create_block_mask(
        lambda b, h, i, j: (i - j).abs() <= width,
        None,
        None,
        case.n_tokens,
        case.n_tokens,
        str(q.device),
        _compile=on_gpu,
    )
    torch.compiler.reset()  # after several shapes torch would stop compiling and materialize all scores
    attention: Any = torch.compile(flex_attention, dynamic=False) if on_gpu else flex_attention
    return lambda: attention(q, k, v, block_mask=mask)


HEADER = ["pattern", "tokens", "dtype", "pass", "backend", "ms", "time / dense", "time / window", "tiles", "peak MiB"]


def cells(row: GpuRow) -> list[str]:
    """The displayed texts of a row, in the order of `HEADER`."""
    case = row.case
    ratios = ["–" if ratio is None else f"{ratio:.3g}" for ratio in (row.ratio_to_dense, row.ratio_to_window)]
    tiles = f"{row.tile_density:.1%}" if row.backend == "flex" else ""
    return [
        case.pattern, f"{case.n_tokens:,}", case.dtype, row.direction, row.backend, f"{row.ms:,.3g}", *ratios, tiles,
        "" if row.peak_mib is None else f"{row.peak_mib:,.0f}",
    ]  # fmt: skip


def caption(rows: Sequence[GpuRow]) -> str:
    """The device and the settings of the measurement."""
    case = rows[0].case
    shape = f"batch {case.batch}, {case.heads} heads of {case.head_dim}, block {case.block_size}"
    return f"{rows[0].gpu}; {shape}; medians of {rows[0].repeats}"
