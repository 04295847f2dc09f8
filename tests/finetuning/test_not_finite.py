"""NaN and Inf in losses, weights and predictions end every finetuning command, and nothing is written from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from finetuning_files import write_model, write_mrpc, write_text
from nip.finetuning.glue import task as glue
from nip.finetuning.masked_lm import task as masked_lm
from nip.finetuning.search import trial
from nip.training.train_step import TrainingDivergedError

STEPS = "--max_steps 6 --per_device_train_batch_size 4 --learning_rate 1e30 --max_grad_norm 0 --save_steps 1"


def write_nan(folder: Path) -> Path:
    """A classifier one of whose weights is NaN."""
    write_model(folder)
    classifier = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    torch.nn.init.constant_(classifier.bert.encoder.layer[0].output.dense.weight, torch.nan)
    classifier.save_pretrained(folder)
    return folder


def test_training_that_diverges_stops_before_anything_is_saved_or_predicted(model: Path, mrpc: Path, tmp_path: Path):
    words = f"--model_name_or_path {model} --task_name mrpc --data_dir {mrpc} --do_train --do_eval --do_predict {STEPS}"
    out = tmp_path / "out"
    with pytest.raises(TrainingDivergedError, match="NaN or Inf"):
        glue.main([*words.split(), "--output_dir", str(out)])
    assert not list(out.glob("*.tsv"))
    assert not (out / "result.json").exists()
    assert not (out / "model.safetensors").exists()
    for checkpoint in out.glob("checkpoint-*/model.safetensors"):
        assert all(bool(weight.isfinite().all()) for weight in load_file(checkpoint).values())


def test_a_masked_language_model_that_diverges_stops(model: Path, text: Path, tmp_path: Path):
    words = f"--model_name_or_path {model} --train_file {text} --max_seq_length 16 --do_train --do_eval {STEPS}"
    with pytest.raises(TrainingDivergedError, match="NaN or Inf"):
        masked_lm.main([*words.split(), "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out" / "result.json").exists()


@pytest.mark.parametrize("flag", ["--do_eval", "--do_predict"])
def test_weights_that_are_nan_are_not_evaluated_and_do_not_predict(flag: str, tmp_path: Path):
    write_mrpc(tmp_path / "MRPC")
    nan = write_nan(tmp_path / "nan")
    words = f"--model_name_or_path {nan} --task_name mrpc --data_dir {tmp_path} {flag}"
    with pytest.raises(TrainingDivergedError, match="contain NaN or Inf: nothing is saved or predicted"):
        glue.main([*words.split(), "--output_dir", str(tmp_path / "out")])
    assert not list((tmp_path / "out").glob("*.tsv"))


def test_a_trial_that_diverges_does_not_end_its_search(monkeypatch: pytest.MonkeyPatch, capsys):
    def diverge(argv: list[str]) -> None:
        raise TrainingDivergedError("The loss is NaN or Inf at step 3.")

    for name in ("end_with_parent", "watch_in_forked_children", "spin_briefly"):
        monkeypatch.setattr(trial, name, lambda: None)
    monkeypatch.setattr(glue, "main", diverge)
    monkeypatch.setattr("nip.finetuning.glue.benchmark.main", diverge)
    assert trial.main(["glue"]) == 1
    assert capsys.readouterr().err == "The loss is NaN or Inf at step 3.\n"


def test_where_nothing_is_masked_there_is_no_loss(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = write_text(tmp_path / "a.txt", 4)
    words = (
        f"--model_name_or_path {model} --train_file {file} --validation_file {file} --mlm_probability 1e-9 "
        "--max_seq_length 16 --do_train --do_eval --max_steps 1 --per_device_train_batch_size 1"
    )
    result = masked_lm.main([*words.split(), "--output_dir", str(tmp_path / "out")])
    assert "no token was masked in the evaluation" in capsys.readouterr().err
    assert {result["metrics"][name] for name in ("loss", "accuracy", "perplexity")} == {None}
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [row["loss"] for row in rows] == [None]
    assert json.loads((tmp_path / "out" / "eval_results.json").read_text())["eval_loss"] is None
