"""Output folders: claims, checkpoints, cleaning up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nip.finetuning.output_dir import OWNED, checkpoints, claim_output_dir, clear, last_checkpoint
from nip.runs.folder import RunFolder, add_to_run_file, write_manifest


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run."""
    write_manifest(tmp_path, "glue", (), OWNED, finished=False)
    return tmp_path


def write_checkpoint(folder: Path, step: int, *, processes: int = 1, state: str | None = None) -> Path:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for rank in range(processes):
        (path / ("rng_state.pth" if processes == 1 else f"rng_state_{rank}.pth")).touch()
    (path / "trainer_state.json").write_text(state if state is not None else json.dumps({"global_step": step}))
    return path


def test_the_latest_complete_checkpoint_is_used_and_incomplete_ones_are_deleted(run: Path):
    tmp_path = run
    write_checkpoint(tmp_path, 9)
    kept = write_checkpoint(tmp_path, 10)
    write_checkpoint(tmp_path, 20, state='{"global_st')
    write_checkpoint(tmp_path, 30, state='{"global_step": 20}')
    (tmp_path / "checkpoint-40").mkdir()
    (tmp_path / "checkpoint-x").mkdir()
    assert last_checkpoint(tmp_path, 1) == kept
    assert [step for step, _ in checkpoints(tmp_path)] == [9, 10]
    assert (tmp_path / "checkpoint-x").is_dir()


def test_without_a_complete_checkpoint_none_is_deleted(tmp_path: Path):
    for step in (1, 2):
        (write_checkpoint(tmp_path, step) / "rng_state.pth").unlink()
    assert last_checkpoint(tmp_path, 1) is None
    assert [step for step, _ in checkpoints(tmp_path)] == [1, 2]


def test_a_checkpoint_has_the_generators_of_all_processes(run: Path):
    tmp_path = run
    kept = write_checkpoint(tmp_path, 1, processes=2)
    (write_checkpoint(tmp_path, 2, processes=2) / "rng_state_1.pth").unlink()
    assert last_checkpoint(tmp_path, 2) == kept


def test_clearing_keeps_foreign_files(run: Path):
    tmp_path = run
    write_checkpoint(tmp_path, 1)
    mine = write_checkpoint(tmp_path, 2) / "notes.txt"
    mine.touch()
    for name in ("result.json", "metrics.jsonl", "run.json", "notes.txt", "MNLI-mm.tsv", "eval_results.json"):
        (tmp_path / name).write_text("{}")
    weights = {"model.safetensors", "model-00001-of-00002.safetensors", "pattern.npz"}
    for name in weights:
        (tmp_path / name).touch()
    clear(RunFolder(tmp_path))
    assert {each.name for each in tmp_path.iterdir()} == {"notes.txt", "manifest.json", "checkpoint-2", *weights}
    clear(RunFolder(tmp_path), weights=True)
    assert {each.name for each in tmp_path.iterdir()} == {"notes.txt", "manifest.json", "checkpoint-2"}
    assert list(mine.parent.iterdir()) == [mine]


def test_claims(tmp_path: Path):
    settings = {"seed": 1, "bf16": False}
    claim = {"overwrite": False, "trains": True}
    with claim_output_dir(tmp_path, "glue", settings, **claim) as new:
        assert (new.before, new.trained, new.replace) == (None, None, False)
        with pytest.raises(ValueError, match="Another process"), claim_output_dir(tmp_path, "glue", settings, **claim):
            pass
    add_to_run_file(tmp_path, settings=settings)
    checkpoint = write_checkpoint(tmp_path, 3)
    with claim_output_dir(tmp_path, "glue", settings, overwrite=True, trains=True) as unfinished:
        assert unfinished.checkpoint(1) == checkpoint  # --overwrite_output_dir does not throw an unfinished run away
    add_to_run_file(tmp_path, trained={"steps": 3})
    with claim_output_dir(tmp_path, "glue", settings, **claim) as finished:
        assert finished.trained == {"steps": 3}
        assert finished.checkpoint(1) is None  # nothing is looked for, so nothing is deleted
    with claim_output_dir(tmp_path, "glue", settings, overwrite=True, trains=True) as replaced:
        assert (replaced.trained, replaced.checkpoint(1), replaced.replace) == (None, None, True)
    with (
        pytest.raises(ValueError, match="seed is 1 there and 2 here"),
        claim_output_dir(tmp_path, "glue", {**settings, "seed": 2}, **claim),
    ):
        pass
    with claim_output_dir(tmp_path, "glue", {"seed": 2}, overwrite=False, trains=False) as evaluated:
        assert evaluated.before is None
    (tmp_path / "run.json").write_text("[")
    with (
        pytest.raises(ValueError, match=r"run\.json is not valid JSON"),
        claim_output_dir(tmp_path, "glue", settings, **claim),
    ):
        pass
