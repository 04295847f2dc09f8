"""The settings in which the NIP paper's runs were made, one named function a task.

A recipe is the complete configuration of one run, the hypercube's; `dataclasses.replace` makes the others. There are
two protocols; docs/lra.md lists all that they differ in.

``original``
    What the paper's code does, to the letter: of a text it keeps 1,000 bytes; token id 0 is masked as padding, in
    pictures too, where it is black; the mean over all positions, padding included, is what is classified; an evaluation
    draws `eval_steps` batches of an endlessly reshuffled development set, the last incomplete batch of a pass left out;
    the test set loses its last incomplete batch too; random layouts are the corner of one drawn for 2,048 tokens (see
    `nip.lra.graphs`).
``clean``
    4,000 bytes of a text; every real token is attended and counted, and no padding; the whole development set at every
    evaluation (or its first `eval_steps` batches); every test example.

Order of training examples, optimizer, schedule and choice of the best checkpoint are the same in both.

The tasks that are none of Long Range Arena's own have the recipe of the task that they stand in for, but for two
settings: the original's protocol evaluates as many batches as their development set holds, and texts have 1,024 tokens,
for they are made of 1,000 bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from nip.data import TASKS
from nip.lra import modern_recipes as modern
from nip.lra.config import RunConfig
from nip.lra.modern_recipes import Recipe, stand_ins

TEXT_KEPT = 1000  # bytes that the original keeps of a text, and pads to 1,024


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
    """Text: 20,000 steps of 32 reviews; the original keeps 1,000 bytes of each, but has a position table for 4,096."""
    return RunConfig(
        task="text",
        seq_len=1024,
        cut=TEXT_KEPT,
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
    """Image: 35,000 steps of 256 pictures of 1,024 grey pixels."""
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


def _pathfinder(level: str) -> RunConfig:
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


def pathfinder32_curv_baseline() -> RunConfig:
    """The easy level of Pathfinder: 62,500 steps of 256 pictures of 1,024 pixels."""
    return _pathfinder("curv_baseline")


def pathfinder32_curv_contour_length_9() -> RunConfig:
    """The intermediate level of Pathfinder."""
    return _pathfinder("curv_contour_length_9")


def pathfinder32_curv_contour_length_14() -> RunConfig:
    """The hard level of Pathfinder, which is the one that is reported."""
    return _pathfinder("curv_contour_length_14")


def probe() -> RunConfig:
    """The probe: 1,000 steps of 16 sequences of 512 tokens in 64 blocks, two untied layers, 4 heads × 16.

    The rate stays at its peak, for learning sets in late and at a moment that differs by seed. It sets in at all only
    where a pair and its query share their key's embedding (`nip.data.Task.parts`), and with these first embeddings.
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


def _standing_in(config: RunConfig, task: str) -> RunConfig:
    eval_steps = TASKS[task].sizes[1] // config.batch_size
    return dataclasses.replace(config, task=task, eval_steps=eval_steps, seq_len=1024, positions=1024)


Recipes = Mapping[str, Recipe]

_OFFICIAL: Recipes = {
    "listops": listops,
    "text": text,
    "retrieval": retrieval,
    "image": image,
    "pathfinder32-curv_baseline": pathfinder32_curv_baseline,
    "pathfinder32-curv_contour_length_9": pathfinder32_curv_contour_length_9,
    "pathfinder32-curv_contour_length_14": pathfinder32_curv_contour_length_14,
}

RECIPES: Recipes = {**_OFFICIAL, **stand_ins(_OFFICIAL, _standing_in), "probe": probe}

# by the name that --recipe takes; what is listed here is listed in `nip.lra.config.RECIPE_NAMES` too
BY_NAME: dict[str, Recipes] = {"original": RECIPES, "modern": modern.RECIPES}


def recipe(task: str, protocol: str = "clean", name: str = "original") -> RunConfig:
    """The recipe of a task under one of the two protocols.

    Raises
    ------
    ValueError
        If there is no such recipe, or none for that task; the message lists those there are.

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
