"""Evaluation of checkpoints, predictions of a saved model, and reports on runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from nip.finetuning.evaluate_checkpoints import evaluate_checkpoints, evaluation_argv, prediction_argv, without
from nip.finetuning.glue import task as glue
from nip.finetuning.masked_lm import task as masked_lm
from nip.report.page import write_report
from nip.runs.folder import file_sha256
from nip.runs.record import RunRecord, read_record
from nip.study import find


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, model: Path, mrpc: Path) -> Path:
    """A run that has evaluated where it saved."""
    out = tmp_path_factory.mktemp("trained") / "out"
    words = (
        f"--model_name_or_path {model} --task_name mrpc --data_dir {mrpc} --max_seq_length 16 --block_size 4 "
        f"--do_train --do_eval --eval_strategy steps --eval_steps 2 --save_steps 2 --max_steps 4 --attention random "
        f"--param seed=3 num_random_blocks=1 --learning_rate 1e-3 --output_dir {out} --do_predict"
    )
    glue.main(words.split())
    return out


def test_checkpoints_reproduce_the_evaluations_of_training(trained: Path, tmp_path: Path):
    found = evaluate_checkpoints(trained, tmp_path / "all.json")
    assert json.loads((tmp_path / "all.json").read_text()) == found
    assert (tmp_path / "all.svg").read_text().startswith("<?xml")
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    measured = {row["step"]: row for row in rows if row["split"] == "dev"}
    assert [row["step"] for row in found] == [2, 4]
    for row in found:
        for name in ("loss", "accuracy", "f1"):
            assert row[name] == pytest.approx(measured[row["step"]][name], rel=1e-5)


def test_checkpoints_of_a_masked_language_model(model: Path, text: Path, tmp_path: Path):
    out = tmp_path / "out"
    words = (
        f"--model_type bert --config_overrides hidden_size=32,num_hidden_layers=1,num_attention_heads=2 "
        f"--tokenizer_name {model} --train_file {text} --do_train --do_eval --eval_strategy steps --eval_steps 1 "
        f"--save_steps 1 --max_steps 2 --max_seq_length 16 --output_dir {out}"
    )
    masked_lm.main(words.split())
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    expected = [row["perplexity"] for row in rows if row["split"] == "dev"]
    assert [row["perplexity"] for row in evaluate_checkpoints(out)] == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A folder of masked language models as transformers saves them, and of what is none."""
    folder = tmp_path_factory.mktemp("plain")
    for step in (100, 20):
        torch.manual_seed(step)
        config = BertConfig.from_pretrained(model)
        BertForMaskedLM(config).save_pretrained(folder / f"checkpoint-{step}")
        for file in model.glob("tokenizer*"):
            shutil.copy(file, folder / f"checkpoint-{step}")
    (folder / "checkpoint-300").mkdir()  # without a model
    (folder / "logs").mkdir()
    return folder


def test_plain_checkpoints_are_evaluated_densely(plain: Path, text: Path, tmp_path: Path, capsys: Any):
    flags = ["--validation_file", str(text), "--max_seq_length", "16", "--block_size", "4"]
    rows = evaluate_checkpoints(plain, tmp_path / "all.json", flags)
    assert "2 checkpoints are evaluated by nip mlm " in capsys.readouterr().err
    assert [row["step"] for row in rows] == [20, 100]
    for row in rows:
        of = ["--model_name_or_path", row["checkpoint"], "--do_eval", "--output_dir", str(tmp_path / str(row["step"]))]
        alone = masked_lm.main([*flags, "--attention", "softmax", *of])
        assert row["perplexity"] == pytest.approx(alone["metrics"]["perplexity"], rel=1e-6)
    assert sorted(path.name for path in plain.iterdir()) == [*(f"checkpoint-{n}" for n in (100, 20, 300)), "logs"]


def test_plain_checkpoints_that_are_not_evaluated(plain: Path, model: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"no run\.json\), and no folders checkpoint-N of models"):
        evaluate_checkpoints(tmp_path)
    copied = tmp_path / "plain"
    shutil.copytree(plain, copied)
    (copied / "checkpoints.json").write_text('{"notes": "mine"}')
    with pytest.raises(ValueError, match=r"checkpoints\.json exists and is not of nip checkpoints"):
        evaluate_checkpoints(copied, more=["--validation_file", "a.txt"])
    assert (copied / "checkpoints.json").read_text() == '{"notes": "mine"}'
    (copied / "checkpoints.json").rename(copied / "checkpoints.svg")
    with pytest.raises(ValueError, match=r"checkpoints\.svg exists and is not of nip checkpoints"):
        evaluate_checkpoints(copied, more=["--validation_file", "a.txt"])
    config = copied / "checkpoint-100" / "config.json"
    config.write_text(config.read_text().replace("BertForMaskedLM", "BertForQuestionAnswering"))
    with pytest.raises(ValueError, match=r"checkpoint-20 is a model for nip mlm, .*checkpoint-100 one for nip qa"):
        evaluate_checkpoints(copied)
    config.write_text(config.read_text().replace("BertForQuestionAnswering", "BertModel"))
    with pytest.raises(ValueError, match="checkpoint-100 is a model of BertModel; checkpoints end in ForMaskedLM"):
        evaluate_checkpoints(copied)


def test_predictions_of_a_saved_model(trained: Path, tmp_path: Path):
    words = prediction_argv(["--model_name_or_path", str(trained), "--output_dir", str(tmp_path)])
    glue.main(words)
    assert (tmp_path / "MRPC.tsv").read_text() == (trained / "MRPC.tsv").read_text()
    assert prediction_argv(["--model_name_or_path", str(trained)])[-3:] == [
        "--output_dir",
        str(trained),
        "--do_predict",
    ]
    other = prediction_argv(["--model_name_or_path", str(trained), "--test_file", "x.csv", "--task_name", "rte"])
    assert "--data_dir" not in other
    assert other.count("--task_name") == 1
    with pytest.raises(ValueError, match="Name the model"):
        prediction_argv([])


def test_training_flags_are_dropped():
    run = {"command": ["nip", "mlm", "--train_file", "a.txt", "--fp16", "--param", "a=1", "b=2", "--seed", "3"]}
    assert evaluation_argv(run, ["--seed", "4"]) == ["--train_file", "a.txt", "--seed", "4"]
    run["command"] += ["--validation_file", "b.txt"]
    assert evaluation_argv(run, []) == ["--seed", "3", "--validation_file", "b.txt"]
    run["command"] += ["--streaming", "--attention_layers", "0=local", "--backend", "gather"]
    assert evaluation_argv(run, []) == ["--seed", "3", "--validation_file", "b.txt", "--streaming"]
    assert without(["--a", "--b-c=1", "--d"], ["b_c"]) == ["--a", "--d"]


def test_another_source_replaces_the_runs():
    run = {"command": ["nip", "glue", "--task_name", "mrpc", "--data_dir", "GLUE", "--do_train"]}
    assert evaluation_argv(run, ["--validation_file", "v.csv"]) == [
        *("--task_name", "mrpc", "--validation_file", "v.csv")
    ]
    assert evaluation_argv(run, ["--dataset_name", "other"]) == ["--dataset_name", "other"]
    run = {"command": ["nip", "mlm", "--dataset_name", "wikitext", "--dataset_config_name", "raw", "--do_train"]}
    assert evaluation_argv(run, ["--validation_file", "v.txt"]) == ["--validation_file", "v.txt"]
    run = {"command": ["nip", "mlm", "--train_file", "a.txt", "--validation_split_percentage", "9", "--do_train"]}
    assert evaluation_argv(run, ["--validation_file", "v.txt"]) == ["--validation_file", "v.txt"]


def test_an_interrupted_evaluation_resumes(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Half-written checkpoints are left out; the model at the end counts where no checkpoint is of its step."""
    copied = tmp_path / "run"
    shutil.copytree(trained, copied)
    half = copied / "checkpoint-6"
    shutil.copytree(copied / "checkpoint-4", half)
    (half / "trainer_state.json").unlink()
    shutil.rmtree(copied / "checkpoint-4")
    evaluated = []

    def main(words: list[str], program: str) -> dict[str, dict[str, float]]:
        evaluated.append(Path(words[words.index("--model_name_or_path") + 1]).name)
        if len(evaluated) == 2:
            raise KeyboardInterrupt
        return {"metrics": {"loss": float(len(evaluated))}}

    monkeypatch.setattr(glue, "main", main)
    with pytest.raises(KeyboardInterrupt):
        evaluate_checkpoints(copied)
    assert [row["step"] for row in evaluate_checkpoints(copied)] == [2, 4]
    assert evaluated == ["checkpoint-2", "run", "run"]
    evaluate_checkpoints(copied, more=["--seed", "1"])  # other flags, other figures
    evaluate_checkpoints(copied, more=["--seed", "1"])  # a complete evaluation is repeated
    assert evaluated[3:] == ["checkpoint-2", "run"] * 2


def test_checkpoints_are_evaluated_over_the_graphs_of_their_layers(model: Path, mrpc: Path, tmp_path: Path):
    out = tmp_path / "out"
    words = (
        f"--model_name_or_path {model} --task_name mrpc --data_dir {mrpc} --max_seq_length 32 --block_size 4 "
        f"--attention local --attention_layers 0=global --do_train --do_eval --save_steps 1 --max_steps 1"
    )
    result = glue.main([*words.split(), "--output_dir", str(out)])
    assert evaluate_checkpoints(out)[0]["loss"] == pytest.approx(result["metrics"]["loss"], rel=1e-6)
    assert read_record(out).pattern_label == "local with layers 0=global"


def test_runs_with_other_settings_are_not_grouped(trained: Path, tmp_path: Path):
    def run(name: str, settings: dict[str, Any], **facts: Any) -> RunRecord:
        folder = tmp_path / name
        shutil.copytree(trained, folder)
        there = json.loads((folder / "run.json").read_text())
        there = {**there, **facts, "settings": {**there["settings"], **settings}}
        (folder / "run.json").write_text(json.dumps(there))
        return read_record(folder)

    first, seed = run("first", {}), run("seed", {"seed": 7}, seed=7)
    others = [
        run("model", {"model_name_or_path": "another"}),
        run("epochs", {"num_train_epochs": 9}),
        run("layers", {}, layers=[{"pattern": "local"}, None]),
    ]
    groups = find([first, seed, *others])[0].groups
    assert [len(group.runs) for group in groups] == [2, 1, 1, 1]
    labels = [group.label for group in groups]
    assert "model_name_or_path another" in labels[1]
    assert "num_train_epochs 9" in labels[2]
    assert "with layers local, softmax" in labels[3]


def test_folders_without_runs_or_checkpoints_raise(tmp_path: Path):
    with pytest.raises(ValueError, match="holds no finetuning run"):
        evaluate_checkpoints(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"kind": "glue", "command": []}))
    with pytest.raises(ValueError, match="has no checkpoints"):
        evaluate_checkpoints(tmp_path)


def test_a_report_reads_the_run(trained: Path, tmp_path: Path):
    run = read_record(trained)
    result = json.loads((trained / "result.json").read_text())
    assert run.task == "mrpc"
    assert run.pattern_label == "random (seed=3, num_random_blocks=1)"
    assert (run.seq_len, run.block_size, run.planned_steps) == (16, 4, 4)
    assert run.result.test_accuracy == result["test_accuracy"]
    assert run.settings == json.loads((trained / "run.json").read_text())["settings"]
    sums = json.loads((trained / "manifest.json").read_text())["sha256"]
    assert sums["model.safetensors"] == file_sha256(trained / "model.safetensors")
    assert run.curves["dev"].steps == (2, 4)
    assert run.curves["train"].steps == (1, 2, 3, 4)
    assert "On mrpc, random" in find([run])[0].sentence
    write_report([trained], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "--task_name" in page
    assert "num_random_blocks" in page


def test_a_report_names_another_metric(trained: Path, tmp_path: Path):
    for name in ("run.json", "result.json", "metrics.jsonl"):
        (tmp_path / name).write_text((trained / name).read_text())
    run = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**run, "metric": "pearson", "task": "stsb"}))
    result = json.loads((tmp_path / "result.json").read_text())
    numbers = {"metric": "pearson", "score": -0.25, "test_accuracy": None}
    (tmp_path / "result.json").write_text(json.dumps({**result, **numbers}))
    read = read_record(tmp_path)
    assert (read.task_label, read.result.test_accuracy, read.result.interval) == ("stsb (pearson)", 0.0, None)
    del run["seq_len"]
    (tmp_path / "run.json").write_text(json.dumps(run))
    with pytest.raises(ValueError, match=r"run\.json lacks seq_len"):
        read_record(tmp_path)
