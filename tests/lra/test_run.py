import contextlib
import dataclasses
import itertools
import json
import math
import os
import random
import time

import pytest
import torch

from nip.lra import train
from nip.runs.folder import RunFolder, file_sha256, read_metrics
from nip.runs.record import read_record
from nip.training.train_step import TrainingDivergedError


def test_a_tiny_task_is_learned(config, data, tmp_path):
    # the label is the one digit among other tokens: easy for a correct model, impossible for a broken one
    config = dataclasses.replace(config, max_steps=150, learning_rate=1e-2, batch_size=16, eval_every=50)
    result = train(config, tmp_path / "run", data=data)
    assert result["test_accuracy"] > 0.9
    assert result["learnt"]
    assert result["interval"][0] > max(result["baselines"].values())
    losses = [row["loss"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if row["split"] == "train"]
    assert losses[0] > 2 and losses[-1] < 0.3


def test_the_run_folder(config, data, tmp_path):
    result = train(config, tmp_path / "run", data=data)
    folder = RunFolder(tmp_path / "run")
    rows = read_metrics(folder.metrics)
    assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, 13))
    assert [row["step"] for row in rows if row["split"] == "dev"] == [4, 8, 12]
    assert [row["step"] for row in rows if row["split"] == "test"] == [12]
    assert all(set(row) == {"step", "split", "loss", "accuracy", "learning_rate", "tokens", "seconds"} for row in rows)
    for field in ("tokens", "seconds"):
        assert all(one[field] <= other[field] for one, other in itertools.pairwise(rows))
    assert rows[-1]["accuracy"] == result["test_accuracy"]
    evaluated = {row["step"]: row["accuracy"] for row in rows if row["split"] == "dev"}
    assert result["dev_accuracy"] == max(evaluated.values())
    assert result["best_step"] == min(
        step for step, accuracy in evaluated.items() if accuracy == max(evaluated.values())
    )
    assert result["n_test"] == 70 and result["steps"] == 12
    assert json.loads(folder.result.read_text()) == result
    described = json.loads(folder.environment.read_text())
    assert described["torch"] == torch.__version__ and described["threads"] == 1
    assert json.loads(folder.config.read_text())["gradient_accumulation"] == 2
    assert not folder.pattern.exists()  # the name rebuilds the graph
    assert not list(folder.path.rglob("*.partial"))
    record = read_record(folder.path)
    assert record.settings == json.loads(folder.config.read_text())
    assert (record.kind, record.planned_steps, record.result.test_accuracy) == ("lra", 12, result["test_accuracy"])
    sums = json.loads((folder.path / "manifest.json").read_text())["sha256"]
    assert sums == {str(file.relative_to(folder.path)): file_sha256(file) for file in (folder.best, folder.checkpoint)}


def test_a_finished_run_is_not_trained_again(config, data, tmp_path, capsys):
    first = train(config, tmp_path / "run", data=data)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    assert train(config, tmp_path / "run", data=data) == first
    assert "is finished: 12 steps are done and tested" in capsys.readouterr().err
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_training_does_not_use_the_global_generator(config, data, tmp_path):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    train(config, tmp_path / "run", data=data)
    assert torch.equal(state, torch.get_rng_state())


def test_runs_differ_by_seed_only_where_they_should(config, data, tmp_path, comparable):
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        torch.rand(5)
        train(dataclasses.replace(config, seed=seed), tmp_path / name, data=data)
    one, again, other = (comparable(tmp_path / name) for name in ("one", "again", "other"))
    assert one == again
    assert one["tensors"] != other["tensors"]


def after_some_steps(folder, chance):
    """Wait for a few more steps and a moment, then kill: independent of the speed of the machine."""
    metrics = RunFolder(folder).metrics

    def written():
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    target = written() + chance.randint(1, 9)

    def wait(pid):
        with contextlib.suppress(ProcessLookupError):  # it has ended
            while written() < target:
                os.kill(pid, 0)
                time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.03))

    return wait


def test_a_run_killed_at_any_moment_resumes_bit_identically(config, data, tmp_path, runner, comparable):
    config = dataclasses.replace(config, max_steps=40, eval_every=2, model="bigbird")
    assert runner.run(config, tmp_path / "full", data) == 0
    chance = random.Random(7)
    kills = 0
    # at random moments, and as every other step writes a checkpoint, also while it writes
    while kills < 12 and not (tmp_path / "killed" / "result.json").exists():
        kills += runner.run(config, tmp_path / "killed", data, after_some_steps(tmp_path / "killed", chance)) == 9
    assert kills >= 3
    assert runner.run(config, tmp_path / "killed", data) == 0
    assert comparable(tmp_path / "killed") == comparable(tmp_path / "full")
    assert not list((tmp_path / "killed").rglob("*.partial"))


@pytest.mark.slow
def test_a_run_killed_many_times_resumes_bit_identically(config, data, tmp_path, runner, comparable):
    config = dataclasses.replace(config, max_steps=60, eval_every=1, dropout=0.3, attention_dropout=0.1)
    started = time.perf_counter()
    assert runner.run(config, tmp_path / "full", data) == 0
    duration = time.perf_counter() - started
    chance = random.Random(1)
    kills = 0
    for round_ in range(8):
        folder = tmp_path / f"killed{round_}"
        for _ in range(40):
            moment = chance.expovariate(16 / duration)
            kills += runner.run(config, folder, data, lambda _, moment=moment: time.sleep(moment)) == 9
            if (folder / "result.json").exists():
                break
        assert runner.run(config, folder, data) == 0
        assert comparable(folder) == comparable(tmp_path / "full")
    assert kills >= 24


def test_more_steps_continue_a_run_with_a_message(config, data, tmp_path, capsys, comparable):
    longer = dataclasses.replace(config, max_steps=20)
    train(config, tmp_path / "run", data=data)
    at_twelve = read_metrics(tmp_path / "run" / "metrics.jsonl")
    result = train(longer, tmp_path / "run", data=data)
    printed = capsys.readouterr().err
    assert "Resuming after step 12 of 20" in printed and "schedule of 20" in printed
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert result["steps"] == 20
    assert rows[: len(at_twelve) - 1] == at_twelve[:-1]  # all but the test at step 12, which is no longer the end
    assert [row["split"] for row in rows].count("test") == 1
    from nip.training.lr_schedules import one_cycle

    for row in rows:
        if row["split"] == "train":
            total = 12 if row["step"] <= 12 else 20
            assert row["learning_rate"] == one_cycle(row["step"] - 1, total, 1e-3, 0.2)[0]
    with pytest.raises(ValueError, match="max_steps is 20 there and 12 here"):
        train(config, tmp_path / "run", data=data)


def test_other_settings_are_refused_and_no_file_changes(config, data, tmp_path):
    train(config, tmp_path / "run", data=data)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    for change in ({"learning_rate": 2e-3}, {"model": "local"}, {"seed": 1}, {"gradient_accumulation": 4}):
        ((name, value),) = change.items()
        with pytest.raises(
            ValueError, match=f"holds another run: {name} is {getattr(config, name)!r} there and {value!r}"
        ):
            train(dataclasses.replace(config, **change), tmp_path / "run", data=data)
    changed = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert changed == before


def test_a_folder_with_other_files_is_refused(config, data, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        train(config, tmp_path, data=data)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_nan_loss_stops_the_run(config, data, tmp_path, monkeypatch):
    from torch.nn import functional

    true_loss, calls = functional.cross_entropy, []

    def poisoned(*args, **options):
        calls.append(torch.is_grad_enabled())
        # the second of two micro-batches of step 7
        return true_loss(*args, **options) * (math.nan if sum(calls) == 14 else 1)

    monkeypatch.setattr("nip.lra.objective.functional.cross_entropy", poisoned)
    with pytest.raises(
        TrainingDivergedError, match=r"Step 7 cannot be taken: its loss is nan\..*good checkpoint, of step 4, is kept"
    ):
        train(config, tmp_path / "run", data=data)
    assert not (tmp_path / "run" / "result.json").exists()
    monkeypatch.undo()
    # the checkpoint is good: without the NaN the run resumes from it and finishes
    assert train(config, tmp_path / "run", data=data)["steps"] == 12


@pytest.mark.parametrize(
    ("poisoned", "says", "kept"), [(6, "Weights contain NaN or Inf", 5), (8, "loss became nan", 7)]
)
def test_weights_with_nan_are_not_saved(config, data, tmp_path, monkeypatch, poisoned, says, kept):
    from nip.lra import task as lra_task
    from nip.training import trainer

    true_step, settings = trainer.take_step, lra_task.EngineSettings

    def take_step(run, *rest):
        measured = true_step(run, *rest)
        if run.progress.step == poisoned:
            with torch.no_grad():
                run.state.model.output.bias[0] = math.nan
        return measured

    monkeypatch.setattr(trainer, "take_step", take_step)
    # a checkpoint after every step
    monkeypatch.setattr(lra_task, "EngineSettings", lambda **given: settings(**given, checkpoint_seconds=-1.0))
    message = rf"{says} after step {poisoned}\..*good checkpoint, of step {kept}, is kept"
    with pytest.raises(TrainingDivergedError, match=message):
        train(config, tmp_path / "run", data=data)
    monkeypatch.undo()
    assert train(config, tmp_path / "run", data=data)["steps"] == 12


def test_a_kill_between_the_checkpoint_and_the_best_weights(config, data, tmp_path, comparable):
    train(config, tmp_path / "run", data=data)
    full = comparable(tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    folder.result.unlink()
    folder.best.unlink()
    train(config, tmp_path / "run", data=data)
    assert comparable(tmp_path / "run") == full


def test_a_diverging_run_stops(config, data, tmp_path):
    # a rate so large that the weights overflow before the loss does
    config = dataclasses.replace(config, learning_rate=1e38, eval_every=1)
    with pytest.raises(TrainingDivergedError, match=r"Step \d+ cannot|after step \d"):
        train(config, tmp_path / "run", data=data)
    from nip.training.checkpoint import read_tensors

    folder = RunFolder(tmp_path / "run")
    if folder.checkpoint.exists():
        tensors, _ = read_tensors(folder.checkpoint)
        assert all(tensor.isfinite().all() for name, tensor in tensors.items() if name.startswith("weights"))


def test_skipping_the_training_tests_the_best_weights(config, data, tmp_path):
    with pytest.raises(ValueError, match="no best weights to test"):
        train(config, tmp_path / "run", data=data, skip_train=True)
    assert not (tmp_path / "run").exists()
    trained = train(config, tmp_path / "run", data=data)
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    tested = train(dataclasses.replace(config, max_steps=5000), tmp_path / "run", data=data, skip_train=True)
    assert {key: tested[key] for key in ("test_accuracy", "best_step", "dev_accuracy", "n_test")} == {
        key: trained[key] for key in ("test_accuracy", "best_step", "dev_accuracy", "n_test")
    }
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_the_originals_protocol(config, data, tmp_path):
    config = dataclasses.replace(config, protocol="original", eval_steps=3)
    result = train(config, tmp_path / "run", data=data, original_log=True)
    assert result["n_test"] == 64  # of 70: the last incomplete batch is left out
    assert all(
        row["accuracy"] * 24 == round(row["accuracy"] * 24, 9)
        for row in read_metrics(tmp_path / "run" / "metrics.jsonl")
        if row["split"] == "dev"
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "listops_hypercube_output.log").read_text().splitlines()]
    assert [(line["component"], line["train_step_idx"]) for line in lines] == [
        ("train", 3), ("dev", 3), ("train", 7), ("dev", 7), ("train", 11), ("dev", 11), ("test", 11)
    ]  # fmt: skip


def test_a_run_of_an_earlier_version_resumes_as_it_began(config, data, tmp_path, comparable, capsys):
    # 50 development examples in batches of 8: earlier versions dropped two of each pass
    settings = {"protocol": "original", "eval_steps": 7, "attention_dropout": 0.3}
    config = dataclasses.replace(config, **settings)
    earlier = dataclasses.replace(config, protocol_version=1)
    train(earlier, tmp_path / "whole", data=data)
    train(config, tmp_path / "now", data=data)
    assert comparable(tmp_path / "now")["metrics"] != comparable(tmp_path / "whole")["metrics"]
    assert "Attention weights over hypercube are not dropped" in capsys.readouterr().err
    folder = RunFolder(tmp_path / "whole")
    written = json.loads(folder.config.read_text())
    folder.config.write_text(json.dumps({key: written[key] for key in written if key != "protocol_version"}))
    train(dataclasses.replace(config, max_steps=16), tmp_path / "whole", data=data)
    assert "resumes as it began" in capsys.readouterr().err
    train(dataclasses.replace(earlier, max_steps=12), tmp_path / "again", data=data)
    train(dataclasses.replace(earlier, max_steps=16), tmp_path / "again", data=data)
    assert comparable(tmp_path / "whole") == comparable(tmp_path / "again")


def test_a_graph_from_a_file_is_kept_with_the_run(config, data, tmp_path):
    import nip
    from nip.graphs import write_graph

    edges = tmp_path / "ring.txt"
    edges.write_text("0 1\n1 2\n2 3\n3 0\n")
    config = dataclasses.replace(config, graph=str(edges), model="ring")
    train(config, tmp_path / "run", data=data)
    kept = nip.Pattern.load(tmp_path / "run" / "pattern.npz")
    assert kept == nip.graphs.read_graph(edges)
    edges.unlink()  # the run's own copy serves
    assert train(config, tmp_path / "run", data=data)["steps"] == 12
    write_graph(nip.pattern("softmax", 4), edges)
    with pytest.raises(ValueError, match="the graph is another one"):
        train(config, tmp_path / "run", data=data)


def test_another_machine_gives_a_warning(config, data, tmp_path, capsys):
    train(config, tmp_path / "run", data=data)
    path = RunFolder(tmp_path / "run").environment
    path.write_text(json.dumps({**json.loads(path.read_text()), "threads": 96}))
    train(dataclasses.replace(config, max_steps=14), tmp_path / "run", data=data)
    assert "Warning: threads was 96 and is 1. The run resumes" in capsys.readouterr().err
    assert json.loads(path.read_text())["threads"] == 1


def test_a_damaged_checkpoint_is_named(config, data, tmp_path):
    train(config, tmp_path / "run", data=data)
    path = RunFolder(tmp_path / "run").checkpoint
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"state\.safetensors is damaged"):
        train(dataclasses.replace(config, max_steps=14), tmp_path / "run", data=data)


def test_patience_ends_a_run_that_does_not_improve(config, data, tmp_path, capsys):
    # a rate so small that no prediction changes: the first evaluation is the best
    config = dataclasses.replace(config, patience=2, max_steps=40, eval_every=2, learning_rate=1e-30, weight_decay=0.0)
    result = train(config, tmp_path / "run", data=data)
    assert (result["best_step"], result["steps"], result["planned_steps"]) == (2, 6, 40)
    evaluated = [row["step"] for row in read_metrics(RunFolder(tmp_path / "run").metrics) if row["split"] == "dev"]
    assert evaluated == [2, 4, 6]
    assert train(config, tmp_path / "run", data=data) == result
    assert "is finished" in capsys.readouterr().err
    assert json.loads(RunFolder(tmp_path / "run").result.read_text()) == result


def test_without_patience_a_run_takes_all_its_steps(config, data, tmp_path):
    result = train(dataclasses.replace(config, learning_rate=1e-30), tmp_path / "run", data=data)
    assert result["steps"] == 12 and "planned_steps" not in result
