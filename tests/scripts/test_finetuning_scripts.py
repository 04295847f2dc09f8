"""The original's finetuning scripts, run as Python runs a script."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from finetuning_files import write_model, write_mrpc

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run(monkeypatch: pytest.MonkeyPatch, script: str, *words: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPTS / script), *words])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    return stop.value.code


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("run_glue_sparse.py --task_name mrpc --evaluation_stategy no", "Did you mean --evaluation_strategy?"),
        ("run_mlm_sparse.py --do_train", "Name a text"),
        ("run_glue_predict.py --do_predict", "Name the model"),
        ("checkpoint_eval.py nowhere", "nowhere holds no finetuning run"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    words: str, sentence: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    assert run(monkeypatch, *words.split()) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


@pytest.mark.parametrize("script", ["run_glue_sparse", "run_mlm_sparse", "run_glue_predict", "checkpoint_eval"])
def test_help(script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert not run(monkeypatch, f"{script}.py", "--help")
    assert "--" in capsys.readouterr().out


def test_help_of_run_glue_predict(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    assert run(monkeypatch, "checkpoint_eval.py", "--help") == 0
    assert "Usage: nip checkpoints [OPTIONS]" in capsys.readouterr().out


def test_train_evaluate_and_predict_with_the_original_scripts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    model, out = write_model(tmp_path / "model"), tmp_path / "out"
    write_mrpc(tmp_path / "MRPC")
    words = f"--model_name_or_path {model} --task_name MRPC --data_dir {tmp_path} --max_seq_length 16 --do_train "
    words += f"--max_steps 2 --save_steps 2 --per_gpu_train_batch_size 4 --output_dir {out}"
    assert not run(monkeypatch, "run_glue_sparse.py", *words.split())
    assert not run(monkeypatch, "run_glue_predict.py", "--model_name_or_path", str(out))
    assert (out / "MRPC.tsv").read_text().startswith("index\tprediction\n0\t")
    said = capsys.readouterr()
    assert not run(monkeypatch, "checkpoint_eval.py", str(out), "--json", "--max_eval_samples", "4")
    rows = json.loads(capsys.readouterr().out)
    assert rows == json.loads((out / "checkpoints.json").read_text())
    assert [row["step"] for row in rows] == [2]
    assert "--per_gpu_train_batch_size is now --per_device_train_batch_size 4" in said.err
