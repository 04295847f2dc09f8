import pytest

from nip.data import TASKS
from nip.training import RECIPES, recipe


def test_listops_is_the_table_of_the_paper_s_code():
    config = recipe("listops", "original")
    assert (config.seq_len, config.positions, config.block_size) == (2048, 2048, 16)
    assert (config.batch_size, config.learning_rate, config.weight_decay, config.dropout) == (32, 1e-4, 1e-4, 0.1)
    assert (config.max_steps, config.warmup * config.max_steps) == (5000, 1000)
    assert (config.eval_every, config.eval_steps, config.attention_dropout) == (50, 62, 0)
    assert (config.model, config.seed, config.protocol) == ("hypercube", 42, "original")


def test_clean_differs_in_what_is_evaluated_only():
    import dataclasses

    clean, original = recipe("listops"), recipe("listops", "original")
    assert clean.protocol == "clean" and clean.eval_steps is None
    assert dataclasses.replace(clean, protocol="original", eval_steps=62) == original


def test_every_recipe_is_of_a_task():
    assert set(RECIPES) <= set(TASKS)
    assert all(make().task == name for name, make in RECIPES.items())
    with pytest.raises(ValueError, match=r"There is no task 'chess' to train on\. The tasks are listops"):
        recipe("chess")
