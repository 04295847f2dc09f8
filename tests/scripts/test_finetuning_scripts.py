"""The original's finetuning commands under their old names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run(script: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPTS / script), *words], capture_output=True, text=True, timeout=200)


def test_a_mistake_is_one_sentence_and_exit_code_2():
    done = run("run_glue_sparse.py", "--task_name", "mrpc", "--evaluation_stategy", "steps")
    assert done.returncode == 2
    assert done.stderr == "nip: There is no flag --evaluation_stategy. Did you mean --evaluation_strategy?\n"
    assert done.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "words", "sentence"),
    [
        ("run_mlm_sparse.py", "--do_train", "Name a text"),
        ("run_glue_predict.py", "--do_predict", "Name the model"),
        ("checkpoint_eval.py", "nowhere", "nowhere holds no finetuning run"),
    ],
)
def test_mistakes_in_the_other_commands(script: str, words: str, sentence: str):
    done = run(script, *words.split())
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", ["run_glue_sparse.py", "run_mlm_sparse.py", "run_glue_predict.py", "checkpoint_eval.py"]
)
def test_help(script: str):
    done = run(script, "--help")
    assert done.returncode == 0
    assert "--" in done.stdout
