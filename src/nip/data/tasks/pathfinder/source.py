"""Pathfinder as a source of training data: a set drawn by the published rule."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from nip.data.tasks.examples import Examples
from nip.data.tasks.pathfinder.drawing import draw_many, find_level
from nip.data.tasks.registry import SPLITS
from nip.data.tasks.source import Plan, Request
from nip.graphs.pattern import check_int

PREFIX = "pathfinder32-"  # of the tasks' names; the level follows


def plan(request: Request) -> Plan:
    """Draw a set; parameters are the numbers of pictures ``train``, ``dev`` and ``test``."""
    level = find_level(request.task.name.removeprefix(PREFIX))
    sizes = {split: request.parameters.get(split, size) for split, size in zip(SPLITS, request.task.sizes, strict=True)}
    for name, value in sizes.items():
        check_int(name, value, "Pathfinder", minimum=1)
    check_int("seed", request.seed, "Pathfinder", minimum=0)

    def portions(split: str, first: int) -> Iterator[Examples]:
        for pictures, labels in draw_many(level.name, sizes[split], seed=request.seed, first=first):
            n, pixels = pictures.shape
            offsets = np.arange(n + 1, dtype=np.int64) * pixels
            yield Examples(request.task, split, pictures.reshape(-1), offsets, labels)

    firsts = {"train": 0, "dev": sizes["train"], "test": sizes["train"] + sizes["dev"]}
    return Plan(
        {
            "source": "drawn by nip",
            "parameters": {"seed": request.seed, **sizes},
            "split_rule": "In the order drawn: first train, then dev, then test. Every picture is drawn independently.",
            "licence": "Drawn from random numbers. The rule is that of Pathfinder (Linsley et al., arXiv 1805.08315; "
            "its generator is under the MIT licence) with the parameters of Long Range Arena (arXiv 2011.04006).",
        },
        lambda: {split: portions(split, firsts[split]) for split in SPLITS},
    )
