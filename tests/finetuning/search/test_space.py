"""Search spaces."""

import json

import optuna
import pytest

from nip.finetuning.search.space import (
    FULL,
    SMALL,
    Range,
    default_space,
    grid_points,
    read_space,
    space_size,
    suggest,
    to_flags,
)


def test_the_papers_spaces():
    assert (space_size(FULL), space_size(SMALL)) == (96, 8)
    for space, n in ((FULL, 96), (SMALL, 8)):
        every = grid_points(space, seed=1)
        assert len({tuple(point.items()) for point in every}) == n
        assert all(point[name] in space[name] for point in every for name in space)
        assert every == grid_points(space, seed=1) and every != grid_points(space, seed=2)
    assert default_space("glue", "mrpc") == default_space("glue", None) == "full"
    assert default_space("glue", "MNLI") == default_space("glue", "qqp") == default_space("qa", None) == "small"


def test_a_space_from_a_file(tmp_path):
    path = tmp_path / "space.json"
    path.write_text('{"attention": ["hypercube", "local"], "learning-rate": {"low": 1e-5, "high": 1e-3, "log": true}}')
    space = read_space(str(path))
    assert space == {"attention": ("hypercube", "local"), "learning_rate": Range(1e-5, 1e-3, log=True)}
    assert space_size(space) == float("inf")
    with pytest.raises(ValueError, match="--sampler grid needs lists of values; learning_rate is a range"):
        grid_points(space, seed=0)
    assert read_space("small") is SMALL


@pytest.mark.parametrize(
    "entry",
    [
        [],
        "x",
        [[1]],
        [1, 1],
        {"low": 1},
        {"low": 2, "high": 1},
        {"low": 0, "high": 1, "log": True},
        {"low": 0, "high": "1"},
    ],
)
def test_malformed_entries_raise(tmp_path, entry):
    path = tmp_path / "space.json"
    path.write_text(json.dumps({"a": entry}))
    with pytest.raises(ValueError, match=r"space.json: a (must be a list of values, or|names a value twice)"):
        read_space(str(path))


def test_malformed_files_raise(tmp_path):
    with pytest.raises(ValueError, match=r"takes full, small or a JSON file. Got 'large'"):
        read_space("large")
    for text, says in (("{", "not valid JSON"), ("[]", "must be a JSON object"), ("{}", "must be a JSON object")):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError, match=says):
            read_space(str(tmp_path / "a.json"))


def test_suggestions_and_flags():
    space = {"a": ("x", "y"), "n": Range(1, 4), "f": Range(0.5, 2.5), "on": (True, False)}
    drawn = [suggest(optuna.create_study().ask(), space) for _ in range(20)]
    assert {type(point["n"]) for point in drawn} == {int} and {point["n"] for point in drawn} <= {1, 2, 3, 4}
    assert all(0.5 <= point["f"] <= 2.5 for point in drawn) and len({point["f"] for point in drawn}) > 10
    assert to_flags({"a": "x", "n": 2, "f": 1e-05, "on": False}) == [
        *("--a", "x", "--n", "2"),
        *("--f", "1e-05", "--on", "false"),
    ]
