"""Parsing of the finetuning commands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from nip.finetuning import arguments
from nip.finetuning.arguments import AttentionArguments, parse, read_argument_file, read_layers, resolve_precision
from nip.finetuning.glue.task import read_command as read_glue


@dataclass
class Own:
    """A task's own."""

    task_name: str | None = None


def read(words: str, tmp_path: Path) -> arguments.Command:
    return parse([*words.split(), "--output_dir", str(tmp_path)], Own, program="nip own")


def test_given_flags_are_told_from_defaults(tmp_path: Path):
    command = read(
        "--do_train --task_name x --attention random --param seed=3 num_random_blocks=2 --block_size 8", tmp_path
    )
    assert command.task.task_name == "x"
    assert command.attention.parameters == {"seed": 3, "num_random_blocks": 2}
    assert (command.attention.attention, command.attention.block_size) == ("random", 8)
    assert {"attention", "param", "block_size"} <= command.given
    default = read("--do_train", tmp_path)
    assert (default.attention.attention, default.attention.block_size) == ("hypercube", 16)
    assert "attention" not in default.given


def test_params_may_be_repeated(tmp_path: Path):
    command = read("--do_train --attention random --param seed=3 --param num_random_blocks=2", tmp_path)
    assert command.attention.parameters == {"seed": 3, "num_random_blocks": 2}


def test_a_metric_or_patience_selects_the_best_model(tmp_path: Path):
    readme = "--do_train --do_eval --evaluation_strategy steps --eval_steps 1000 --save_strategy steps --save_steps 700"
    best = read(f"{readme} --metric_for_best_model accuracy", tmp_path).training
    assert best.load_best_model_at_end
    assert best.greater_is_better
    patient = read(f"{readme} --early_stopping_patience 3", tmp_path).training
    assert (patient.load_best_model_at_end, patient.metric_for_best_model) == (True, "loss")
    assert patient.greater_is_better is False
    assert read(f"{readme} --metric_for_best_model perplexity", tmp_path).training.greater_is_better is False
    assert not read(readme, tmp_path).training.load_best_model_at_end


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--seed 1", "There is nothing to do: give --do_train, --do_eval or --do_predict."),
        ("--do_eval --attention nothing", "There is no pattern 'nothing'."),
        ("--do_eval --param seed=1", "has no parameter 'seed'"),
        ("--do_eval --attention random --param seed", "takes name=value"),
        ("--do_eval --block_size 0", "must be an integer of at least 1. Got 0"),
        ("--do_eval --learning_rate fast", "invalid float value: 'fast'"),
        ("--do_eval --attention_layers local,nothing", "There is no pattern 'nothing'."),
        ("--do_eval --attention_layers 0=local,0=random", "numbers every layer once, from 0"),
        ("--do_eval --attention_layers 0=local,random", "takes names, or NUMBER=NAME for each"),
        ("--do_eval --attention_layers local,", "takes names, or NUMBER=NAME for each"),
        ("--do_eval --extend_positions mirror", "takes one of reflect, tile, interpolate. Got 'mirror'"),
        ("--do_eval --graph nowhere.npz", "there is no file nowhere.npz"),
        ("--do_eval --backend abacus", "--backend takes one of auto, "),
        ("--do_eval --early_stopping_patience 2", "needs evaluations while training"),
        ("--do_train --load_best_model_at_end", "requires the save and eval strategy to match"),
        ("--do_train --overwrite_output_dir --resume_from_checkpoint x", "Give one of them"),
        ("--do_train --trust_remote_code", "--trust_remote_code is refused"),
        ("--do_train --num_train_epochs 0", "--num_train_epochs must be above 0"),
        ("--do_train --max_train_samples 0", "must be an integer of at least 1. Got 0"),
        ("--do_train --bf16 --fp16 --use_cpu false", ""),
    ],
)
def test_contradictions_raise_one_sentence(words: str, sentence: str, tmp_path: Path):
    if not sentence:
        read(words, tmp_path)  # both mean bfloat16 here
        return
    with pytest.raises(ValueError, match=r".") as refused:
        read(words, tmp_path)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("bf16", [True, False])
def test_half_precision_without_a_gpu(bf16: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(arguments, "computes_bf16", lambda: bf16)
    monkeypatch.setattr(arguments.torch.accelerator, "is_available", lambda: False)
    words, notices = resolve_precision(["--fp16", "--seed", "1", "--fp16_full_eval", "true"], frozenset())
    assert words == (["--seed", "1", "--bf16", "--bf16_full_eval", "--use_cpu"] if bf16 else ["--seed", "1"])
    assert len(notices) == 2
    assert resolve_precision(["--fp16", "false"], frozenset()) == (["--fp16", "false"], [])


def test_half_precision_with_a_gpu_is_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(arguments.torch.accelerator, "is_available", lambda: True)
    assert resolve_precision(["--fp16"], frozenset()) == (["--fp16"], [])


def test_flags_from_a_json_file(tmp_path: Path):
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"do_train": True, "param": ["a=1", "b=2"], "seed": 3, "cache_dir": None}))
    assert read_argument_file(file) == ["--do_train", "true", "--param", "a=1", "b=2", "--seed", "3"]
    file.write_text("[1]")
    with pytest.raises(ValueError, match="must hold a JSON object"):
        read_argument_file(file)


def test_a_metric_without_effect_gives_a_notice(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    read("--do_train --do_eval --metric_for_best_model accuracy", tmp_path)
    assert "--metric_for_best_model does nothing: without --eval_strategy" in capsys.readouterr().err
    read("--do_train --do_eval --metric_for_best_model accuracy --eval_strategy epoch --save_strategy epoch", tmp_path)
    assert capsys.readouterr().err.count("also loads the best model at the end") == 1
    read("--do_eval --overwrite_output_dir", tmp_path)
    assert "--overwrite_output_dir does nothing: nothing is trained" in capsys.readouterr().err


EARLY = "--do_train --do_eval --eval_strategy steps --eval_steps 5 --save_strategy steps --save_steps 5"


@pytest.mark.parametrize(
    ("task", "metric"),
    [
        ("mrpc", "f1"), ("qqp", "f1"), ("cola", "matthews_correlation"), ("stsb", "spearmanr"), ("rte", "accuracy"),
        ("mnli", "accuracy"),
    ],
)  # fmt: skip
def test_early_stopping_watches_the_task_s_own_metric(
    task: str, metric: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    words = f"--task_name {task} {EARLY} --output_dir {tmp_path} --early_stopping_patience".split()
    training = read_glue([*words, "3"], "nip glue").training
    assert (training.metric_for_best_model, training.load_best_model_at_end) == (metric, True)
    assert training.greater_is_better is True
    assert f"--early_stopping_patience watches {metric}" in capsys.readouterr().err
    named = read_glue([*words, "3", "--metric_for_best_model", "loss"], "nip glue").training
    assert (named.metric_for_best_model, named.greater_is_better) == ("loss", False)
    off = read_glue([*words, "-1"], "nip glue")
    assert off.run.early_stopping_patience is None and not off.training.load_best_model_at_end


def test_one_notice_per_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    read("--do_train --evaluation_strategy no --overwrite_output_dir", tmp_path)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0] == "nip: --evaluation_strategy is now --eval_strategy no"
    assert "--overwrite_output_dir" in said[1]


def test_layers_repeat_or_are_numbered():
    assert read_layers("local, hypercube") == ["local", "hypercube"]
    assert read_layers("0=local, 3=softmax") == {0: "local", 3: "softmax"}
    assert AttentionArguments().layers is None
    assert AttentionArguments(attention_layers="random").layers == ["random"]


@pytest.mark.parametrize(
    "words",
    [
        *("--num_train_epochs -1", "--num_train_epochs nan", "--max_steps 0", "--max_steps -2", "--save_steps -1"),
        *(
            "--eval_steps 0",
            "--eval_steps -1",
            "--save_steps nan",
            "--logging_steps -1",
            "--logging_steps inf",
            "--weight_decay nan",
            "--weight_decay -0.1",
        ),
        *("--max_grad_norm nan", "--max_grad_norm inf", "--gradient_accumulation_steps 0", "--learning_rate -1"),
        *("--learning_rate inf", "--label_smoothing_factor 2", "--label_smoothing_factor nan", "--adam_beta1 1"),
        *("--adam_beta2 -0.1", "--adam_epsilon 0", "--warmup_ratio 2", "--warmup_ratio nan", "--warmup_steps -1"),
        *("--warmup_steps nan", "--per_device_train_batch_size 0", "--per_device_eval_batch_size -1", "--seed -1"),
        *("--data_seed -1", "--dataloader_num_workers -1", "--save_total_limit -1", "--eval_accumulation_steps 0"),
        *("--neftune_noise_alpha nan", "--eval_delay nan", "--early_stopping_threshold nan", "--ddp_timeout 0"),
        "--max_train_samples 0",
    ],
)
def test_numbers_out_of_range_raise_one_sentence_and_nothing_is_written(words: str, tmp_path: Path):
    flag, value = words.split()
    with pytest.raises(ValueError, match=r"\S") as raised:
        parse(["--do_train", "--output_dir", str(tmp_path / "out"), flag, value], Own, program="nip own")
    assert "\n" not in str(raised.value)
    assert flag[2:] in str(raised.value) or "A number of steps is infinite" in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_processes_without_a_gpu_share_the_cpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(arguments.torch.accelerator, "is_available", lambda: False)
    assert resolve_precision(["--do_train"], frozenset()) == (["--do_train"], [])
    monkeypatch.setenv("WORLD_SIZE", "2")
    argv, notices = resolve_precision(["--do_train"], frozenset())
    assert argv == ["--do_train", "--use_cpu"]
    assert notices == ["there is no GPU: the processes share the CPU (--use_cpu)"]
    assert resolve_precision(["--use_cpu"], frozenset()) == (["--use_cpu"], [])
