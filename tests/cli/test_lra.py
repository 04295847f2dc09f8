"""The command `nip lra`."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from nip.cli import main
from nip.cli.lra import resolve
from nip.data import Rule, build_listops
from nip.lra import recipe
from nip.lra.config import read_config
from nip.runs.folder import read_metrics

SMALL = ["--seq-len", "64", "--block-size", "8", "--batch-size", "4", "--max-steps", "6", "--eval-every", "3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    build_listops(folder, Rule(min_length=4, max_length=60), (60, 10, 12), seed=1)
    return folder


@pytest.fixture
def lra(capsys, monkeypatch, tmp_path, data):
    """Run the command line in-process: (exit code, standard output, standard error)."""
    monkeypatch.setenv("NIP_DATA", str(data))
    monkeypatch.setenv("NIP_RUNS", str(tmp_path / "runs"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["lra", *map(str, arguments)])
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    yield run
    torch.set_num_threads(threads)


def test_train_again_more_and_test_only(lra, tmp_path):
    code, out, _ = lra("--model", "bigbird", "--param", "num_random_blocks=1", "--seed", 3, *SMALL)
    folder = tmp_path / "runs" / "listops-bigbird-seed3"
    assert code == 0
    assert out.startswith("Test accuracy ") and "knowing only the root operator" in out
    assert out.rstrip().endswith(str(folder))
    again = ("--config", folder / "config.json")
    code, out, err = lra(*again, "--json")
    assert code == 0 and "is finished" in err
    result = json.loads(out)
    assert result == json.loads((folder / "result.json").read_text())
    assert result["n_test"] == 12 and result["protocol"] == "clean"
    code, out, err = lra(*again, "--max-steps", 8, "--json")
    assert code == 0 and "Resuming after step 6 of 8" in err
    assert json.loads(out)["steps"] == 8
    code, out, _ = lra(*again, "--skip-train", "--json")
    assert code == 0 and json.loads(out)["best_step"] == json.loads((folder / "result.json").read_text())["best_step"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--task", "chess"], "There is no task 'chess' to train on. The tasks are listops, text,"),
        (["--recipe", "stew"], "There is no recipe 'stew'. The recipes are original"),
        (["--model", "hypercub"], "There is no pattern 'hypercub'. The patterns are softmax, hypercube,"),
        (["--param", "degree=3"], "The pattern 'hypercube' has no parameter 'degree'."),
        (["--param", "degree"], "--param takes name=value"),
        (["--seq-len", "4096"], "A sequence of 4096 tokens is longer than the position table of 2048 rows."),
        (["--block-size", "0"], "The 'block_size' parameter of a run must be an integer of at least 1. Got 0 instead."),
        (["--learning-rate", "0"], "The 'learning_rate' parameter of a run must be a number above 0. Got 0.0 instead."),
        (["--protocol", "dirty"], "must be one of original, clean. Got 'dirty' instead."),
        (["--protocol", "original", "--attention-dropout", "0.3"], "0.3 has no effect over hypercube"),
        (["--backend", "magic", *SMALL], "There is no attention backend 'magic'."),
        (["--batch-size", "61"], "A batch of 61 examples cannot be drawn from the 60 of the train set."),
        (["--skip-train"], "has no best weights to test; train first"),
        (["--graph", "ring.txt", "--model", "local"], "Give --attention or --graph, not both."),
        (["--graph", "absent.txt"], "absent.txt"),
        (["--config", "absent.json"], "absent.json: No such file or directory"),
        (["--data", "nowhere"], "There is no listops data in nowhere/listops. Make it with: nip data listops"),
        (["--data", "nowhere", "--task", "probe"], "Make it with: nip data probe --output-dir nowhere"),
        (["--data", "nowhere", "--task", "retrieval"], "with: nip data retrieval --from FOLDER --output-dir nowhere"),
        (["--out", "/proc/nip"], "/proc/nip: No such file or directory"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_leaves_no_run(lra, arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = lra(*arguments)
    assert code == 2 and out == ""
    assert says in err and err.startswith("nip: ") and err.count("\n") == 1
    assert not list(tmp_path.rglob("config.json"))


def test_other_settings_in_the_same_folder(lra):
    assert lra(*SMALL)[0] == 0
    code, _, err = lra(*SMALL, "--batch-size", 5)
    assert code == 2 and "holds another run: batch_size is 4 there and 5 here. Name another --output-dir" in err


def test_a_graph_file(lra, tmp_path):
    (tmp_path / "ring.txt").write_text("\n".join(f"{i} {(i + 1) % 8}" for i in range(8)) + "\n0 0\n")
    code, _, err = lra("--graph", tmp_path / "ring.txt", *SMALL)
    folder = tmp_path / "runs" / "listops-ring-seed42"
    assert code == 0 and "self loop" in err
    assert (folder / "pattern.npz").is_file()
    # the configuration of the run finds the graph next to it, if the file is gone
    (tmp_path / "ring.txt").unlink()
    assert lra("--config", folder / "config.json", "--out", tmp_path / "second")[0] == 0
    assert read_config(tmp_path / "second" / "config.json").checksum == read_config(folder / "config.json").checksum


def test_options_come_before_the_file_and_the_file_before_the_recipe(tmp_path):
    path = tmp_path / "some.json"
    path.write_text('{"batch_size": 8, "dropout": 0.5, "model": "bigbird", "parameters": {"seed": 3}, "data": "x"}')
    config = resolve({"dropout": 0.25}, path)
    assert (config.batch_size, config.dropout, config.model, config.parameters) == (8, 0.25, "bigbird", {"seed": 3})
    assert config.learning_rate == recipe("listops").learning_rate and config.data is None
    # another pattern does not inherit the parameters of the file's
    assert resolve({"model": "local"}, path).parameters == {}
    assert resolve({"protocol": "original"}, path).eval_steps == 62
    with pytest.raises(ValueError, match=r"names batchsize, which no run has"):
        path.write_text('{"batchsize": 8}')
        resolve({}, path)


def test_a_killed_run_resumes_to_the_same_result(data, tmp_path):
    program = "from nip.cli import main; main()"
    command = [sys.executable, "-c", program, "lra", *SMALL, "--max-steps", "30", "--data", str(data), "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole = subprocess.Popen([*command, str(tmp_path / "whole")], env=environment, stdout=subprocess.PIPE)
    killed = subprocess.Popen([*command, str(tmp_path / "killed")], env=environment, stdout=subprocess.DEVNULL)
    metrics = tmp_path / "killed" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and '"step": 9, "split": "dev"' in metrics.read_text()):
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "result.json").exists()
    again = subprocess.run([*command, str(tmp_path / "killed")], env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "Resuming after step" in again.stderr
    assert whole.communicate(timeout=120)[0] and whole.returncode == 0

    def rows(name):
        return [{**row, "seconds": None} for row in read_metrics(tmp_path / name / "metrics.jsonl")]

    assert rows("killed") == rows("whole")
    best = [(tmp_path / name / "best" / "model.safetensors").read_bytes() for name in ("killed", "whole")]
    assert best[0] == best[1]


MODERN = ["--recipe", "modern", *SMALL, "--layers", "1", "--pretrain-steps", "4"]


def test_how_a_graph_file_is_read_is_printed_before_the_training(lra, tmp_path):
    (tmp_path / "one.txt").write_text("".join(f"{i + 1} {(i + 1) % 7 + 1}\n" for i in range(7)))
    code, _, err = lra("--graph", tmp_path / "one.txt", *MODERN)
    assert code == 0
    warning, training = err.index("vertex 0 has no edge"), err.index("Pretraining: 4 steps")
    assert warning < err.index("give --first-vertex 1 (to nip score") < training


def test_the_modern_recipe_pretrains_and_trains_by_one_command(lra, tmp_path):
    code, out, err = lra(*MODERN, "--ema", "0.9", "--patience", "5", "--gradient-checkpointing")
    assert code == 0, err
    folder = tmp_path / "runs" / "listops-hypercube-modern-seed42"
    assert out.rstrip().endswith(str(folder))
    assert "Pretraining: 4 steps of denoising, 10% masked." in err
    config = read_config(folder / "config.json")
    assert (config.ema, config.patience, config.gradient_checkpointing, config.positions) == (0.9, 5, True, 64)
    before = read_metrics(folder / "pretraining" / "metrics.jsonl")
    assert [(row["split"], row["step"]) for row in before][-2:] == [("train", 4), ("held-out", 4)]
    code, _, err = lra(*MODERN, "--out", folder)
    assert code == 2 and "ema is 0.9 there and None here" in err
    code, _, err = lra(*SMALL, "--pretrain-steps", "4")
    assert code == 2 and "Only the modern recipe pretrains" in err
    code, _, err = lra(*MODERN, "--protocol", "original")
    assert code == 2 and "needs the clean protocol" in err


def test_the_modern_recipe_has_no_position_table(tmp_path):
    assert resolve({"recipe": "modern", "seq_len": 512}).positions == 512
    path = tmp_path / "config.json"
    path.write_text(resolve({"recipe": "modern", "seq_len": 512}).to_json())
    assert resolve({"seq_len": 256}, path).positions == 256
    with pytest.raises(ValueError, match=r"positions must be seq_len, 512\. Got 2048"):
        resolve({"recipe": "modern", "seq_len": 512, "positions": 2048})


@pytest.mark.slow
def test_two_processes_pretrain_as_one(data, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no_python", sys.executable]
    program = ["-c", "from nip.cli import main; main()"]
    for name, launcher in (("one", []), ("two", torchrun)):
        command = [sys.executable, *launcher, *program, "lra", *MODERN, "--data", str(data), "--out"]
        done = subprocess.run([*command, str(tmp_path / name)], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    for path in ("pretraining/metrics.jsonl", "metrics.jsonl"):
        one, two = (read_metrics(tmp_path / name / path) for name in ("one", "two"))
        assert [row["loss"] for row in one] == pytest.approx([row["loss"] for row in two], rel=1e-4)
