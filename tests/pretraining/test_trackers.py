"""Experiment trackers."""

import time

import pytest
from accelerate import Accelerator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nip.pretraining.settings import Settings
from nip.pretraining.trackers import check_installed, tracked
from nip.runs.folder import RunFolder


def test_tensorboard_gets_the_metrics_of_every_step_once(tmp_path):
    settings, folder = Settings(max_steps=5, project="mine"), RunFolder(tmp_path)
    accelerator = Accelerator(cpu=True)
    with tracked(settings, accelerator, folder, 0) as log:
        for step in range(1, 5):
            log({"loss": 8.0 - step}, step)
    # event files are read in the order of their names, by second and number, where 10 sorts before 9
    time.sleep(1 - time.time() % 1)
    with tracked(settings, Accelerator(cpu=True), folder, 2) as log:  # a restart after step 2
        log({"loss": 0.5}, 3)
    found = EventAccumulator(str(tmp_path / "tracking" / "mine"))
    found.Reload()
    assert [(each.step, each.value) for each in found.Scalars("loss")] == [(1, 7.0), (2, 6.0), (3, 0.5)]


def test_no_tracker(tmp_path):
    with tracked(Settings(max_steps=5, track="none"), None, RunFolder(tmp_path), 0) as log:
        log({"loss": 1.0}, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="--track wandb needs wandb: pip install wandb"):
        check_installed(Settings(max_steps=5, track="none,wandb"))
