"""Attention over a pattern against torch's dense attention and against peers: time, speed and peak memory.

Times are taken in turns, one call of each backend, so that a machine that is busy for a while slows all, and only while
the machine is quiet as far as it ever is (see `nip.bench.quiet`). Medians are told.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch

from nip import graphs
from nip.attention import BACKENDS, explain
from nip.bench import peers
from nip.bench.machine import this_machine
from nip.bench.memory import high_water, in_own_process
from nip.bench.problem import attention
from nip.bench.quiet import Probe, mm_probe, time_alternately
from nip.bench.rows import DENSE, FORWARD_PASSES, Case, Row
from nip.graphs.pattern import check_int

DIRECTIONS = tuple(FORWARD_PASSES)

DENSE_UP_TO = 16384
"""Dense attention is measured on no longer inputs unless asked for: each call would take minutes."""


@dataclass(frozen=True)
class Group:
    """What is measured in turns: a case, a pass, and the names of backends and peers; torch's dense attention leads."""

    case: Case
    direction: str
    names: tuple[str, ...]


def plan(
    cases: Sequence[Case],
    backends: Sequence[str],
    directions: Sequence[str],
    rivals: Sequence[str] = (),
    dense_up_to: int = DENSE_UP_TO,
) -> tuple[list[Group], list[str]]:
    """What to measure, and why some of what was asked for is left out.

    Raises
    ------
    ValueError
        If a pattern, backend, pass or peer is unknown, or nothing is left to measure beside dense attention.
    """
    for names, legal, what in (
        (directions, DIRECTIONS, "pass"),
        (backends, ("auto", *BACKENDS), "attention backend"),
        (rivals, tuple(peers.PEERS), "peer"),
    ):
        for name in names:
            if name not in legal:
                plural = "passes" if what == "pass" else f"{what.split()[-1]}s"
                raise ValueError(f"There is no {what} {name!r}. The {plural} are {', '.join(legal)}.")
    for pattern in {case.pattern for case in cases}:
        graphs.pattern_parameters(pattern)
    groups, left_out = [], []
    for case in cases:
        for direction in directions:
            taken = []
            for name in (*backends, *rivals):
                try:
                    taken.append(_taken(case, name, direction))
                except ValueError as refusal:
                    left_out.append(str(refusal))
            if taken:
                beside = [DENSE] if case.n_tokens <= dense_up_to else []
                groups.append(Group(case, direction, tuple(dict.fromkeys([*beside, *taken]))))
    left_out = list(dict.fromkeys(left_out))
    if not groups:
        raise ValueError(left_out[0] if left_out else "There is nothing to measure. Name a pattern and a length.")
    return groups, left_out


def _taken(case: Case, name: str, direction: str) -> str:
    """The backend that attend takes for that name, or the peer; a ValueError says why there is none."""
    if name in peers.PEERS:
        refusal = peers.PEERS[name].refuses(case, direction)
        if refusal is None:
            return name
        raise ValueError(f"The peer {name!r} is left out of {direction} in {case.dtype}: {refusal}.")
    like = torch.empty(case.batch, case.heads, case.n_tokens, case.head_dim, dtype=getattr(torch, case.dtype))
    like.requires_grad_(direction != "forward")
    return explain(like, like, like, case.graph(), case.block_size, backend=name).backend


def bench_attention(
    cases: Sequence[Case],
    backends: Sequence[str] = ("auto",),
    directions: Sequence[str] = ("forward", "forward+backward"),
    *,
    rivals: Sequence[str] = (),
    dense_up_to: int = DENSE_UP_TO,
    repeats: int = 7,
    memory: bool = True,
    left_out: Callable[[str], object] | None = None,
) -> Iterator[Row]:
    """Measure every case with every backend and with dense attention; rows come as they are measured.

    Parameters
    ----------
    cases : sequence of Case
    backends : sequence of str
        Names as `attend` takes them; a row tells which backend "auto" took.
    directions : sequence of str
        Among "forward", "backward" and "forward+backward".
    rivals : sequence of str, default=()
        Names among `nip.bench.peers.PEERS`.
    dense_up_to : int, default=16384
        Tokens of the longest case that dense attention is measured on.
    repeats : int, default=7
        Samples wanted of each while the machine is quiet; at most three times as many are taken.
    memory : bool, default=True
        Also measure peak memory, each in a process of its own.
    left_out : callable, optional
        Is told, a sentence each, what a backend or peer cannot do and is left out.

    Raises
    ------
    ValueError
        If a pattern, backend, pass or peer is unknown, or none can do any of this.
    """
    check_int("repeats", repeats, "bench attention", minimum=1)
    groups, missing = plan(cases, backends, directions, rivals, dense_up_to)
    if left_out is not None:
        for reason in missing:
            left_out(reason)
    return _measure(groups, repeats, memory=memory)


def _measure(groups: Sequence[Group], repeats: int, *, memory: bool) -> Iterator[Row]:
    machine = this_machine()
    sgemm = mm_probe()
    others = {
        name: mm_probe(getattr(torch, name))
        for name in {group.case.dtype for group in groups} & {"bfloat16", "float64"}
    }
    for group in groups:
        case, direction = group.case, group.direction
        calls = {name: prepare(case, name, direction) for name in group.names}
        own = others.get(case.dtype)
        timings = time_alternately(calls, repeats, sgemm, beside=[own] if own else [])
        del calls  # the results that backward passes start from
        for name, timing in timings.items():
            yield Row(
                backend=name,
                case=case,
                direction=direction,
                ms=timing.ms,
                ratio_to_dense=timing.ms / timings[DENSE].ms if DENSE in timings else None,
                repeats=repeats,
                peak_mib=peak_mib(case, name, direction, machine.threads) if memory else None,
                machine=machine,
                density=_density(case, name),
                sgemm_gflops=sgemm.best,
                mm_gflops=_best(case, sgemm, own),
                kept=timing.kept,
            )


def _density(case: Case, name: str) -> float | None:
    if name == DENSE:
        return 1.0
    return peers.PEERS[name].density(case) if name in peers.PEERS else case.density


def _best(case: Case, sgemm: Probe, own: Probe | None) -> float | None:
    if case.dtype == "float32":
        return sgemm.best
    return own.best if own else None


def prepare(case: Case, name: str, direction: str) -> Callable[[], object]:
    """One call of a backend, of a peer or of dense attention on random inputs, ready to be measured."""
    problem = peers.prepare(name, case) if name in peers.PEERS else attention(case, name)
    return problem.call(direction)


def peak_mib(case: Case, backend: str, direction: str, threads: int) -> float | None:
    """Largest resident memory during the call above that before it, inputs not counted, results and gradients counted.

    None where the system keeps no resettable high-water mark (anything but Linux).

    Raises
    ------
    ValueError
        If the process runs out of memory or fails otherwise; the message is the process's last line.
    """
    job = {"case": asdict(case), "backend": backend, "direction": direction, "threads": threads}
    return in_own_process("nip.bench.attention", job, f"{backend} at {case.n_tokens} tokens")


def _main(job: str) -> None:
    request = json.loads(job)
    torch.set_num_threads(request["threads"])
    case = Case(**request["case"])
    backend, direction = request["backend"], request["direction"]
    call = prepare(case, backend, direction)
    if backend in peers.PEERS:  # some are compiled for a size
        call()
    else:
        small = Case(**{**request["case"], "n_tokens": 2 * case.block_size, "batch": 1})
        prepare(small, backend, direction)()  # libraries and threads set themselves up
    print(high_water(call) / 2**20)


if __name__ == "__main__":
    _main(sys.argv[1])
