"""The modern recipe: settings with which Transformers keep up with state-space models on these tasks.

The encoder has rotary positions (by row and column in images) and gated feed-forward layers. It is first trained on
denoising the task's training set (`nip.lra.denoising`), then on the labels. Sizes, batch sizes, learning rates, mask
shares and numbers of epochs are those of Amos et al. [1]_: their published configurations and Table 4, "Rotary +
Masked"; where they give a range, or one number for both phases, both phases have the same number of epochs. The inner
width of the feed-forward layers is two thirds of theirs, because a gated one has three weight matrices instead of two.
Differences: both phases have the batch size of the second, and the learning rate decays along a cosine after the
warmup, where theirs is constant.

References
----------
.. [1] I. Amos, J. Berant, A. Gupta, "Never Train from Scratch: Fair Comparison of Long-Sequence Models Requires
   Data-Driven Priors", arXiv 2310.02980.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from functools import partial

from nip.data import TASKS
from nip.lra.config import RunConfig

Recipe = Callable[[], RunConfig]

STANDS_IN_FOR = {
    "fashion-mnist": "image",
    "bible-books": "text",
    "bible-pairs": "retrieval",
    "brown-genres": "text",
    "brown-pairs": "retrieval",
}
"""Tasks that stand in for one of Long Range Arena, whose recipe they use."""
LEVELS = ("curv_baseline", "curv_contour_length_9", "curv_contour_length_14")
"""Of Pathfinder: easy, intermediate, and hard, the one that is usually reported."""


def stand_ins(recipes: Mapping[str, Recipe], adapt: Callable[[RunConfig, str], RunConfig]) -> dict[str, Recipe]:
    """The recipes of the tasks that stand in for others: those of the others, adapted to the task of that name."""

    def adapted(task: str, official: str) -> Recipe:
        return lambda: adapt(recipes[official](), task)

    return {task: adapted(task, official) for task, official in STANDS_IN_FOR.items()}


def listops() -> RunConfig:
    """ListOps: 10 % masked; six layers 512 wide; 50 epochs of denoising and 50 of training.

    Examples
    --------
    >>> config = listops()
    >>> config.pretrain_steps, config.max_steps, config.head_dim, config.inner_width
    (150000, 150000, 64, 1368)
    """
    return _run(
        "listops",
        width=512,
        heads=8,
        layers=6,
        expansion=4,
        learning_rate=1e-4,
        pretrain_learning_rate=1e-3,
        mask_share=0.1,
        epochs=(50, 50),
    )


def text() -> RunConfig:
    """Text: 15 % masked; six layers 512 wide; 32 epochs of denoising and 32 of training."""
    return _run(
        "text",
        width=512,
        heads=8,
        layers=6,
        expansion=4,
        learning_rate=5e-4,
        pretrain_learning_rate=5e-4,
        mask_share=0.15,
        epochs=(32, 32),
    )


def retrieval() -> RunConfig:
    """Retrieval: 15 % masked; four layers 128 wide; 32 epochs of denoising and 32 of training."""
    return _run(
        "retrieval",
        width=128,
        heads=4,
        layers=4,
        expansion=4,
        learning_rate=5e-4,
        pretrain_learning_rate=5e-3,
        mask_share=0.15,
        epochs=(32, 32),
    )


def image() -> RunConfig:
    """Image: half of the pixels masked; three layers 64 wide; 50 epochs of denoising and 200 of training."""
    return _run(
        "image",
        width=64,
        heads=4,
        layers=3,
        expansion=2,
        learning_rate=1e-3,
        pretrain_learning_rate=1e-3,
        mask_share=0.5,
        epochs=(50, 200),
        batch_size=50,
    )


def pathfinder(level: str) -> RunConfig:
    """A level of Pathfinder: half of the pixels masked; four layers 128 wide; 50 and 200 epochs."""
    return _run(
        f"pathfinder32-{level}",
        width=128,
        heads=8,
        layers=4,
        expansion=1,
        learning_rate=5e-4,
        pretrain_learning_rate=1e-3,
        mask_share=0.5,
        epochs=(50, 200),
    )


def gated_width(width: int, expansion: float) -> int:
    """The inner width of a gated feed-forward layer with the weights of an ungated one ``expansion * width`` wide.

    It is two thirds of that width, rounded up to a multiple of 8.

    Examples
    --------
    >>> gated_width(512, 4), gated_width(128, 1)
    (1368, 88)
    """
    return 8 * math.ceil(expansion * width / 12)


def _run(
    task: str,
    *,
    width: int,
    heads: int,
    layers: int,
    expansion: int,
    learning_rate: float,
    pretrain_learning_rate: float,
    mask_share: float,
    epochs: tuple[int, int],
    batch_size: int = 32,
) -> RunConfig:
    length, epoch_steps = TASKS[task].padded_length, TASKS[task].sizes[0] // batch_size
    return RunConfig(
        task=task,
        recipe="modern",
        protocol="clean",
        seq_len=length,
        positions=length,
        width=width,
        heads=heads,
        head_dim=width // heads,
        layers=layers,
        repeats=1,
        inner_width=gated_width(width, expansion),
        batch_size=batch_size,
        learning_rate=learning_rate,
        pretrain_learning_rate=pretrain_learning_rate,
        warmup=0.05,
        weight_decay=0.01,
        dropout=0.0,
        mask_share=mask_share,
        pretrain_steps=epochs[0] * epoch_steps,
        max_steps=epochs[1] * epoch_steps,
        eval_every=epoch_steps,
        eval_steps=None,
    )


def _adapt(config: RunConfig, task: str) -> RunConfig:
    epoch_steps = TASKS[task].sizes[0] // config.batch_size
    return dataclasses.replace(
        config,
        task=task,
        seq_len=1024,  # pixels of an image, or the 1,000 bytes of a passage, padded
        positions=1024,
        pretrain_steps=config.pretrain_steps // config.eval_every * epoch_steps,
        max_steps=config.max_steps // config.eval_every * epoch_steps,
        eval_every=epoch_steps,
    )


_OFFICIAL: dict[str, Recipe] = {
    "listops": listops,
    "text": text,
    "retrieval": retrieval,
    "image": image,
    **{f"pathfinder32-{level}": partial(pathfinder, level) for level in LEVELS},
}

RECIPES = {**_OFFICIAL, **stand_ins(_OFFICIAL, _adapt)}
