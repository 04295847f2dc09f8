"""The settings in which the NIP paper's runs were made, one named function a task.

A recipe is the complete configuration of one run, the hypercube's; `dataclasses.replace` makes the others. There are
two protocols.

``original``
    What the paper's code does, to the letter: the mean over all positions, padding included, is what is classified;
    an evaluation draws `eval_steps` batches of an endlessly reshuffled development set, the last incomplete batch of a
    pass left out; the test set loses its last incomplete batch too; random layouts are the corner of one drawn for
    2,048 tokens (see `nip.training.graphs`).
``clean``
    The mean over the real tokens only; the whole development set at every evaluation (or its first `eval_steps`
    batches); every test example.

Order of training examples, optimizer, schedule and choice of the best checkpoint are the same in both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from nip.data import TASKS
from nip.training.config import RunConfig


def listops() -> RunConfig:
    """ListOps: 5,000 steps of 32 expressions of up to 2,000 tokens, padded to 2,048.

    Examples
    --------
    >>> listops().name
    'listops-hypercube-seed42'
    """
    length = TASKS["listops"].padded_length
    return RunConfig(
        task="listops",
        seq_len=length,
        positions=length,
        batch_size=32,
        learning_rate=1e-4,
        warmup=1000 / 5000,
        weight_decay=1e-4,
        dropout=0.1,
        max_steps=5000,
        eval_every=50,
        eval_steps=62,
        protocol="original",
    )


RECIPES: dict[str, Callable[[], RunConfig]] = {"listops": listops}


def recipe(task: str, protocol: str = "clean") -> RunConfig:
    """The recipe of a task under one of the two protocols.

    Raises
    ------
    ValueError
        If there is no recipe for that task; the message lists those there are.
    """
    if task not in RECIPES:
        raise ValueError(f"There is no task {task!r} to train on. The tasks are {', '.join(RECIPES)}.")
    config = RECIPES[task]()
    if protocol == "original":
        return config
    return dataclasses.replace(config, protocol=protocol, eval_steps=None)
