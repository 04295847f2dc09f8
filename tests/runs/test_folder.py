import dataclasses
import errno
import os
import subprocess
import sys

import pytest

from nip.lra import recipe
from nip.lra.config import check_same_config, settle
from nip.runs.folder import Metrics, RunFolder, claimed, read_metrics


def test_one_process_at_a_time(tmp_path):
    folder = RunFolder(tmp_path / "run")
    code = (
        "import sys; from pathlib import Path; from nip.runs.folder import RunFolder, claimed\n"
        "with claimed(RunFolder(Path(sys.argv[1])), 'lra'): pass"
    )

    def other():
        return subprocess.run([sys.executable, "-c", code, str(folder.path)], capture_output=True, text=True)

    with claimed(folder, "lra"):
        assert "Another process is at work in" in other().stderr
    assert other().returncode == 0


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    for leftover in (tmp_path / ".config.json.x.partial", tmp_path / "checkpoint" / ".state.safetensors.y.partial"):
        leftover.write_text("half")
    (tmp_path / "config.json").write_text(recipe("listops").to_json())
    with claimed(RunFolder(tmp_path), "lra"):
        assert not list(tmp_path.rglob("*.partial"))
        assert (tmp_path / "config.json").exists()


def test_a_run_that_was_killed_before_its_configuration_was_written_starts_again(tmp_path):
    folder = RunFolder(tmp_path)
    for path in (folder.log, folder.pattern, tmp_path / ".config.json.x.partial"):
        path.write_text("")
    with claimed(folder, "lra", early=(folder.pattern,)):
        pass
    folder.metrics.write_text("")
    with (
        pytest.raises(ValueError, match="is not empty and holds no run"),
        claimed(folder, "lra", early=(folder.pattern,)),
    ):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable to the superuser")
def test_an_unwritable_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError), claimed(RunFolder(tmp_path / "run"), "lra"):
        pass


def test_a_folder_in_a_file_s_place(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OSError), claimed(RunFolder(tmp_path / "run"), "lra"):
        pass
    with pytest.raises(OSError), claimed(RunFolder(tmp_path / "run" / "deeper"), "lra"):
        pass


def test_what_the_machine_decides_stays_with_the_run(tmp_path):
    folder, config = RunFolder(tmp_path), recipe("listops")
    decided = settle(config, folder, "cpu")
    assert (decided.gradient_accumulation, decided.precision) == (8, "fp32")
    assert settle(dataclasses.replace(config, seq_len=64), folder, "cpu").gradient_accumulation == 1
    on_gpu = settle(config, folder, "cuda")
    assert (on_gpu.gradient_accumulation, on_gpu.precision) == (1, "bf16")
    folder.config.write_text(decided.to_json())
    assert settle(config, folder, "cuda") == decided
    asked = dataclasses.replace(config, precision="bf16")
    with pytest.raises(ValueError, match="precision is 'fp32' there and 'bf16' here"):
        check_same_config(tmp_path, decided, settle(asked, folder, "cuda"))


def test_measurements_that_a_full_disk_refuses_are_told_with_their_file(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path, 0)
    metrics.write({"step": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="could not be written: No space left on device") as told:
        metrics.secure()
    assert told.value.filename == str(path)


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path, 0)
    metrics.write({"step": 1})
    length = metrics.secure()
    assert length == path.stat().st_size
    metrics.write({"step": 2})
    metrics.close()
    with path.open("a") as file:
        file.write('{"step": 3')  # cut off while it was written
    assert [row["step"] for row in read_metrics(path)] == [1, 2]
    metrics = Metrics(path, length)
    metrics.write({"step": 9})
    metrics.close()
    assert [row["step"] for row in read_metrics(path)] == [1, 9]
    with pytest.raises(ValueError, match="shorter than at the last checkpoint"):
        Metrics(path, 1000)
