"""The original's scripts for question answering, summarization and searches."""

import runpy
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.parametrize(
    ("script", "words", "sentence"),
    [
        ("run_qa_sparse.py", "--do_eval", "Name the data: --dataset_name squad, or"),
        ("run_summarization_sparse.py", "--do_eval", "Name the data: --dataset_name cnn_dailymail, or"),
        ("search.py", "--task_name rte --sampler best", "invalid choice: 'best'"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(script, words, sentence, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(SCRIPTS / script), *words.split()])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPTS / script), run_name="__main__")
    said = capsys.readouterr()
    assert (stop.value.code, said.out) == (2, "")
    assert sentence in said.err and said.err.count("\n") == 1
