"""Times on a machine that others use too: each sample lies between two probes, and is taken again where one was slow.

A probe is a product of matrices, whose speed is known from the best one seen: where it falls far behind, somebody else
had the processor, and the sample beside it says little. A probe leaves its matrices in the caches, so the call is made
once more before the sample; a long call fills the caches in a small part of its own time and needs no such warming.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

QUIET = 0.85
"""A sample counts if the probes before and after it reach this share of the best probe."""
TRIES = 3
"""At most so many times the samples that are wanted are taken."""
LONG_SECONDS = 0.25
_SIDE = 1024

Clock = Callable[[], float]
Name = TypeVar("Name", bound=Hashable)


@dataclass
class Probe:
    """A call of known work, and the fastest it has been, in 10⁹ operations a second."""

    call: Callable[[], object]
    flop: float
    clock: Clock = time.perf_counter
    best: float = 0.0

    def measure(self) -> float:
        """How fast it is now."""
        start = self.clock()
        self.call()
        now = self.flop / (self.clock() - start) / 1e9
        self.best = max(self.best, now)
        return now


def mm_probe(dtype: torch.dtype = torch.float32) -> Probe:
    """`torch.mm` of two 1,024 × 1,024 matrices, which has been called often enough to know its best."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, _SIDE, _SIDE, generator=generator).to(dtype).unbind()
    product = torch.empty(_SIDE, _SIDE, dtype=dtype)
    probe = Probe(lambda: torch.mm(a, b, out=product), 2.0 * _SIDE**3)
    for _ in range(10):
        probe.measure()
    return probe


@dataclass(frozen=True)
class Timing:
    """The samples of one call that count."""

    times: list[float]
    """Milliseconds: of the samples taken while the machine was quiet, or of all if it never was."""
    kept: int
    """How many were taken while the machine was quiet."""

    @property
    def ms(self) -> float:
        """The median."""
        return statistics.median(self.times)


def time_alternately(
    calls: Mapping[Name, Callable[[], object]],
    repeats: int,
    probe: Probe,
    *,
    beside: Sequence[Probe] = (),
    clock: Clock = time.perf_counter,
) -> dict[Name, Timing]:
    """Time every call `repeats` times in turns, each sample while the machine is quiet as far as it ever is.

    Parameters
    ----------
    calls : mapping of names to callables
        Each is made once untimed, for what sets itself up.
    repeats : int
        Quiet samples wanted of each; a call that has them waits for the others.
    probe : Probe
        Tells whether the machine is quiet.
    beside : sequence of Probe, default=()
        Measured once a round, for their own best.
    clock : callable
        Seconds.
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
        for other in beside:
            other.measure()
    return {name: _timing(taken, probe) for name, taken in samples.items()}


def _quiet(samples: Sequence[tuple[float, float]], probe: Probe) -> list[float]:
    return [ms for ms, speed in samples if speed >= QUIET * probe.best]


def _timing(samples: Sequence[tuple[float, float]], probe: Probe) -> Timing:
    quiet = _quiet(samples, probe)
    return Timing(quiet or [ms for ms, _ in samples], len(quiet))
