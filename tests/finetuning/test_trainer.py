"""Runs of small models: losses, restarts, folders, best models."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer, Trainer

import nip
from nip.finetuning import trainer as running
from nip.finetuning.glue import task as glue
from nip.finetuning.masked_lm import task as masked_lm
from nip.finetuning.output_dir import STATE_FILE
from nip.finetuning.recorder import RecordedTrainer
from nip.models.huggingface.norms import use_rms_norm


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take longer than such small models."""
    monkeypatch.setattr(running, "draw_curves", lambda *_: None)


def rows(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")


def same(one: Path, other: Path, tolerance: float = 0.0) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all((a[k] - b[k]).abs().max() <= tolerance for k in a)


def train_glue(model: Path, mrpc: Path, out: Path, *words: str) -> dict[str, Any]:
    settled = f"--model_name_or_path {model} --task_name mrpc --data_dir {mrpc} --max_seq_length 16 --block_size 4"
    return glue.main(
        [*settled.split(), "--output_dir", str(out), "--do_train", "--learning_rate", "1e-3", "--seed", "1", *words]
    )


def train_mlm(model: Path, text: Path, out: Path, *words: str) -> dict[str, Any]:
    settled = f"--model_name_or_path {model} --train_file {text} --max_seq_length 24 --block_size 4 --max_steps 4"
    return masked_lm.main(
        [*settled.split(), "--output_dir", str(out), "--do_train", "--learning_rate", "1e-3", "--seed", "1", *words]
    )


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without dropout: micro-batches draw other random numbers."""
    from finetuning_files import write_model

    return write_model(tmp_path_factory.mktemp("still"), **NO_DROPOUT)


@pytest.mark.parametrize("train", [train_glue, train_mlm])
def test_micro_batches_equal_the_batch(train: Any, still: Path, mrpc: Path, text: Path, tmp_path: Path):
    data = mrpc if train is train_glue else text
    steps = ("--max_steps", "4")
    full, micro = tmp_path / "full", tmp_path / "micro"
    train(still, data, full, "--per_device_train_batch_size", "8", *steps)
    train(still, data, micro, "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2", *steps)
    for one, other in zip(rows(full), rows(micro), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["tokens"] == other["tokens"] or train is train_mlm
    assert same(full, micro, 2e-5)


def test_the_recorded_loss_is_the_models_own(still: Path, mrpc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own = []
    step = RecordedTrainer.training_step

    def watched(self: RecordedTrainer, model: Any, inputs: Any, items: Any = None) -> Any:
        own.append(type(model).forward(model, **inputs).loss.item())
        return step(self, model, inputs, items)

    monkeypatch.setattr(RecordedTrainer, "training_step", watched)
    train_glue(still, mrpc, tmp_path / "out", "--max_steps", "3")
    assert [row["loss"] for row in rows(tmp_path / "out")] == pytest.approx(own, rel=1e-5)


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    step = RecordedTrainer.training_step

    def stopped(self: RecordedTrainer, model: Any, inputs: Any, items: Any = None) -> Any:
        if self.state.global_step == at:
            raise KeyboardInterrupt
        return step(self, model, inputs, items)

    monkeypatch.setattr(RecordedTrainer, "training_step", stopped)


EVALUATED = "--do_eval --eval_strategy steps --eval_steps 2 --save_steps 2 --logging_steps 5".split()  # noqa: SIM905


@pytest.mark.parametrize("kind", ["glue", "mlm", "stream", pytest.param("lines", marks=pytest.mark.slow)])
def test_a_resumed_run_is_bit_identical(
    kind: str, model: Path, mrpc: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Stopped at the fifth step, in the second pass: the same weights, measurements and result as without a stop."""
    words = [*EVALUATED, "--per_device_train_batch_size", "8"]
    if kind == "glue":
        train, data, more = train_glue, mrpc, ["--num_train_epochs", "2", "--metric_for_best_model", "accuracy"]
    else:
        train, data, more = train_mlm, text, ["--max_steps", "8"]
        more += {"mlm": [], "lines": ["--line_by_line"], "stream": ["--streaming", "--validation_file", str(text)]}[
            kind
        ]
    train(model, data, tmp_path / "full", *words, *more)
    out = tmp_path / "stopped"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, 5)
        train(model, data, out, *words, *more)
    assert not (out / "result.json").exists()
    (out / "checkpoint-5").mkdir()  # what a killed process leaves
    (out / "checkpoint-5" / "model.safetensors").write_bytes(b"half")
    train(model, data, out, *words, *more)
    assert "resuming from" in (out / "run.log").read_text()
    assert same(tmp_path / "full", out)
    assert rows(tmp_path / "full") == rows(out)
    one, other = (json.loads((folder / "result.json").read_text()) for folder in (tmp_path / "full", out))
    timing = ("seconds", "tokens_per_second", "peak_mib")
    assert {k: v for k, v in one.items() if k not in timing} == {k: v for k, v in other.items() if k not in timing}


def test_a_run_killed_after_its_last_checkpoint_takes_no_further_step(
    model: Path, mrpc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    words = ["--max_steps", "4", "--save_steps", "2"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RecordedTrainer, "save_model", lambda self, *a, _internal_call=False, **k: (
            RecordedTrainer.__base__.save_model(self, *a, _internal_call=True, **k) if _internal_call else interrupted()
        ))  # fmt: skip
        train_glue(model, mrpc, out, *words)
    train_glue(model, mrpc, out, *words)
    train_glue(model, mrpc, tmp_path / "full", *words)
    assert json.loads((out / "result.json").read_text())["steps"] == 4
    assert same(tmp_path / "full", out)


CLOCKS = re.compile(r"runtime|per_second|seconds|preparation|peak_mib|time$")


def outputs(folder: Path) -> dict[str, Any]:
    """The JSON files of a run and its tokenizer, without times."""

    def without_clocks(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: without_clocks(each) for name, each in value.items() if not CLOCKS.search(name)}
        return [without_clocks(each) for each in value] if isinstance(value, list) else value

    names = ("result.json", "eval_results.json", "all_results.json", "tokenizer.json", "tokenizer_config.json")
    found = {name: (folder / name).read_text() for name in (*names, STATE_FILE) if (folder / name).exists()}
    return {name: without_clocks(json.loads(text)) for name, text in found.items()} | {"metrics": rows(folder)}


@pytest.mark.parametrize("kind", ["glue", "mlm"])
@pytest.mark.parametrize("moment", ["before the model is saved", "before the evaluation", "within the evaluation"])
def test_all_outputs_but_clocks_equal_an_uninterrupted_runs(
    kind: str, moment: str, model: Path, mrpc: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words = [*EVALUATED[:-2], "--logging_steps", "2", "--max_steps", "4"]
    train, data = (train_glue, mrpc) if kind == "glue" else (train_mlm, text)
    words += [] if kind == "glue" else ["--line_by_line"]
    train(model, data, tmp_path / "full", *words)
    out = tmp_path / "stopped"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(
            *{
                "before the model is saved": (running, "check_weights", lambda *_: interrupted()),
                "before the evaluation": (running, "evaluate", lambda *_: interrupted()),
                "within the evaluation": (running, "make_result", lambda *_: interrupted()),
            }[moment]
        )
        train(model, data, out, *words)
    train(model, data, out, *words)
    one, other = outputs(tmp_path / "full"), outputs(out)
    assert one.keys() == other.keys()
    for name in one:
        assert one[name] == other[name], name
    assert same(tmp_path / "full", out)
    for name in ("truncation", "padding"):  # as the model came, whether texts were tokenized or found in the cache
        assert one["tokenizer.json"][name] == json.loads((model / "tokenizer.json").read_text())[name]


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing file data/3"),
        SafetensorError('Error while serializing: IoError(Os { code: 28, message: "No space left on device" })'),
    ],
)
def test_a_full_disk_is_one_sentence_and_keeps_the_last_checkpoint(
    error: Exception, model: Path, mrpc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words = ["--max_steps", "4", "--save_steps", "1"]
    out = tmp_path / "out"
    own = Trainer._save_optimizer_and_scheduler

    def full(self: Any, folder: str) -> None:
        if self.state.global_step == 3:
            raise error
        own(self, folder)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_optimizer_and_scheduler", full)
        with pytest.raises(OSError, match="Checkpoints written before are kept: free space") as raised:
            train_glue(model, mrpc, out, *words)
    assert "\n" not in str(raised.value)
    assert (out / "checkpoint-2" / STATE_FILE).exists()
    train_glue(model, mrpc, out, *words)
    assert f"resuming from {out / 'checkpoint-2'}" in (out / "run.log").read_text()
    train_glue(model, mrpc, tmp_path / "full", *words)
    assert same(tmp_path / "full", out)


def interrupted() -> None:
    raise KeyboardInterrupt


def test_a_finished_run_is_evaluated_not_trained_again(
    model: Path, mrpc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    first = train_glue(model, mrpc, out, "--max_steps", "2", "--do_eval")
    with monkeypatch.context() as patch:
        interrupt(patch, 0)
        again = train_glue(model, mrpc, out, "--max_steps", "2", "--do_eval", "--do_predict")
    assert again["metrics"] == first["metrics"]
    assert again["steps"] == 2
    assert (out / "MRPC.tsv").is_file()
    with pytest.raises(ValueError, match=r"holds another run: learning_rate is 0.001 there and 0.01 here") as refused:
        train_glue(model, mrpc, out, "--max_steps", "2", "--learning_rate", "1e-2")
    assert "--overwrite_output_dir" in str(refused.value)
    (out / "mine.txt").write_text("kept")
    replaced = train_glue(model, mrpc, out, "--max_steps", "3", "--learning_rate", "1e-2", "--overwrite_output_dir")
    assert replaced["steps"] == 3
    assert [row["step"] for row in rows(out)] == [1, 2, 3]
    assert (out / "mine.txt").read_text() == "kept"


def test_an_error_deletes_nothing(model: Path, mrpc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "out"
    train_glue(model, mrpc, out, "--max_steps", "2", "--save_steps", "1")
    before = {file: file.read_bytes() for file in out.rglob("*") if file.is_file() and file.suffix != ".log"}
    with pytest.raises(ValueError, match="there is no folder"):
        train_glue(tmp_path / "typo", mrpc, out, "--max_steps", "3", "--overwrite_output_dir")
    again = ["--max_steps", "3", "--overwrite_output_dir"]
    with pytest.raises(ValueError, match="generalized_quadrangle has no graph for inputs of 16 tokens"):
        train_glue(model, mrpc, out, *again, "--attention", "generalized_quadrangle")
    with pytest.raises(ValueError, match=r"--report_to takes .*Got 'nobody'"):
        train_glue(model, mrpc, out, *again, "--report_to", "nobody")
    with monkeypatch.context() as patch, pytest.raises(ValueError, match=r"--report_to wandb: .*requires wandb"):
        patch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
        train_glue(model, mrpc, out, *again, "--report_to", "wandb")
    assert {file: file.read_bytes() for file in before} == before
    assert (out / "result.json").is_file()


def test_a_replaced_run_leaves_no_model_behind(
    model: Path, mrpc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    train_glue(model, mrpc, out, "--max_steps", "1", "--do_eval", "--do_predict")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, 0)
        train_glue(model, mrpc, out, "--max_steps", "2", "--overwrite_output_dir")
    left = {each.name for each in out.iterdir()}
    assert left.isdisjoint({"model.safetensors", "eval_results.json", "MRPC.tsv", "result.json"})
    # but a model that is the start of the new run stays until that has one of its own
    train_glue(model, mrpc, out, "--max_steps", "1", "--overwrite_output_dir")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, 0)
        train_glue(out, mrpc, out, "--max_steps", "2", "--overwrite_output_dir")
    assert (out / "model.safetensors").is_file()


def test_checkpoints_of_weights_only_are_not_deleted(
    model: Path, mrpc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "out"
    words = ["--max_steps", "2", "--save_steps", "1", "--save_only_model", "true"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, 1)
        train_glue(model, mrpc, out, *words)
    with pytest.raises(ValueError, match=r"cannot resume: checkpoint-1 has weights only \(--save_only_model\)"):
        train_glue(model, mrpc, out, *words)
    assert (out / "checkpoint-1").is_dir()
    train_glue(model, mrpc, out, *words, "--overwrite_output_dir")
    train_glue(model, mrpc, out, *words, "--do_eval")  # it has ended
    assert {"checkpoint-1", "checkpoint-2"} <= {each.name for each in out.iterdir()}


def test_a_finished_run_of_a_model_with_rms_norm_is_evaluated_again(model: Path, mrpc: Path, tmp_path: Path):
    plain = nip.sparsify(AutoModel.from_pretrained(model), "hypercube", block_size=4)
    use_rms_norm(plain).save_pretrained(tmp_path / "rms")
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "rms")
    words = ["--max_steps", "2", "--do_eval"]
    first = train_glue(tmp_path / "rms", mrpc, tmp_path / "out", *words)
    assert train_glue(tmp_path / "rms", mrpc, tmp_path / "out", *words)["metrics"] == first["metrics"]


def test_a_folder_with_other_files_raises(model: Path, mrpc: Path, tmp_path: Path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="is not empty and holds no run"):
        train_glue(model, mrpc, tmp_path, "--max_steps", "2")


def test_other_data_under_the_same_name_is_another_run(model: Path, tmp_path: Path):
    from finetuning_files import write_mrpc

    data = write_mrpc(tmp_path / "MRPC", train=8, dev=4)
    train_glue(model, data, tmp_path / "out", "--max_steps", "2")
    write_mrpc(tmp_path / "MRPC", train=9, dev=4)
    with pytest.raises(ValueError, match="holds a run on other data"):
        train_glue(model, data, tmp_path / "out", "--max_steps", "2")
    (tmp_path / "out" / "result.json").unlink()
    train_glue(model, data, tmp_path / "out", "--max_steps", "2", "--overwrite_output_dir")
    assert (tmp_path / "out" / "result.json").is_file()


def test_predicting_keeps_the_evaluation(model: Path, mrpc: Path, tmp_path: Path):
    out = tmp_path / "out"
    tracked = ["--max_steps", "1", "--logging_dir", str(tmp_path / "board"), "--gradient_checkpointing"]
    result = train_glue(model, mrpc, out, *tracked, "--do_eval")
    train_glue(model, mrpc, out, *tracked, "--do_predict")
    assert json.loads((out / "result.json").read_text()) == result
    assert list((tmp_path / "board").glob("events.*"))
    assert {"transformers", "datasets", "torch"} <= set(json.loads((out / "environment.json").read_text()))


def test_a_run_that_was_not_evaluated_has_no_result_to_report(model: Path, mrpc: Path, tmp_path: Path):
    from nip.runs.record import read_record

    train_glue(model, mrpc, tmp_path / "out", "--max_steps", "1")
    assert read_record(tmp_path / "out").result is None


def test_the_best_model_is_kept_whatever_save_steps_says(model: Path, mrpc: Path, tmp_path: Path):
    """Evaluated every step, saved by itself only far beyond the end: the best evaluation is the model at the end."""
    out = tmp_path / "out"
    more = "--do_eval --eval_strategy steps --eval_steps 1 --save_steps 1000 --metric_for_best_model loss --max_steps 4"
    result = train_glue(
        model, mrpc, out, *more.split(), "--per_device_train_batch_size", "4", "--learning_rate", "0.05"
    )
    losses = {row["step"]: row["loss"] for row in rows(out) if row["split"] == "dev"}
    best = min(losses, key=lambda step: losses[step])
    assert result["best_step"] == best
    assert result["metrics"]["loss"] == pytest.approx(losses[best], rel=1e-5)
    assert best != 4  # else the test shows nothing


def test_an_unknown_metric_raises_before_training(model: Path, mrpc: Path, tmp_path: Path):
    more = "--do_eval --eval_strategy steps --eval_steps 1 --metric_for_best_model pearson --max_steps 4"
    with pytest.raises(ValueError, match=r"'pearson' is no metric of mrpc: it has loss, accuracy, f1"):
        train_glue(model, mrpc, tmp_path / "out", *more.split())
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_the_folder_is_locked(model: Path, mrpc: Path, tmp_path: Path):
    import filelock

    with filelock.FileLock(tmp_path / ".lock"), pytest.raises(ValueError, match="Another process is at work"):
        train_glue(model, mrpc, tmp_path, "--max_steps", "2")


def test_early_stopping_continues_its_count_after_a_restart(
    model: Path, mrpc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words = "--do_eval --eval_strategy steps --eval_steps 1 --save_steps 1 --early_stopping_patience 3 --max_steps 40"
    settled = [*words.split(), "--learning_rate", "0.2"]
    full = train_glue(model, mrpc, tmp_path / "full", *settled)
    assert full["steps"] == full["best_step"] + 3 < 40
    assert full["planned_steps"] == 40
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt(patch, full["steps"] - 1)
        train_glue(model, mrpc, tmp_path / "stopped", *settled)
    stopped = train_glue(model, mrpc, tmp_path / "stopped", *settled)
    assert (stopped["steps"], stopped["best_step"]) == (full["steps"], full["best_step"])
    assert same(tmp_path / "full", tmp_path / "stopped")
