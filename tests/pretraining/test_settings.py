"""Which settings are accepted, and the errors of those that are refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nip.pretraining.settings import FIELDS, SIZES, Settings, flag, read_hours, read_lengths, size_of

WRONG = [
    ({"max_steps": None}, "A run needs a budget: --max-steps, --max-tokens or --hours."),
    ({"max_steps": 0}, "--max-steps must be an integer of at least 1. Got 0 instead."),
    ({"max_steps": None, "hours": 0.0}, "--hours must be a number above 0. Got 0.0 instead."),
    ({"max_steps": None, "max_tokens": 0}, "--max-tokens must be an integer of at least 1. Got 0 instead."),
    ({"batch_size": 30, "micro_batch": 16}, "--micro-batch must divide --batch-size. Got 16 and 30 instead."),
    ({"batch_size": True}, "--batch-size must be an integer of at least 1. Got True instead."),
    ({"ramp_from": 500}, "--ramp-from 500 is more than the batch of 256 samples."),
    ({"learning_rate": float("nan")}, "--learning-rate must be a number above 0. Got nan instead."),
    ({"warmup": 1.5}, "--warmup must be a number from 0 to 1. Got 1.5 instead."),
    ({"beta2": 1.0}, "--beta2 must be a number from 0 to below 1. Got 1.0 instead."),
    ({"mask_probability": 0.0}, "--mask-probability must be a number above 0, at most 1. Got 0.0 instead."),
    ({"mask_share": 0.9, "random_share": 0.2}, "--mask-share and --random-share must be together at most 1."),
    (
        {"optimizer": "sgd"},
        "--optimizer must be one of adam, adamw, lamb, lamb-deepspeed, adafactor",
    ),
    ({"size": "huge"}, "--size must be one of tiny, mini, small, medium, base, large. Got 'huge' instead."),
    ({"schedule": "time"}, "--schedule time needs --hours."),
    ({"schedule": "constant_step"}, "--schedule constant_step needs --warmup-steps."),
    ({"warmup_steps": 5}, "--warmup-steps needs --schedule constant_step"),
    ({"lengths": "128:0.9,512"}, "--lengths must be lengths of at least 8 tokens with shares that add up to 1."),
    ({"lengths": "512:0.5,128:0.5"}, "--lengths must be lengths that grow from stage to stage."),
    ({"lengths": "short"}, "--lengths must be a length, or lengths with shares such as 128:0.9,512:0.1."),
    ({"lengths": 4}, "--lengths must be lengths of at least 8 tokens"),
    ({"positions": 64}, "--positions 64 is too small for samples of 128 tokens."),
    ({"hours": 1.0, "early_exit_hours": 2.0}, "--early-exit-hours 2 is later than --hours 1."),
    ({"finetune_hours": "6,2"}, "--finetune-hours must be hours above 0 in ascending order. Got '6,2' instead."),
    ({"track": "paper"}, "--track must be one or more of none, tensorboard, wandb, trackio. Got 'paper' instead."),
    ({"eval_begin_share": 0.6, "eval_end_share": 0.6}, "must be together at most 1"),
    ({"next_sentence": "yes"}, "--next-sentence must be true or false. Got 'yes' instead."),
    ({"model": ""}, "--attention must be text. Got '' instead."),
]


@pytest.mark.parametrize(("change", "says"), WRONG)
def test_impossible_settings_are_refused(change, says):
    with pytest.raises(ValueError) as error:
        Settings(**{"max_steps": 10, **change})
    assert str(error.value).startswith(says) or says in str(error.value)


def test_settings_are_read_as_written():
    settings = Settings(
        hours=24.0, lengths="128:0.9,512:0.1", finetune_hours="2,6", parameters={"seed": 3}, ramp_from=32
    )
    assert Settings(**json.loads(json.dumps(settings.to_dict()))) == settings


def test_every_field_has_a_help_text_and_a_group():
    for name, each in FIELDS.items():
        assert each.metadata["says"].endswith((".", "…")), name
        assert each.metadata["group"], name
        assert flag(name).islower()


@pytest.mark.parametrize(
    ("budgets", "unit"),
    [
        ({"max_steps": 5}, "step"),
        ({"hours": 5.0}, "time"),
        ({"max_tokens": 5}, "tokens"),
        ({"max_steps": 5, "hours": 5.0}, "step"),
        ({"max_steps": 5, "hours": 5.0, "schedule": "time"}, "time"),
    ],
)
def test_the_schedule_advances_in_the_unit_of_the_budget(budgets, unit):
    assert Settings(**budgets).schedule_unit == unit


@given(st.lists(st.integers(8, 4096), min_size=1, max_size=5, unique=True), st.data())
def test_lengths_are_read_as_written(lengths, data):
    weights = data.draw(st.lists(st.integers(1, 100), min_size=len(lengths), max_size=len(lengths)))
    stages = tuple((length, weight / sum(weights)) for length, weight in zip(sorted(lengths), weights, strict=True))
    assert read_lengths(",".join(f"{length}:{share!r}" for length, share in stages)) == stages
    assert read_lengths([list(stage) for stage in stages]) == stages


@given(st.lists(st.floats(0.001, 1000), unique=True))
def test_hours_are_read_as_written(hours):
    assert read_hours(",".join(map(repr, sorted(hours)))) == tuple(sorted(hours))


def test_sizes_and_their_proportions():
    assert list(SIZES) == ["tiny", "mini", "small", "medium", "base", "large"]
    assert all(size.intermediate_size == 4 * size.hidden_size for size in SIZES.values())
    assert all(size.hidden_size == 64 * size.num_attention_heads for size in SIZES.values())


def test_an_unknown_size_is_refused_with_a_list():
    with pytest.raises(ValueError, match=r"no size 'huge'\. The sizes are tiny, mini, small, medium, base, large"):
        size_of("huge")
