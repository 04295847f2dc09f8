"""Searches with fake trials (`stand_in_trial`), and one with real runs."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from nip.finetuning.search import run as hpo
from nip.finetuning.search.arguments import Search
from nip.finetuning.search.run import read_evaluations, read_value, run_search
from nip.finetuning.search.space import Range, grid_points
from nip.finetuning.search.study import enqueue, open_storage, open_study

STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in_trial.py")))
GRID = {"learning_rate": (0.1, 0.2, 0.3, 0.4), "num_train_epochs": (2,)}


def search(folder, **changes):
    plain = Search(
        command="glue", argv=(), folder=folder, space=GRID, sampler="grid", pruner="none", trials=None,
        storage=f"sqlite:///{folder / 'search.db'}", study="test", metric="accuracy", direction="maximize", workers=1,
        seed=1, keep_all=False, retry_failed=False, json=False,
    )  # fmt: skip
    return dataclasses.replace(plain, **changes)


def starts(folder):
    """The rates that were started, in all trials."""
    return sorted(float(line) for file in folder.glob("trials/*/starts.txt") for line in file.read_text().split())


def test_a_grid(tmp_path, capsys):
    found = run_search(search(tmp_path, argv=("--task_name", "a b"), workers=2), STAND_IN)
    assert starts(tmp_path) == [0.1, 0.2, 0.3, 0.4]
    assert found["counts"] == {"complete": 4, "pruned": 0, "fail": 0, "running": 0, "waiting": 0}
    best = found["best"]
    assert best["parameters"] == {"learning_rate": 0.3, "num_train_epochs": 2}
    assert best["value"] == pytest.approx(0.9)
    assert best["evaluations"] == pytest.approx([0.89, 0.895])
    assert best["again"].startswith("nip glue --task_name 'a b' --learning_rate 0.3 --num_train_epochs 2 --output_dir ")
    assert json.loads((tmp_path / "search.json").read_text()) == found
    assert ": accuracy 0.9000" in capsys.readouterr().err
    kept = [path.parent.name for path in tmp_path.glob("trials/*/model.safetensors")]
    assert kept == [Path(best["folder"]).name]
    assert not list(tmp_path.glob("trials/*/checkpoint-*"))
    again = run_search(search(tmp_path, argv=("--task_name", "a b")), STAND_IN)  # a finished one is not repeated
    assert starts(tmp_path) == [0.1, 0.2, 0.3, 0.4] and again == found


def page_of(folder):
    return (folder / "search.html").read_text()


def test_the_page_is_self_contained(tmp_path):
    space = {**GRID, "weight_decay": (0.1, 0.2)}
    found = run_search(search(tmp_path, space=space, trials=5, argv=("--task_name", "<b>")), STAND_IN)
    page = page_of(tmp_path)
    assert page.count("Plotly.newPlot(") == 5 and "<script src" not in page
    assert "&lt;b&gt;" in page and "--task_name '<b>'" not in page
    assert all(f"<td>{row['trial']}</td>" in page for row in found["trials"])
    study = open_study(open_storage(f"sqlite:///{tmp_path / 'search.db'}"), "test", "maximize", "none")
    enqueue(study, found["best"]["parameters"])  # again: it takes over the value and is shown nowhere
    run_search(search(tmp_path, space=space, trials=6, argv=("--task_name", "<b>")), STAND_IN)
    numbers = sorted(row["trial"] for row in json.loads((tmp_path / "search.json").read_text())["trials"])
    assert numbers == [0, 1, 2, 3, 4, 6]
    page = page_of(tmp_path)
    drawn, _ = json.JSONDecoder().raw_decode(page, page.index("[", page.index("Plotly.newPlot(")))
    assert drawn[0]["x"] == numbers
    assert "Trials: 6 complete, of 8 points in all." in page


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_best_trial_of_a_sampler(tmp_path, direction):
    metric = "accuracy" if direction == "maximize" else "loss"
    space = {"learning_rate": Range(0.0, 0.6)}
    settings = {"space": space, "sampler": "tpe", "trials": 8, "metric": metric, "direction": direction}
    found = run_search(search(tmp_path, workers=3, **settings), STAND_IN)
    assert found["counts"]["complete"] == 8 and found["points"] is None
    values = [row["value"] for row in found["trials"]]
    assert found["best"]["value"] == (max if direction == "maximize" else min)(values)


def test_an_unpromising_trial_is_pruned(tmp_path, monkeypatch):
    space = {"learning_rate": (0.25, 0.3, 0.35, 0.31, 0.32, 0.7), "num_train_epochs": (3,)}
    seed = next(seed for seed in range(999) if grid_points(space, seed=seed)[-1]["learning_rate"] == 0.7)

    def twice(metrics, metric):  # the rule waits for a second evaluation, before which this trial hangs
        return [value for value in read_evaluations(metrics, metric) for _ in range(2)]

    monkeypatch.setattr(hpo, "read_evaluations", twice)
    found = run_search(search(tmp_path, space=space, seed=seed, pruner="median"), STAND_IN)
    assert found["counts"]["pruned"] == 1 and found["counts"]["complete"] == 5
    (stopped,) = (row for row in found["trials"] if row["state"] == "pruned")
    assert stopped["parameters"]["learning_rate"] == 0.7 and stopped["value"] is None


def test_a_trial_that_is_killed_resumes_and_does_not_count_as_failed(tmp_path, capsys):
    found = run_search(search(tmp_path, argv=("--die", "1")), STAND_IN)
    assert found["counts"] == {"complete": 4, "pruned": 0, "fail": 0, "running": 0, "waiting": 0}
    assert [row["trial"] for row in found["trials"]] == [0, 1, 2, 3]
    assert starts(tmp_path) == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.4, 0.4]
    assert "it resumes from its last checkpoint" in capsys.readouterr().err


def test_a_trial_that_is_killed_again_and_again_has_failed(tmp_path):
    found = run_search(search(tmp_path, argv=("--die", "99"), space={"learning_rate": (0.1,)}), STAND_IN)
    assert found["counts"]["fail"] == 1
    assert found["failed"][0]["error"].startswith("killed by signal 9")


def test_a_storage_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    def full(_):
        raise optuna.exceptions.StorageInternalError("full") from OSError("database or disk is full")

    monkeypatch.setattr(hpo, "run_search", full)
    with pytest.raises(OSError, match="storage of the search cannot be read or written"):
        hpo.main(["glue", "--model_name_or_path", "x", "--task_name", "mrpc", "--output_dir", str(tmp_path)])


def test_a_failed_trial_is_reported_and_the_search_continues(tmp_path, capsys):
    space = {"learning_rate": (0.2, 2.0, 0.3)}
    found = run_search(search(tmp_path, space=space), STAND_IN)
    assert found["counts"]["complete"] == 2 and found["best"]["value"] == pytest.approx(0.9)
    (failed,) = found["failed"]
    assert (failed["error"], failed["parameters"]) == ("out of memory", {"learning_rate": 2.0})
    assert "out of memory" in Path(failed["log"]).read_text()
    assert f"trial {failed['trial']} has failed: out of memory" in capsys.readouterr().err
    run_search(search(tmp_path, space=space), STAND_IN)
    assert starts(tmp_path) == [0.2, 0.3, 2.0]
    run_search(search(tmp_path, space=space, retry_failed=True), STAND_IN)
    assert starts(tmp_path) == [0.2, 0.3, 2.0, 2.0]


def test_invalid_input_ends_the_search_and_can_be_corrected(tmp_path):
    with pytest.raises(ValueError, match="the input is wrong"):
        run_search(search(tmp_path, space={"learning_rate": (11.0, 12.0)}, sampler="random", trials=2), STAND_IN)
    assert len(starts(tmp_path)) == 1
    settings = {"space": {"learning_rate": (11.0, 12.0)}, "sampler": "random", "trials": 2}
    with pytest.raises(ValueError, match="the input is wrong"):
        run_search(search(tmp_path, argv=("--other",), **settings), STAND_IN)
    assert len(starts(tmp_path)) == 2


def test_a_trial_marked_as_lost_is_retried(tmp_path, monkeypatch, capsys):
    real, closed = hpo.read_evaluations, []

    def lose(metrics, metric):  # as another machine would, which misses the heartbeat
        if not closed:
            study = open_study(open_storage(f"sqlite:///{tmp_path / 'search.db'}"), "test", "maximize", "none")
            (running,) = (trial for trial in study.get_trials() if trial.state == TrialState.RUNNING)
            study.tell(running.number, state=TrialState.FAIL)
            closed.append(running.number)
        return real(metrics, metric)

    monkeypatch.setattr(hpo, "read_evaluations", lose)
    found = run_search(search(tmp_path), STAND_IN)
    assert found["counts"] == {"complete": 4, "pruned": 0, "fail": 0, "running": 0, "waiting": 0}
    assert f"trial {closed[0]} was marked as lost" in capsys.readouterr().err
    assert len(starts(tmp_path)) == 5


def test_the_sum_of_the_metrics_at_the_last_evaluation(tmp_path):
    rows = [
        {"step": 200, "split": "dev", "loss": 0.5, "accuracy": 0.7, "f1": 0.8, "combined_score": 0.75, "seconds": 9.0},
        {"step": 201, "split": "train", "loss": 0.4},
        {"step": 400, "split": "dev", "loss": 0.6, "accuracy": 0.6, "f1": 0.75, "combined_score": 0.675, "tokens": 99},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    best = {"accuracy": 0.7, "f1": 0.8, "combined_score": 0.75, "loss": 0.5}
    (tmp_path / "result.json").write_text(json.dumps({"metrics": best}))
    assert read_evaluations(tmp_path / "metrics.jsonl", "sum") == pytest.approx([1.5, 1.35])
    assert read_value(tmp_path, "sum") == (pytest.approx(1.35), None)
    (tmp_path / "metrics.jsonl").write_text("")  # a run shorter than 200 steps
    assert read_value(tmp_path, "sum") == (pytest.approx(1.5), None)


def test_a_search_for_the_sum(tmp_path, capsys):
    found = run_search(search(tmp_path, metric="sum"), STAND_IN)
    assert found["metric"] == "sum" and found["best"]["parameters"]["learning_rate"] == 0.3
    assert found["best"]["value"] == pytest.approx(0.895)  # its last evaluation; that of the best weights is 0.9
    assert "sum 0.8950" in capsys.readouterr().err


def test_a_missing_metric(tmp_path):
    found = run_search(search(tmp_path, metric="f1", trials=1), STAND_IN)
    assert found["best"] is None
    assert found["failed"][0]["error"] == "the run has no metric 'f1'; it has accuracy, loss"
    assert "No trial has finished" in (tmp_path / "search.html").read_text()


PROCESS = """
import sys
from pathlib import Path
from test_run import STAND_IN, run_search, search
run_search(search(Path(sys.argv[1]), argv=("--hold", sys.argv[2]), workers=int(sys.argv[3])), STAND_IN)
"""


def start(folder, hold, workers=2):
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-c", PROCESS, str(folder), str(hold), str(workers)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.DEVNULL)


def wait_until(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_killed_search_resumes(tmp_path):
    hold = tmp_path / "go"
    process = start(tmp_path, hold)
    wait_until(lambda: len(starts(tmp_path)) == 2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    under_way = starts(tmp_path)
    hold.touch()
    found = run_search(search(tmp_path, argv=("--hold", str(hold))), STAND_IN)
    assert found["counts"] == {"complete": 4, "pruned": 0, "fail": 0, "running": 0, "waiting": 0}
    assert starts(tmp_path) == sorted(
        [0.1, 0.2, 0.3, 0.4, *under_way]
    )  # those two in their own folders, the others once
    assert len(list(tmp_path.glob("trials/*/"))) == 4
    for rate in under_way:
        assert any(file.read_text() == f"{rate}\n{rate}\n" for file in tmp_path.glob("trials/*/starts.txt"))


@pytest.mark.slow
def test_two_processes_share_a_storage(tmp_path):
    hold = tmp_path / "go"
    first = start(tmp_path, hold, 1)
    wait_until(lambda: len(starts(tmp_path)) == 1)
    second = start(tmp_path, hold, 1)
    wait_until(lambda: len(starts(tmp_path)) == 2)
    hold.touch()
    assert (first.wait(), second.wait()) == (0, 0)
    assert starts(tmp_path) == [0.1, 0.2, 0.3, 0.4]


@pytest.mark.slow
def test_real_runs(tmp_path, model, mrpc):
    space = tmp_path / "space.json"
    space.write_text('{"learning_rate": [1e-3, 1e-2], "attention": ["hypercube", "local"]}')
    command = [*(sys.executable, "-c", "import sys; from nip.cli import main; main(sys.argv[1:])"), "hpo", "glue"]
    flags = {
        "model_name_or_path": model, "task_name": "mrpc", "data_dir": mrpc, "max_seq_length": 16, "block_size": 4,
        "max_steps": 6, "per_device_train_batch_size": 4, "evaluation_strategy": "steps", "eval_steps": 2,
        "sampler": "grid", "space": space, "output_dir": tmp_path / "out", "workers": 2,
    }  # fmt: skip
    for name, value in flags.items():
        command += [f"--{name}", str(value)]
    ended = subprocess.run(
        [*command, "--json"], capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["metric"] == "accuracy" and found["counts"]["complete"] + found["counts"]["pruned"] == 4
    result = json.loads((Path(found["best"]["folder"]) / "result.json").read_text())
    assert found["best"]["value"] == result["metrics"]["accuracy"]
    assert (Path(found["best"]["folder"]) / "model.safetensors").is_file()
    assert {row["parameters"]["attention"] for row in found["trials"]} == {"hypercube", "local"}
