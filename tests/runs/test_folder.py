import dataclasses
import errno
import json
import os
import subprocess
import sys

import pytest

from nip.lra import recipe
from nip.lra.config import check_same_config, resolve
from nip.runs.folder import (
    Metrics,
    RunFolder,
    check_same_run,
    claimed,
    file_sha256,
    locked,
    read_metrics,
    write_manifest,
)

OWNED = ("config.json", "run.log")


def test_one_process_at_a_time(tmp_path):
    folder = RunFolder(tmp_path / "run")
    code = (
        "import sys; from pathlib import Path; from nip.runs.folder import RunFolder, claimed\n"
        "with claimed(RunFolder(Path(sys.argv[1])), 'lra', ['config.json']): pass"
    )

    def other():
        return subprocess.run([sys.executable, "-c", code, str(folder.path)], capture_output=True, text=True)

    with claimed(folder, "lra", OWNED):
        assert "Another process is at work in" in other().stderr
    assert other().returncode == 0


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    left = (tmp_path / ".config.json.x.nip-partial", tmp_path / "checkpoint" / ".state.safetensors.y.nip-partial")
    mine = (tmp_path / ".config.json.x.partial", tmp_path / "mine.nip-partial")
    for file in (*left, *mine):
        file.write_text("half")
    (tmp_path / "config.json").write_text(recipe("listops").to_json())
    with claimed(RunFolder(tmp_path), "lra", OWNED):
        assert not any(file.exists() for file in left) and all(file.exists() for file in mine)
        assert (tmp_path / "config.json").exists()


def test_a_run_that_was_killed_before_its_configuration_was_written_starts_again(tmp_path):
    folder = RunFolder(tmp_path)
    with claimed(folder, "lra", OWNED):
        pass
    for path in (folder.log, folder.pattern, tmp_path / ".config.json.x.nip-partial"):
        path.write_text("")
    with claimed(folder, "lra", OWNED) as there:
        assert there is None
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match="is not empty and holds no run"), claimed(folder, "lra", OWNED):
        pass


def test_a_refused_command_leaves_nothing(tmp_path):
    folder = RunFolder(tmp_path / "deep" / "run")
    with pytest.raises(ValueError, match="impossible"), claimed(folder, "lra", OWNED):
        folder.log.write_text("impossible")
        raise ValueError("impossible")
    assert not (tmp_path / "deep").exists()
    (tmp_path / "deep").mkdir()
    with pytest.raises(ValueError, match="impossible"), claimed(folder, "lra", OWNED):
        raise ValueError("impossible")
    assert list(tmp_path.iterdir()) == [tmp_path / "deep"] and not list((tmp_path / "deep").iterdir())
    with pytest.raises(ValueError, match="later"), claimed(folder, "lra", OWNED):
        folder.config.write_text("{}")  # the run has begun: nothing is taken back
        raise ValueError("later")
    assert {path.name for path in folder.path.iterdir()} == {".lock", "manifest.json", "config.json"}


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable to the superuser")
def test_an_unwritable_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError), claimed(RunFolder(tmp_path / "run"), "lra", OWNED):
        pass


def test_a_folder_in_a_file_s_place(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(OSError), claimed(RunFolder(tmp_path / "run"), "lra", OWNED):
        pass
    with pytest.raises(OSError), claimed(RunFolder(tmp_path / "run" / "deeper"), "lra", OWNED):
        pass


def test_what_the_machine_decides_stays_with_the_run(tmp_path):
    folder, config = RunFolder(tmp_path), recipe("listops")
    resolved = resolve(config, folder, "cpu")
    assert (resolved.gradient_accumulation, resolved.precision) == (8, "fp32")
    assert resolve(dataclasses.replace(config, seq_len=64), folder, "cpu").gradient_accumulation == 1
    on_gpu = resolve(config, folder, "cuda")
    assert (on_gpu.gradient_accumulation, on_gpu.precision) == (1, "bf16")
    folder.config.write_text(resolved.to_json())
    assert resolve(config, folder, "cuda") == resolved
    asked = dataclasses.replace(config, precision="bf16")
    with pytest.raises(ValueError, match="precision is 'fp32' there and 'bf16' here"):
        check_same_config(tmp_path, resolved, resolve(asked, folder, "cuda"))


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


def test_a_lock_is_waited_for_or_refused(tmp_path):
    with locked(tmp_path / "new" / ".lock"), pytest.raises(ValueError, match=r"Another process is at work in .*new"):
        locked(tmp_path / "new" / ".lock").__enter__()
    with locked(tmp_path / "new" / ".lock", wait=True):
        pass


def test_a_folder_of_another_kind_is_refused_and_left_alone(tmp_path):
    (tmp_path / "run.json").write_text('{"kind": "glue"}')
    (tmp_path / ".theirs.nip-partial").write_text("theirs")
    refused = pytest.raises(ValueError, match=r"holds a run of another kind \(glue\)")
    with refused, claimed(RunFolder(tmp_path), "lra", OWNED):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"run.json", ".theirs.nip-partial"}


@pytest.mark.parametrize(
    ("here", "allowed", "says"),
    [
        ({"seed": 1, "steps": 5}, {}, None),
        ({"seed": 1, "steps": 9}, {}, "steps is 5 there and 9 here"),
        ({"seed": 1, "steps": 9}, {"growing": ["steps"]}, None),
        ({"seed": 1, "steps": 4}, {"growing": ["steps"]}, "steps is 5 there and 4 here"),
        ({"seed": 1, "steps": None}, {"growing": ["steps"]}, "steps is 5 there and None here"),
        ({"seed": 2, "steps": 5}, {"changeable": ["seed"]}, None),
        ({"seed": 2, "steps": 6}, {}, "seed is 1 there and 2 here; steps is 5 there and 6 here"),
        ({"seed": 1, "steps": 5}, {"data": ("a", "b"), "graph": ("a", "b")}, "the data is another set"),
        ({"seed": 1, "steps": 5}, {"graph": ("a", "b")}, "the graph is another one"),
    ],
)
def test_whether_a_command_continues_a_run(here, allowed, says):
    there = {"seed": 1, "steps": 5}
    if says is None:
        check_same_run("runs/a", there, here, **allowed)
        return
    with pytest.raises(ValueError) as told:
        check_same_run("runs/a", there, here, **allowed)
    advice = "Name another --output-dir, or repeat its settings."
    assert str(told.value) == f"runs/a holds another run: {says}. {advice}"


def test_the_manifest(tmp_path):
    for name in ("config.json", "best/model.safetensors", "mine.safetensors", "checkpoint-3/optimizer.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    owned = ["config.json", "best/model.safetensors", "checkpoint-*/*"]
    write_manifest(tmp_path, "lra", ["nip", "lra"], owned, finished=False)
    before = json.loads((tmp_path / "manifest.json").read_text())
    assert before == {
        "format": 1,
        "kind": "lra",
        "command": ["nip", "lra"],
        "owned": sorted([".lock", "manifest.json", *owned]),
        "sha256": {},
    }
    write_manifest(tmp_path, "lra", ["nip", "lra"], owned, finished=True)
    binary = ("best/model.safetensors", "checkpoint-3/optimizer.pt")
    sums = {name: file_sha256(tmp_path / name) for name in binary}
    assert json.loads((tmp_path / "manifest.json").read_text()) == {**before, "sha256": sums}
