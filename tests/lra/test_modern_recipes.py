"""The modern recipe against the published settings."""

import dataclasses

import pytest
import torch

import nip
from nip.data import TASKS
from nip.lra import recipe
from nip.lra.model import encoder_config
from nip.lra.modern_recipes import RECIPES, gated_width
from nip.models import build_classifier

# width, heads, layers, width inside an ungated feed-forward; learning rates of training and of denoising; share masked;
# epochs of denoising and of training; examples a batch
TABLE = {
    "listops": (512, 8, 6, 2048, 1e-4, 1e-3, 0.10, 50, 50, 32),
    "text": (512, 8, 6, 2048, 5e-4, 5e-4, 0.15, 32, 32, 32),
    "retrieval": (128, 4, 4, 512, 5e-4, 5e-3, 0.15, 32, 32, 32),
    "image": (64, 4, 3, 128, 1e-3, 1e-3, 0.50, 50, 200, 50),
    "pathfinder32-curv_baseline": (128, 8, 4, 128, 5e-4, 1e-3, 0.50, 50, 200, 32),
    "pathfinder32-curv_contour_length_9": (128, 8, 4, 128, 5e-4, 1e-3, 0.50, 50, 200, 32),
    "pathfinder32-curv_contour_length_14": (128, 8, 4, 128, 5e-4, 1e-3, 0.50, 50, 200, 32),
}
STANDING_IN = {
    "fashion-mnist": "image",
    "bible-books": "text",
    "brown-genres": "text",
    "bible-pairs": "retrieval",
    "brown-pairs": "retrieval",
}


@pytest.mark.parametrize("task", TABLE)
def test_recipes_equal_the_published_settings(task):
    width, heads, layers, inside, rate, pretrain_rate, masked, before, after, batch = TABLE[task]
    config = recipe(task, name="modern")
    assert (config.width, config.heads, config.heads * config.head_dim, config.layers) == (width, heads, width, layers)
    assert (config.learning_rate, config.pretrain_learning_rate, config.mask_share) == (rate, pretrain_rate, masked)
    epoch_steps = TASKS[task].sizes[0] // batch
    assert (config.pretrain_steps, config.max_steps) == (before * epoch_steps, after * epoch_steps)
    assert (config.batch_size, config.repeats, config.dropout, config.block_size) == (batch, 1, 0.0, 16)
    assert config.seq_len == TASKS[task].padded_length
    # three gated maps weigh as much as two ungated ones
    assert abs(3 * config.inner_width - 2 * inside) < 3 * 8 and config.inner_width >= 2 * inside / 3
    assert config.inner_width == gated_width(width, inside / width)


@pytest.mark.parametrize(("task", "official"), STANDING_IN.items())
def test_stand_ins_have_the_recipe_of_the_task_they_stand_in_for(task, official):
    own, there = recipe(task, name="modern"), recipe(official, name="modern")
    assert own.eval_every == TASKS[task].sizes[0] // own.batch_size
    assert own.max_steps / own.eval_every == there.max_steps / there.eval_every
    assert own.pretrain_steps / own.eval_every == there.pretrain_steps / there.eval_every
    assert own.seq_len == 1024 >= recipe(task).seq_len
    lengths = ("task", "seq_len", "positions", "eval_every", "max_steps", "pretrain_steps")
    assert dataclasses.replace(own, **{name: getattr(there, name) for name in lengths}) == there


@pytest.mark.parametrize("task", RECIPES)
def test_positions_of_images_are_rows_and_columns(task):
    config = dataclasses.replace(recipe(task, name="modern"), seq_len=64, positions=64, width=16)
    sizes = encoder_config(config)
    assert sizes.rotary and sizes.gated and sizes.masked
    assert sizes.columns == (32 if TASKS[task].kind == "pixels" else None)
    model = build_classifier(sizes, nip.pattern("local", 4), seed=0).eval()
    shape = (2, 2, 64) if TASKS[task].pair else (2, 64)
    input_ids = torch.randint(1, 5, shape, generator=torch.Generator().manual_seed(0))
    assert model(input_ids).shape == (2, TASKS[task].n_classes)


def test_every_task_but_the_probe_has_a_modern_recipe():
    assert set(RECIPES) == set(TABLE) | set(STANDING_IN) == set(TASKS) - {"probe"}
    with pytest.raises(ValueError, match="There is no task 'probe' to train on"):
        recipe("probe", name="modern")
