"""Timing on a machine with other load: every sample is taken between two probes, and repeated if one of them was slow.

A probe is a matrix product, compared with the fastest one measured: if it is much slower, another process used the CPU,
and the sample is unreliable. A probe leaves its matrices in the caches, so the call is warmed up once before the
sample; a long call fills the caches in a small share of its time and needs no warm-up.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

QUIET = 0.85
"""A sample is valid if the probes before and after it reach this share of the best probe's speed."""
TRIES = 3
"""Maximum number of samples taken, as a multiple of the requested number."""
LONG_SECONDS = 0.25
_SIDE = 1024

Clock = Callable[[], float]
Name = TypeVar("Name", bound=Hashable)


@dataclass
class Probe:
    """A call with a known number of operations, and its best speed so far in GFLOP/s."""

    call: Callable[[], object]
    flop: float
    clock: Clock = time.perf_counter
    best: float = 0.0

    def measure(self) -> float:
        """Measure the current speed in GFLOP/s."""
        start = self.clock()
        self.call()
        now = self.flop / (self.clock() - start) / 1e9
        self.best = max(self.best, now)
        return now


def mm_probe(dtype: torch.dtype = torch.float32) -> Probe:
    """A probe that calls `torch.mm` on two 1,024 × 1,024 matrices, already called ten times to find its best speed."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, _SIDE, _SIDE, generator=generator, device="cpu").to(dtype).unbind()
    product = torch.empty(_SIDE, _SIDE, dtype=dtype, device="cpu")
    probe = Probe(lambda: torch.mm(a, b, out=product), 2.0 * _SIDE**3)
    for _ in range(10):
        probe.measure()
    return probe


@dataclass(frozen=True)
class Timing:
    """The valid samples of a call."""

    times: list[float]
    """Milliseconds of the samples taken while the machine was quiet, or of all if it never was."""
    kept: int
    """Number of samples taken while the machine was quiet."""

    @property
    def ms(self) -> float:
        """The median in milliseconds."""
        return statistics.median(self.times)


def time_alternately(
    calls: Mapping[Name, Callable[[], object]],
    repeats: int,
    probe: Probe,
    *,
    extra_probes: Sequence[Probe] = (),
    clock: Clock = time.perf_counter,
) -> dict[Name, Timing]:
    """Time the calls in turns, and repeat samples that were taken while the machine was busy.

    Parameters
    ----------
    calls : mapping of names to callables
        Each is called once untimed first, to initialize it.
    repeats : int
        Number of quiet samples of each call; a call that has them waits for the others.
    probe : Probe
        Measures whether the machine is quiet.
    extra_probes : sequence of Probe, default=()
        Measured once per round, for their best speed.
    clock : callable
        Returns seconds.

    Returns
    -------
    dict of names to Timing
    """
    long = set()
    for name, call in calls.items():
        start = clock()
        call()
        if clock() - start >= LONG_SECONDS:
            long.add(name)
    samples: dict[Name, list[tuple[float, float]]] = {name: [] for name in calls}  # milliseconds, the slower probe
    before = probe.measure()
    for _ in range(TRIES * repeats):
        waiting = [name for name in calls if len(_quiet(samples[name], probe)) < repeats]
        if not waiting:
            break
        for name in waiting:
            if name not in long:
                calls[name]()
            start = clock()
            calls[name]()
            ms = 1e3 * (clock() - start)
            after = probe.measure()
            samples[name].append((ms, min(before, after)))
            before = after
        for other in extra_probes:
            other.measure()
    return {name: _timing(taken, probe) for name, taken in samples.items()}


def _quiet(samples: Sequence[tuple[float, float]], probe: Probe) -> list[float]:
    return [ms for ms, speed in samples if speed >= QUIET * probe.best]


def _timing(samples: Sequence[tuple[float, float]], probe: Probe) -> Timing:
    quiet = _quiet(samples, probe)
    return Timing(quiet or [ms for ms, _ in samples], len(quiet))
