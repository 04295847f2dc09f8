"""The settings of the NIP paper's runs, one function for each task.

A recipe is the complete configuration of one run, over the hypercube; `dataclasses.replace` makes the others. There are
two protocols, whose differences docs/lra.md lists:

``original``
    The behaviour of the paper's code. Texts are cut to 1,000 bytes. Token id 0 is masked as padding, even in images,
    where it is black. The mean over all positions, padding included, is classified. Batches span passes over the
    examples. An evaluation draws `eval_steps` batches of a development set that is reshuffled in every pass; the last
    incomplete batch of the test set is dropped. Random layouts are a corner of one drawn for 2,048 tokens (see
    `nip.lra.graphs`). Only softmax attention drops weights.
``clean``
    Texts are cut to 4,000 bytes. All tokens but padding are attended and counted. Every evaluation uses the full
    development set, or its first `eval_steps` batches; the test uses every example. The last incomplete batch of a pass
    over the training set is dropped.

Both have the same optimizer, schedule and rule for the best checkpoint, and the same order of training examples where
batches divide them.

Tasks that are not part of Long Range Arena have the recipe of the task that they stand in for, with two changes: under
the original's protocol an evaluation uses the number of batches in their development set, and texts have 1,024 tokens,
because they consist of 1,000 bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial

from nip.data import TASKS
from nip.lra import modern_recipes as modern
from nip.lra.config import RunConfig
from nip.lra.modern_recipes import LEVELS, Recipe, stand_ins


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


def text() -> RunConfig:
    """Text: 20,000 steps of 32 reviews, cut to 1,000 bytes and padded to 1,024, with a position table for 4,096."""
    return RunConfig(
        task="text",
        seq_len=1024,
        cut=1000,
        positions=TASKS["text"].padded_length,
        batch_size=32,
        learning_rate=5e-5,
        warmup=8000 / 20000,
        weight_decay=1e-4,
        dropout=0.3,
        max_steps=20000,
        eval_every=500,
        eval_steps=781,
        protocol="original",
    )


def retrieval() -> RunConfig:
    """Retrieval: 20,000 steps of 32 pairs of documents of 4,000 bytes, padded to 4,096; dropout in attention too."""
    length = TASKS["retrieval"].padded_length
    return RunConfig(
        task="retrieval",
        seq_len=length,
        positions=length,
        batch_size=32,
        learning_rate=5e-4,
        warmup=8000 / 20000,
        weight_decay=1e-4,
        dropout=0.1,
        attention_dropout=0.1,
        max_steps=20000,
        eval_every=300,
        eval_steps=565,
        protocol="original",
    )


def image() -> RunConfig:
    """Image: 35,000 steps of 256 images of 1,024 grey pixels."""
    length = TASKS["image"].padded_length
    return RunConfig(
        task="image",
        seq_len=length,
        positions=length,
        batch_size=256,
        learning_rate=5e-3,
        warmup=4000 / 35000,
        weight_decay=0.0,
        dropout=0.3,
        max_steps=35000,
        eval_every=175,
        eval_steps=20,
        protocol="original",
    )


def pathfinder(level: str) -> RunConfig:
    """A level of Pathfinder: 62,500 steps of 256 images of 1,024 pixels."""
    return RunConfig(
        task=f"pathfinder32-{level}",
        seq_len=1024,
        positions=1024,
        batch_size=256,
        learning_rate=1e-3,
        warmup=4000 / 62500,
        weight_decay=0.0,
        dropout=0.2,
        max_steps=62500,
        eval_every=312,
        eval_steps=312,
        protocol="original",
    )


def probe() -> RunConfig:
    """The probe: 1,000 steps of 16 sequences of 512 tokens in 64 blocks, two untied layers, 4 heads × 16.

    After the warmup the learning rate is constant, because learning starts late, at a step that differs by seed. It
    starts only if a pair and its query share their key's embedding (`nip.data.Task.parts`), and with this `token_std`.
    """
    length = TASKS["probe"].max_length
    return RunConfig(
        task="probe",
        seq_len=length,
        positions=length,
        block_size=8,
        batch_size=16,
        learning_rate=1e-3,
        warmup=0.1,
        weight_decay=0.01,
        dropout=0.0,
        max_steps=1000,
        eval_every=100,
        eval_steps=32,
        schedule="constant",
        repeats=1,
        head_dim=16,
        head_width=None,
        beta2=0.999,
        token_std=0.3,
        protocol="original",
    )


def _adapt(config: RunConfig, task: str) -> RunConfig:
    eval_steps = TASKS[task].sizes[1] // config.batch_size
    return dataclasses.replace(config, task=task, eval_steps=eval_steps, seq_len=1024, positions=1024)


Recipes = Mapping[str, Recipe]

_OFFICIAL: Recipes = {
    "listops": listops,
    "text": text,
    "retrieval": retrieval,
    "image": image,
    **{f"pathfinder32-{level}": partial(pathfinder, level) for level in LEVELS},
}

RECIPES: Recipes = {**_OFFICIAL, **stand_ins(_OFFICIAL, _adapt), "probe": probe}

BY_NAME: dict[str, Recipes] = {"original": RECIPES, "modern": modern.RECIPES}
"""By the value of ``--recipe``; the names are those of `nip.lra.config.RECIPE_NAMES`."""


def recipe(task: str, protocol: str = "clean", name: str = "original") -> RunConfig:
    """The recipe of a task.

    Parameters
    ----------
    task : str
    protocol : {"clean", "original"}
    name : {"original", "modern"}

    Returns
    -------
    RunConfig

    Raises
    ------
    ValueError
        If there is no such recipe, or none for that task.

    Examples
    --------
    >>> recipe("text", "original").seq_len, recipe("text").seq_len
    (1024, 4096)
    """
    if name not in BY_NAME:
        raise ValueError(f"There is no recipe {name!r}. The recipes are {', '.join(BY_NAME)}.")
    if task not in BY_NAME[name]:
        raise ValueError(f"There is no task {task!r} to train on. The tasks are {', '.join(BY_NAME[name])}.")
    config = BY_NAME[name][task]()
    if protocol == "original":
        return config
    return dataclasses.replace(config, protocol=protocol, eval_steps=None, seq_len=config.positions, cut=None)
