"""Attention over a pattern against torch's dense attention and other libraries: time, speed and peak memory.

The backends are timed in turns, one call of each, so that other load on the machine slows all of them, and samples
taken under load are repeated (see `nip.bench.quiet`). Medians are reported.
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
"""The default maximum length for dense attention: above it each call takes minutes."""


@dataclass(frozen=True)
class Group:
    """A case, a pass, and the backends and peers that are timed in turns; torch's dense attention is the first."""

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
    """Determine what to measure, and why some of the requested measurements are skipped.

    Parameters
    ----------
    cases, backends, directions, rivals, dense_up_to
        As for `bench_attention`.

    Returns
    -------
    groups : list of Group
    left_out : list of str
        The reasons, as sentences.

    Raises
    ------
    ValueError
        If a pattern, backend, pass or peer is unknown, or only dense attention is left to measure.
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
                    taken.append(_selected_backend(case, name, direction))
                except ValueError as refusal:
                    left_out.append(str(refusal))
            if taken:
                dense = [DENSE] if case.n_tokens <= dense_up_to else []
                groups.append(Group(case, direction, tuple(dict.fromkeys([*dense, *taken]))))
    left_out = list(dict.fromkeys(left_out))
    if not groups:
        raise ValueError(left_out[0] if left_out else "There is nothing to measure. Name a pattern and a length.")
    return groups, left_out


def _selected_backend(case: Case, name: str, direction: str) -> str:
    """The backend that attend selects for that name, or the peer; raises ValueError if it cannot compute the case."""
    if name in peers.PEERS:
        refusal = peers.PEERS[name].refuses(case, direction)
        if refusal is None:
            return name
        raise ValueError(f"The peer {name!r} is skipped for {direction} in {case.dtype}: {refusal}.")
    like = torch.empty(
        case.batch, case.heads, case.n_tokens, case.head_dim, dtype=getattr(torch, case.dtype), device="cpu"
    )
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
    """Measure every case with every backend and with dense attention; rows are yielded as they are measured.

    Parameters
    ----------
    cases : sequence of Case
    backends : sequence of str
        As for `attend`; a row contains the backend that "auto" selected.
    directions : sequence of str
        Of "forward", "backward" and "forward+backward".
    rivals : sequence of str, default=()
        Keys of `nip.bench.peers.PEERS`.
    dense_up_to : int, default=16384
        Maximum number of tokens for which dense attention is measured.
    repeats : int, default=7
        Number of samples to take while the machine is quiet; at most three times this number are taken.
    memory : bool, default=True
        Also measure peak memory, in a separate process each.
    left_out : callable, optional
        Called with a sentence for each measurement that is skipped because a backend or peer does not support it.

    Yields
    ------
    Row

    Raises
    ------
    ValueError
        If a pattern, backend, pass or peer is unknown, or none supports any case.
    """
    repeats = check_int("repeats", repeats, "bench attention", minimum=1)
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
        timings = time_alternately(calls, repeats, sgemm, extra_probes=[own] if own else [])
        del calls  # frees the results of the forward passes
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
    """Return a call of a backend, of a peer or of dense attention on random inputs.

    Parameters
    ----------
    case : Case
    name : str
        A backend, a peer or `DENSE`.
    direction : str
        A pass.

    Returns
    -------
    callable
    """
    problem = peers.prepare(name, case) if name in peers.PEERS else attention(case, name)
    return problem.call(direction)


def peak_mib(case: Case, backend: str, direction: str, threads: int) -> float | None:
    """Peak resident memory of a call, without the inputs, but with results and gradients.

    Parameters
    ----------
    case, backend, direction
        As for `prepare`.
    threads : int

    Returns
    -------
    float or None
        MiB; None if the system has no resettable high-water mark (any but Linux).

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
        prepare(small, backend, direction)()  # initializes libraries and threads
    print(high_water(call) / 2**20)


if __name__ == "__main__":
    _main(sys.argv[1])
