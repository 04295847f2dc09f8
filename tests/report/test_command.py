import dataclasses
import shlex

import pytest

import nip.lra
from nip.cli import main
from nip.graphs import Pattern
from nip.lra.config import RunConfig
from nip.report.command import reproduction_command
from nip.runs.record import read_record
from run_folders import small_config, write_run


@pytest.fixture
def configuration_of(monkeypatch, tmp_path):
    """What `nip lra` would train with, given a command line; training itself is left out."""

    def configuration(command):
        asked = []

        def caught(config, *_, **__):
            asked.append(config)
            raise ValueError("enough")

        monkeypatch.setattr(nip.lra, "train", caught, raising=False)
        program, *arguments = shlex.split(command)
        assert program == "nip"
        with pytest.raises(SystemExit):
            main([*arguments, "--out", str(tmp_path / "out")])
        return asked[0]

    return configuration


def without_findings(config):
    return dataclasses.replace(config, checksum=None, data=None)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model": "local+random", "seed": 3, "max_steps": 70},
        {"model": "bigbird", "parameters": {"num_random_blocks": 2, "seed": 9, "causal": True}},
        {"protocol": "original", "eval_steps": 5, "learning_rate": 3e-05, "warmup": 0.123456789, "dropout": 0.0},
        {"gradient_accumulation": 4, "precision": "fp32", "backend": "gather", "batch_size": 8, "block_size": 8},
        {"positions": 512, "weight_decay": 0.5, "eval_every": 1},
        {"attention_dropout": 0.1, "layers": 3, "repeats": 1, "cut": 100},
        {"ema": 0.99, "patience": 4, "gradient_checkpointing": True},
        {"width": 32},
    ],
)
def test_the_command_asks_for_the_runs_very_configuration(tmp_path, monkeypatch, configuration_of, settings):
    run = read_record(write_run(tmp_path, small_config(**settings)))
    monkeypatch.chdir(run.folder)  # where the command may name config.json
    command = reproduction_command(run)
    assert ("--config" in command) == ("width" in settings)
    assert configuration_of(command) == without_findings(RunConfig(**run.settings))


def test_a_run_on_a_graph_file(tmp_path, configuration_of):
    ring = Pattern.from_edges(16, range(16), [(k + 1) % 16 for k in range(16)], symmetric=True)
    file = tmp_path / "a ring.npz"
    ring.save(file)
    config = small_config(model="a ring", graph=str(file))
    run = read_record(write_run(tmp_path, config, name="run", checksum=ring.checksum))
    assert configuration_of(reproduction_command(run)) == without_findings(RunConfig(**run.settings))


def test_a_hostile_name_is_quoted(tmp_path):
    run = read_record(write_run(tmp_path, small_config(model="x; rm -rf ~"), name="run", checksum="0" * 64))
    assert shlex.split(reproduction_command(run))[:4] == ["nip", "lra", "--attention", "x; rm -rf ~"]
