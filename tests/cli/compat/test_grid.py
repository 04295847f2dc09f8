"""Grids of settings, and the commands of their points."""

import itertools
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nip.cli.compat.grid import Grid, commands, points, read_grid

SCRIPT = Path(__file__).parents[3] / "scripts" / "generate_training_commands.py"
GRID = """
default_parameters:
  dataset: my shards
  fp16: true
  out: runs/a
hyperparameters:
  lr: [1.0e-3, 5.0e-4]
  train_batch_size: [4096, 8192]
  curve: linear
"""


@pytest.fixture
def grid(tmp_path):
    (tmp_path / "grid.yaml").write_text(GRID)
    return tmp_path / "grid.yaml"


def test_every_point_has_a_command_and_a_folder(grid):
    lines = commands(read_grid(grid), "torchrun --nproc_per_node 8 -m nip pretrain")
    found = [shlex.split(line) for line in lines]
    expected = list(itertools.product(["0.001", "0.0005"], ["4096", "8192"]))
    for words, (rate, batch), number in zip(found, expected, range(4), strict=True):
        assert words[:6] == ["torchrun", "--nproc_per_node", "8", "-m", "nip", "pretrain"]
        rest = words[6:]
        pairs = dict(zip(rest, [*rest[1:], None], strict=True))
        assert (pairs["--lr"], pairs["--train_batch_size"], pairs["--curve"]) == (rate, batch, "linear")
        assert pairs["--dataset"] == "my shards"
        assert pairs["--out"] == f"runs/a-{number}"
        assert "--fp16" in rest


def test_a_seed_fixes_the_order(grid):
    plain = commands(read_grid(grid), "nip pretrain")
    shuffled = commands(read_grid(grid), "nip pretrain", shuffle=1)
    assert sorted(shuffled) == sorted(plain)
    assert shuffled == commands(read_grid(grid), "nip pretrain", shuffle=1)
    assert any(commands(read_grid(grid), "nip pretrain", shuffle=seed) != plain for seed in range(5))


def test_values_of_every_kind():
    grid = Grid({"lengths": [[128, 0.9], [512, 0.1]]}, {"param": [{"seed": 1}, {"seed": 2}], "tied": [True, False]})
    assert len(points(grid)) == 4
    lines = commands(Grid({"job_name": "x"}, grid.lists), "nip pretrain")
    assert lines[0] == "nip pretrain --job_name x-0 --param seed=1 --tied --out runs/grid-0"
    assert lines[3] == "nip pretrain --job_name x-3 --param seed=2 --tied false --out runs/grid-3"


@pytest.mark.parametrize(
    ("fixed", "lists", "launcher", "ends"),
    [
        ({"out": "a"}, {"seed": [1, 2]}, "run", ["--out a-0 --seed 1", "--out a-1 --seed 2"]),
        ({"output_dir": "a", "job_name": "j"}, {"seed": [1]}, "run", ["--output_dir a --job_name j-0 --seed 1"]),
        ({"job_name": "j"}, {"seed": [1]}, "run --output_dir a", ["--job_name j-0 --seed 1"]),
        ({"out": "a"}, {"job_name": ["x", "y"]}, "run", ["--out a-0 --job_name x", "--out a-1 --job_name y"]),
        ({"output_dir": "a"}, {"job_name": ["x", "y"]}, "run", [f"--output_dir a --job_name {job}" for job in "xy"]),
        ({"output_dir": "a"}, {"seed": [1, 2]}, "run", ["--output_dir a-0 --seed 1", "--output_dir a-1 --seed 2"]),
        (
            {"seed": 1},
            {"out": ["x", "y"], "lr": [1, 2]},
            "run",
            [f"--seed 1 --out {out}-{i} --lr {lr}" for i, (out, lr) in enumerate(itertools.product("xy", (1, 2)))],
        ),
        ({}, {"job_name": ["x", "y"]}, "run", ["--job_name x --out runs/grid-0", "--job_name y --out runs/grid-1"]),
        ({}, {"output_dir": ["x", "y"]}, "run", ["--output_dir x", "--output_dir y"]),
    ],
)
def test_no_two_points_share_a_folder(fixed, lists, launcher, ends):
    assert commands(Grid(fixed, lists), launcher) == [f"{launcher} {end}" for end in ends]


@pytest.mark.parametrize(
    ("fixed", "launcher"),
    [({}, "run --out a"), ({"out": "b"}, "run --out=a"), ({"output_dir": "b", "job_name": "j"}, "run --output_dir a")],
)
def test_a_folder_that_all_points_would_share_is_refused(fixed, launcher):
    with pytest.raises(
        ValueError, match=r"The start of the commands must not have --out(put_dir)?: give the folder in"
    ):
        commands(Grid(fixed, {"seed": [1, 2]}), launcher)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "is not a YAML file"),
        ("- 1", "must have a section hyperparameters"),
        ("hyperparameters: {lr: []}", "lr has no values"),
        ("hyperparameters: {lr: 1}\nmore: 2", "has the section more"),
        ("hyperparameters: {lr: 1}\ndefault_parameters: [1]", "default_parameters must be a mapping"),
        ("hyperparameters: {lr: 1}\ndefault_parameters: {lr: 2}", "lr is in both sections"),
    ],
)
def test_files_that_are_not_grids_are_refused(tmp_path, text, says):
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(ValueError, match=says):
        read_grid(tmp_path / "grid.yaml")


def test_the_original_command(grid):
    words = [sys.executable, str(SCRIPT), "--param_file", str(grid), "--job_name", "test", "--init_cmd", "run me"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert all(
        line.startswith("run me --dataset 'my shards'") and f"--job_name test-{i}" in line
        for i, line in enumerate(lines)
    )
    (grid.parent / "grid.yaml").write_text("[")
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert "is not a YAML file" in done.stderr
