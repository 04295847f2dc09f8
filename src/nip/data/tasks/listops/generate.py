"""Draw a ListOps set by its rule: with a seed, without duplicates, the same bytes on any number of cores."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict, astuple, fields
from itertools import count

import numpy as np
from numpy.typing import NDArray

from nip.data.tasks.examples import Examples, read_only
from nip.data.tasks.listops.language import Rule
from nip.data.tasks.registry import SPLITS, TASKS
from nip.data.tasks.source import Plan, Request
from nip.data.tasks.threads import map_ahead
from nip.graphs.pattern import check_int
from nip.processor import usable_cores

ATTEMPTS = 4096  # trees per chunk; changing it changes every set
PATIENCE = 256  # chunks without a new example after which the rule counts as exhausted


def generate(
    rule: Rule | None = None,
    sizes: tuple[int, int, int] = TASKS["listops"].sizes,
    *,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Examples]:
    """Draw the train, dev and test splits of ListOps.

    Trees are drawn in chunks, each with a random stream of its own derived from the seed, and taken in the order of the
    chunks, so the result does not depend on the number of workers. No example occurs twice in the set. The first go to
    train, the next to dev, the last to test.

    Parameters
    ----------
    rule : Rule, optional
        Long Range Arena's setting by default.
    sizes : tuple of int, default=(96000, 2000, 2000)
        Examples in train, dev and test, each at least 1.
    seed : int, default=0
        At least 0.
    workers : int, optional
        Number of threads; by default one per available core.
    progress : callable, optional
        Called with the number of examples found so far.

    Returns
    -------
    dict of str to Examples
        In memory, one byte per token: about 100 MB for the full set.

    Raises
    ------
    ValueError
        If a parameter is out of range, or the rule has too few different examples.

    Examples
    --------
    >>> splits = generate(Rule(min_length=10, max_length=30), (5, 2, 2), seed=1)
    >>> [len(split) for split in splits.values()]
    [5, 2, 2]
    """
    rule = rule or Rule()
    for split, size in zip(SPLITS, sizes, strict=True):
        check_int(split, size, "ListOps", minimum=1)
    seed = check_int("seed", seed, "ListOps", minimum=0)
    tokens, lengths = _distinct(rule, sum(sizes), seed, workers or usable_cores(), progress)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    splits = {}
    first = 0
    for split, size in zip(SPLITS, sizes, strict=True):
        bounds = offsets[first : first + size + 1]
        splits[split] = _labelled(split, tokens[bounds[0] : bounds[-1]], bounds - bounds[0])
        first += size
    return splits


def _labelled(split: str, tokens: NDArray[np.uint8], offsets: NDArray[np.int64]) -> Examples:
    from nip.data.tasks.listops import kernels

    return Examples(TASKS["listops"], split, tokens, offsets, kernels.values(*read_only(tokens, offsets)))


def _distinct(
    rule: Rule, wanted: int, seed: int, workers: int, progress: Callable[[int], None] | None
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The first `wanted` different examples: tokens (n_tokens,) and lengths (wanted,)."""
    seen: set[bytes] = set()
    pieces: list[NDArray[np.uint8]] = []
    idle = 0
    with closing(_chunks(rule, seed, workers)) as chunks:
        for tokens, offsets in chunks:
            before = len(pieces)
            for start, stop in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
                example = tokens[start:stop]
                digest = hashlib.blake2b(example.data, digest_size=16).digest()
                if digest not in seen:
                    seen.add(digest)
                    pieces.append(example)
                    if len(pieces) == wanted:
                        break
            if progress is not None:
                progress(len(pieces))
            if len(pieces) == wanted:
                break
            idle = 0 if len(pieces) > before else idle + 1
            if idle == PATIENCE:
                raise ValueError(
                    f"ListOps found only {len(pieces)} of {wanted} different examples: the last "
                    f"{PATIENCE * ATTEMPTS} trees contained no new one. Ask for fewer, or allow more lengths."
                )
    return np.concatenate(pieces), np.array([len(piece) for piece in pieces], dtype=np.int64)


def _chunks(rule: Rule, seed: int, workers: int) -> Generator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """The examples of the chunks (tokens, offsets), in order and without end."""
    from nip.data.tasks.listops import kernels

    def draw(chunk: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(chunk,))))
        tokens, offsets = kernels.draw_trees(rng, ATTEMPTS, astuple(rule))
        return tokens, offsets

    return map_ahead(draw, count(), workers)


def plan_listops(request: Request) -> Plan:
    """Draw a set; parameters are the numbers of examples ``train``, ``dev`` and ``test``, and those of `Rule`."""
    names = {field.name for field in fields(Rule)}
    rule = Rule(**{name: value for name, value in request.parameters.items() if name in names})
    sizes = request.sizes
    return Plan(
        {
            "source": "drawn by nip",
            "parameters": {"seed": request.seed, **sizes, **asdict(rule)},
            "split_rule": "In the order drawn: first train, then dev, then test. No example occurs twice in the set.",
            "licence": "Made from random numbers, it holds nobody's text. The rule is that of Long Range Arena "
            "(Apache-2.0, arXiv 2011.04006), after ListOps (arXiv 1804.06028).",
        },
        lambda: generate(
            rule, (sizes["train"], sizes["dev"], sizes["test"]), seed=request.seed, progress=request.progress
        ),
    )
