"""The run folder: other folders are refused, and errors of writing name the run."""

import dataclasses

import pytest

from nip.pretraining import run as run_module
from nip.pretraining.run import pretrain
from nip.pretraining.settings import Settings


@pytest.fixture
def settings():
    sizes = {"size": "tiny", "layers": 1, "width": 16, "heads": 2, "inner_width": 32, "block_size": 8}
    return Settings(**sizes, lengths=((16, 1.0),), batch_size=8, max_steps=1, eval_samples=4, track="none")


def test_folders_without_a_run_are_refused(settings, corpora, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        pretrain(settings, corpora["packed"], tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").write_text('{"kind": "glue"}')
    with pytest.raises(ValueError, match="holds a run of another kind"):
        pretrain(settings, corpora["packed"], tmp_path / "other")


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("training.trainer.Metrics.secure", "the checkpoint cannot be written"),
        ("pretraining.run.write_json", "the result cannot be written"),
        ("pretraining.export.save_model", "the result cannot be written"),
    ],
)
def test_an_error_of_a_full_disk_names_the_run(settings, corpora, tmp_path, monkeypatch, place, says):
    def full(*arguments, **more):
        if place == "pretraining.run.write_json" and arguments[0].name != "result.json":
            return write_json(*arguments)
        raise OSError(28, "No space left on device")

    write_json = run_module.write_json
    monkeypatch.setattr(f"nip.{place}", full)
    with pytest.raises(OSError, match=says + r" \(No space left on device\); the last one, in .* stays") as caught:
        pretrain(settings, corpora["packed"], tmp_path / "run")
    assert caught.value.filename == str(tmp_path / "run")
    monkeypatch.undo()
    assert pretrain(settings, corpora["packed"], tmp_path / "run")["steps"] == 1


@pytest.mark.parametrize("place", ["open_stage", "checkpoint", "environment"])
def test_a_run_stopped_before_its_first_step_resumes(settings, corpora, tmp_path, monkeypatch, place):
    """With a tracker, which writes first; the same command resumes, and another run is refused."""

    def stop(*arguments, **options):
        original(*arguments, **options)
        raise KeyboardInterrupt

    original = getattr(run_module, place)
    tracked = dataclasses.replace(settings, track="tensorboard")
    with monkeypatch.context() as patched:
        patched.setattr(run_module, place, stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain(tracked, corpora["packed"], tmp_path / "run")
    assert (tmp_path / "run" / "tracking").is_dir()
    if (tmp_path / "run" / "checkpoint").is_dir():
        with pytest.raises(ValueError, match="holds another run: seed"):
            pretrain(dataclasses.replace(tracked, seed=1), corpora["packed"], tmp_path / "run")
    assert pretrain(tracked, corpora["packed"], tmp_path / "run")["steps"] == 1
