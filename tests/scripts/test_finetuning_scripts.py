"""The original's finetuning scripts, run as Python runs a script."""

from __future__ import annotations

import io
import json
import runpy
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification

from finetuning_files import WORDS, write_model, write_mrpc, write_tokenizer
from nip.cli import main
from nip.models.huggingface.original_bert import convert
from original_bert_files import write_original

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


@pytest.mark.parametrize(
    "script",
    [
        "run_glue_sparse",
        "run_mlm_sparse",
        "run_glue_predict",
        "checkpoint_eval",
        "run_glue",
        "run_mlm",
        "run_summarization",
    ],
)
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


def test_the_dense_scripts_attend_densely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = write_model(tmp_path / "model")
    write_mrpc(tmp_path / "MRPC")
    words = f"--model_name_or_path {model} --task_name mrpc --data_dir {tmp_path} --max_seq_length 16 --do_train "
    words += f"--max_steps 1 --use_cpu --output_dir {tmp_path}/out"
    assert not run(monkeypatch, "run_glue.py", *words.split())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["nip"]["default"]["pattern"] == "softmax"


def test_run_glue_predict_trains_where_it_is_told_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """There it is run_glue.py, which predicts into predict_file/TASK."""
    model = write_model(tmp_path / "model")
    write_mrpc(tmp_path / "MRPC")
    monkeypatch.chdir(tmp_path)
    words = f"--model_name_or_path {model} --task_name mrpc --data_dir {tmp_path} --max_seq_length 16 --do_train"
    assert not run(monkeypatch, "run_glue_predict.py", *words.split(), "--max_steps", "1", "--use_cpu")
    folder = tmp_path / "predict_file" / "mrpc"
    assert (folder / "MRPC.tsv").read_text().startswith("index\tprediction\n0\t")
    assert json.loads((folder / "run.json").read_text())["trained"]["steps"] == 1
    assert json.loads((folder / "config.json").read_text())["nip"]["default"]["pattern"] == "softmax"


def test_a_model_without_a_graph_predicts_densely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    write_mrpc(tmp_path / "MRPC")
    write_model(tmp_path / "base")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=2)
    model.save_pretrained(tmp_path / "base")
    words = f"--model_name_or_path {tmp_path}/base --task_name mrpc --data_dir {tmp_path} --block_size 4 --do_eval"
    found = {}
    for name, more in (("none", ""), ("softmax", "--attention softmax"), ("local", "--attention local")):
        out = tmp_path / name
        assert not run(
            monkeypatch, "run_glue_predict.py", *words.split(), *more.split(), "--do_eval", "--output_dir", str(out)
        )
        found[name] = json.loads((out / "result.json").read_text())["metrics"]["loss"]
        assert ("names no graph: it attends densely" in capsys.readouterr().err) == (name == "none")
    assert found["none"] == found["softmax"] != found["local"]


def test_a_base_model_does_not_predict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    write_mrpc(tmp_path / "MRPC")
    model = write_model(tmp_path / "model")
    words = f"--model_name_or_path {model} --task_name mrpc --data_dir {tmp_path} --max_seq_length 16"
    assert run(monkeypatch, "run_glue_predict.py", *words.split(), "--output_dir", str(tmp_path / "out")) == 2
    assert "has no trained head for this task" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mode", ["pre-ln", "post-ln"])
def test_a_checkpoint_of_the_original_predicts(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Through nip glue, with the same scores as converted first."""
    write_original(tmp_path / "original", mode, "pytorch", "BertForSequenceClassification")
    write_tokenizer(tmp_path / "original", WORDS[:30])
    rows = [f"the cat\ta dog\t{label}" for label in "abc" for _ in range(4)]
    (tmp_path / "dev.tsv").write_text("premise\thypothesis\tlabel\n" + "\n".join(rows) + "\n")
    losses = []
    for number, source in enumerate(("original", "converted")):
        if source == "converted":
            convert(tmp_path / "original", tmp_path / "converted")
        words = f"--model_name_or_path {tmp_path / source} --validation_file {tmp_path}/dev.tsv --max_seq_length 16"
        out = tmp_path / str(number)
        assert not run(monkeypatch, "run_glue.py", *words.split(), "--do_eval", "--output_dir", str(out))
        losses.append(json.loads((out / "result.json").read_text())["metrics"]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_code_in_a_model_s_folder_is_refused_and_nothing_is_asked(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    model = write_model(tmp_path / "model")
    (model / "evil.py").write_text("from pathlib import Path\nPath(__file__).with_name('executed').touch()\n")
    config = json.loads((model / file).read_text())
    kinds = {"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Model"}
    config |= {"model_type": "evil", "auto_map": kinds} if file == "config.json" else {
        "tokenizer_class": "EvilTokenizer", "auto_map": {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}
    }  # fmt: skip
    (model / file).write_text(json.dumps(config))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("the cat sat on the mat\n\n" * 20)
    write_mrpc(tmp_path / "MRPC")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    glue = f"run_glue.py --model_name_or_path {model} --task_name mrpc --data_dir {tmp_path} --do_train --max_steps 1"
    code = run(monkeypatch, *glue.split(), "--output_dir", str(tmp_path / "out"))
    said = capsys.readouterr().err
    if file == "config.json":
        assert code == 2 and "Traceback" not in said and not (tmp_path / "out").exists()
    corpus = f"data corpus --from {tmp_path}/texts --tokenizer {model} --output-dir {tmp_path}/corpus --jobs 1"
    with pytest.raises(SystemExit):
        main(corpus.split())
    assert sys.stdin.read() == "y\n" * 9  # standard input is never read
    assert not list(tmp_path.rglob("executed"))
