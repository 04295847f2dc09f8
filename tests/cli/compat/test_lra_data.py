"""The original's pickles are found from the working directory."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nip.cli.compat.lra_data import with_original_data
from nip.cli.lra import resolve
from nip.data import open_split
from nip.lra import recipe

SCRIPT = Path(__file__).parents[3] / "scripts" / "run_tasks.py"


def write(folder, shift=0):
    folder.mkdir(parents=True, exist_ok=True)
    for split, size in (("train", 40), ("dev", 8), ("test", 9)):
        rng = np.random.default_rng(size)
        examples = [
            {"input_ids_0": np.append(rng.integers(1, 17, 20), np.zeros(12, int)), "label": np.int64((i + shift) % 10)}
            for i in range(size)
        ]
        (folder / f"listops.{split}.pickle").write_bytes(pickle.dumps(examples))


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("NIP_DATA", str(tmp_path / "data"))
    return tmp_path / "work"


def labels(arguments):
    assert arguments[-2] == "--data"
    return open_split("listops", "dev", Path(arguments[-1])).labels.tolist()


@pytest.mark.parametrize("place", ["LRA/datasets", "datasets", "../datasets", "."])
@pytest.mark.parametrize("task", [[], ["--task", "listops"], ["--task=listops"]])
def test_pickles_are_found_in_the_usual_places(place, task, here):
    write(here / place)
    arguments = with_original_data([*task, "--model", "local"])
    assert arguments[:-2] == [*task, "--model", "local"]
    assert labels(arguments) == list(range(8))
    assert Path(arguments[-1]).is_relative_to(here.parent / "data" / "original")


@pytest.mark.parametrize("flag", [["--data", "mine"], ["--data=mine"]])
def test_pickles_are_found_in_the_folder_of_data(flag, here):
    write(here / "mine", shift=3)
    write(here / "LRA" / "datasets")
    arguments = with_original_data(["--seed", "1", *flag, "--model", "local"])
    assert arguments[:-2] == ["--seed", "1", "--model", "local"]
    assert labels(arguments)[0] == 3


def test_unnamed_pickles_count_only_if_complete(here):
    write(here / "LRA/datasets")
    (here / "LRA/datasets/listops.train.pickle").unlink()
    assert with_original_data(["--model", "local"]) == ["--model", "local"]
    with pytest.raises(FileNotFoundError, match="in three pickles"):
        with_original_data(["--data", "LRA/datasets"])


def test_the_task_may_be_in_a_config_file(here):
    write(here)
    (here / "image.json").write_text('{"task": "image"}')
    (here / "listops.json").write_text('{"task": "listops"}')
    assert with_original_data(["--config", "image.json"]) == ["--config", "image.json"]
    assert labels(with_original_data(["--config", "listops.json"])) == list(range(8))


def test_without_pickles_the_arguments_are_unchanged(here):
    for arguments in ([], ["--task", "listops"], ["--data", "elsewhere"], ["--task", "chess"], ["--task"]):
        assert with_original_data(arguments) == arguments
    write(here / "LRA" / "datasets")
    assert with_original_data(["--task", "text"]) == ["--task", "text"]
    assert with_original_data(["--data", "elsewhere"]) == ["--data", "elsewhere"]
    assert not (here.parent / "data").exists()


def test_pickles_are_converted_once_and_when_they_change(here, capsys):
    write(here / "LRA" / "datasets")
    first = with_original_data([])
    assert "Converting listops of LRA/datasets into" in capsys.readouterr().err
    before = {path: path.stat().st_mtime_ns for path in Path(first[-1]).rglob("*.npy")}
    assert with_original_data([]) == first
    assert capsys.readouterr().err == ""
    assert before == {path: path.stat().st_mtime_ns for path in Path(first[-1]).rglob("*.npy")}
    write(here / "LRA" / "datasets", shift=1)
    assert labels(with_original_data([]))[0] == 1
    assert labels(first)[0] == 0


def run(*arguments):
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def test_the_command_trains_on_them(here):
    write(here / "LRA" / "datasets")
    small = "--model local --seq_len 32 --block_size 8 --batch_size 4 --max_steps 2 --eval_every 2 --eval_steps 2"
    done = run(*small.split(), "--out", "run")
    assert done.returncode == 0, done.stderr
    assert (here / "run" / "result.json").is_file()


def test_a_hostile_pickle_is_one_sentence(here):
    write(here / "LRA" / "datasets")
    (here / "LRA" / "datasets" / "listops.dev.pickle").write_bytes(pickle.dumps([{"label": os.system}]))
    done = run("--model", "local")
    assert done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith(
        "run_tasks.py: LRA/datasets/listops.dev.pickle contains the name 'posix.system'"
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("length", "taken"), [(1024, (1024, 1000)), (4096, (4096, None)), (4000, (4000, None))])
def test_a_text_is_taken_as_long_as_it_is(length, taken, here):
    """The original's script cuts at 1,000 bytes; a pickle of 4,000 comes from elsewhere."""
    rng = np.random.default_rng(1)
    for split in ("train", "dev", "test"):
        rows = [np.append(rng.integers(1, 257, length - 96), np.zeros(96, int)) for _ in range(3)]
        examples = [{"input_ids_0": row, "label": 1} for row in rows]
        (here / f"text.{split}.pickle").write_bytes(pickle.dumps(examples))
    arguments = with_original_data(["--task", "text", "--protocol", "original"])
    data = Path(arguments[-1])
    config = resolve({"task": "text", "protocol": "original"}, data=data)
    assert (config.seq_len, config.cut) == taken
    assert max(open_split("text", "train", data).lengths) == length - 96
    given = resolve({"task": "text", "protocol": "original", "seq_len": 512, "cut": 500}, data=data)
    assert (given.seq_len, given.cut) == (512, 500)
    assert resolve({"task": "text"}, data=data) == recipe("text")
