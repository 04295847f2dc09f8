import dataclasses

import pytest

from nip.data import TASKS
from nip.lra import RECIPES, recipe
from nip.lra.config import RECIPE_NAMES
from nip.lra.recipes import BY_NAME

# length, rows of the position table, batch, rate, warmup, weight decay, dropout, of attention, steps, evaluated every,
# batches of an evaluation: the table of the paper's code
TABLE = {
    "listops": (2048, 2048, 32, 1e-4, 1000, 1e-4, 0.1, 0.0, 5000, 50, 62),
    "text": (1024, 4096, 32, 5e-5, 8000, 1e-4, 0.3, 0.0, 20000, 500, 781),
    "retrieval": (4096, 4096, 32, 5e-4, 8000, 1e-4, 0.1, 0.1, 20000, 300, 565),
    "image": (1024, 1024, 256, 5e-3, 4000, 0.0, 0.3, 0.0, 35000, 175, 20),
    "pathfinder32-curv_baseline": (1024, 1024, 256, 1e-3, 4000, 0.0, 0.2, 0.0, 62500, 312, 312),
    "pathfinder32-curv_contour_length_9": (1024, 1024, 256, 1e-3, 4000, 0.0, 0.2, 0.0, 62500, 312, 312),
    "pathfinder32-curv_contour_length_14": (1024, 1024, 256, 1e-3, 4000, 0.0, 0.2, 0.0, 62500, 312, 312),
}
STANDING_IN = {
    "fashion-mnist": "image",
    "bible-books": "text",
    "brown-genres": "text",
    "bible-pairs": "retrieval",
    "brown-pairs": "retrieval",
}


@pytest.mark.parametrize("task", TABLE)
def test_original_recipes_equal_the_table_of_the_paper_s_code(task):
    config = recipe(task, "original")
    assert (
        *(config.seq_len, config.positions, config.batch_size, config.learning_rate),
        round(config.warmup * config.max_steps, 9),
        *(config.weight_decay, config.dropout, config.attention_dropout),
        *(config.max_steps, config.eval_every, config.eval_steps),
    ) == TABLE[task]
    assert (config.model, config.seed, config.protocol, config.block_size) == ("hypercube", 42, "original", 16)
    sizes = (config.layers, config.repeats, config.width, config.heads, config.head_dim, config.inner_width)
    assert sizes == (2, 2, 64, 4, 32, 128)
    assert config.cut == (1000 if task == "text" else None)


@pytest.mark.parametrize("task", RECIPES)
def test_the_clean_protocol_differs_in_lengths_and_evaluations_only(task):
    clean, original = recipe(task), recipe(task, "original")
    assert (clean.protocol, clean.eval_steps, clean.cut) == ("clean", None, None)
    assert clean.seq_len == clean.positions
    assert clean.seq_len == (1024 if task in STANDING_IN else TASKS[task].padded_length)
    paper = {"protocol": "original", "eval_steps": original.eval_steps}
    assert dataclasses.replace(clean, **paper, cut=original.cut, seq_len=original.seq_len) == original
    assert (clean.seq_len != original.seq_len) == (task == "text")


@pytest.mark.parametrize(("task", "official"), STANDING_IN.items())
def test_stand_ins_have_the_recipe_of_the_task_they_stand_in_for(task, official):
    own, there = recipe(task, "original"), recipe(official, "original")
    assert (own.seq_len, own.positions) == (1024, 1024)
    lengths = {"seq_len": there.seq_len, "positions": there.positions}
    assert dataclasses.replace(own, task=official, eval_steps=there.eval_steps, **lengths) == there
    assert 0 <= TASKS[task].sizes[1] - own.eval_steps * own.batch_size < own.batch_size


def test_every_task_has_a_recipe_and_every_recipe_a_task():
    assert set(RECIPES) == set(TASKS)
    assert set(TABLE) | set(STANDING_IN) | {"probe"} == set(TASKS)
    assert tuple(BY_NAME) == RECIPE_NAMES
    for name, recipes in BY_NAME.items():
        assert all((make().task, make().recipe) == (task, name) for task, make in recipes.items())
    with pytest.raises(ValueError, match=r"There is no task 'chess' to train on\. The tasks are listops"):
        recipe("chess")
    with pytest.raises(ValueError, match=r"There is no recipe 'stew'\. The recipes are original"):
        recipe("text", name="stew")
