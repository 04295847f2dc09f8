"""`nip glue`, `nip mlm` and `nip checkpoints` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetuning_files import write_model, write_mrpc
from nip.cli import main


def run(*words: str) -> int | str | None:
    with pytest.raises(SystemExit) as stop:
        main(list(words))
    return stop.value.code


def test_one_json_value_on_standard_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    model, data, out = write_model(tmp_path / "model"), write_mrpc(tmp_path / "MRPC"), tmp_path / "out"
    words = (
        f"glue --model_name_or_path {model} --task_name mrpc --data_dir {data} --max_seq_length 16 --do_train "
        f"--do_eval --max_steps 1 --save_strategy no --evaluation_strategy no --output_dir {out} --json"
    )
    capsys.readouterr()  # DeepSpeed, where it is installed, prints when the test saves the model
    assert not run(*words.split())
    assert json.loads(capsys.readouterr().out) == json.loads((out / "result.json").read_text())
    assert json.loads((out / "run.json").read_text())["command"][:2] == ["nip", "glue"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("glue --task_name mrpc --do_eval --learning_rat 1", "There is no flag --learning_rat."),
        ("mlm --do_train", "Name a text"),
        ("checkpoints nowhere", "holds no finetuning run"),
    ],
)
def test_mistakes(words: str, sentence: str, capsys: pytest.CaptureFixture[str]):
    assert run(*words.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert sentence in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("command", ["glue", "mlm"])
def test_help_lists_own_flags_and_those_of_transformers(command: str, capsys: pytest.CaptureFixture[str]):
    assert not run(command, "--help")
    said = capsys.readouterr().out
    for flag in ("--attention", "--block_size", "--learning_rate", "--early_stopping_patience"):
        assert flag in said
