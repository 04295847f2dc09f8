"""Translation of deprecated flags."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import Seq2SeqTrainingArguments, TrainingArguments

from nip.finetuning.deprecated_flags import OLD, read_bool, translate, unknown_flag

# Own flags that old ones are translated to.
OWN = {"tensorboard_dir"}
KNOWN = {field.name for field in dataclasses.fields(TrainingArguments)} | OWN
ALL = {field.name for field in dataclasses.fields(Seq2SeqTrainingArguments)} | OWN

# Removed between transformers 4 and 5, as the changes of TrainingArguments have it.
REMOVED = {
    *("evaluation_strategy", "warmup_ratio", "group_by_length", "no_cuda", "logging_dir", "save_safetensors"),
    *("half_precision_backend", "fp16_opt_level", "fp16_backend", "per_gpu_train_batch_size", "torchdynamo"),
    *("per_gpu_eval_batch_size", "include_inputs_for_metrics", "past_index", "jit_mode_eval", "push_to_hub_token"),
    *("use_mps_device", "tpu_num_cores", "sharded_ddp", "use_ipex", "adafactor", "ray_scope", "tpu_metrics_debug"),
    *("fsdp_min_num_params", "fsdp_transformer_layer_cls_to_wrap", "push_to_hub_model_id", "push_to_hub_organization"),
}


def test_every_removed_flag_is_translated_to_flags_that_exist():
    assert set(OLD) >= REMOVED
    for name in REMOVED:
        value = "0.5" if name == "warmup_ratio" else "true" if OLD[name].switch else "7"
        words, notices = translate([f"--{name}", value], KNOWN)
        assert len(notices) == 1, name
        assert f"--{name}" in notices[0]
        assert all(word[2:] in KNOWN for word in words if word.startswith("--")), name


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--evaluation_strategy steps", "--eval_strategy steps"),
        ("--evaluation_strategy=steps", "--eval_strategy steps"),
        ("--evaluation-strategy steps", "--eval_strategy steps"),
        ("--warmup_ratio 0.06", "--warmup_steps 0.06"),
        ("--no_cuda", "--use_cpu"),
        ("--no_cuda false", ""),
        ("--group_by_length", "--train_sampling_strategy group_by_length"),
        ("--per_gpu_train_batch_size 8 --seed 3", "--per_device_train_batch_size 8 --seed 3"),
        ("--logging_dir runs/x", "--tensorboard_dir runs/x"),
        ("--adafactor --fp16", "--optim adafactor --fp16"),
        ("--save_safetensors false", ""),
        ("--xpu_backend gloo", "--ddp_backend gloo"),
        ("--optim adamw_hf --seed 1", "--optim adamw_torch --seed 1"),
        ("--optim=adamw_hf", "--optim=adamw_torch"),
        ("--optim adafactor", "--optim adafactor"),
        ("--resize_position_embeddings true", "--extend_positions reflect"),
        ("--torch_dtype auto --low_cpu_mem_usage --token x", ""),
        ("--learning_rate 5e-5 --do_train", "--learning_rate 5e-5 --do_train"),
        ("--lr_scheduler_kwargs {\"a\":1}", "--lr_scheduler_kwargs {\"a\":1}"),
    ],
)  # fmt: skip
def test_old_flags_are_translated(old: str, new: str):
    assert translate(old.split(), KNOWN)[0] == new.split()


def test_known_flags_give_no_notice():
    words = ["--do_train", "--seed", "3", "--eval_strategy", "steps", "--learning_rate=1e-5", "--warmup_steps", "0"]
    assert translate(words, KNOWN) == (words, [])


def test_a_version_that_still_has_the_old_flag_only_keeps_it():
    assert translate(["--gradient_checkpointing"], {"gradient_checkpointing"}) == (["--gradient_checkpointing"], [])
    both = {"gradient_checkpointing", "activation_checkpointing"}
    assert translate(["--gradient_checkpointing"], both)[0] == ["--activation_checkpointing", "true"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--learnin_rate 1", "There is no flag --learnin_rate. Did you mean --learning_rate?"),
        ("--evaluation_stategy steps", "There is no flag --evaluation_stategy. Did you mean --evaluation_strategy?"),
        ("--xyzzyq 1", "There is no flag --xyzzyq. --help lists them."),
        ("--evaluation_strategy steps --eval_strategy no", "are the same flag"),
        ("--warmup_ratio 2", "takes a ratio in [0, 1). Got '2'"),
        ("--warmup_ratio", "needs a value"),
        ("--no_cuda perhaps", "takes true or false. Got 'perhaps'"),
    ],
)
def test_errors_are_one_sentence(words: str, sentence: str):
    with pytest.raises(ValueError, match=r"^--|^There") as refused:
        translate(words.split(), KNOWN)
    assert sentence in str(refused.value)


@given(st.lists(st.sampled_from(sorted(KNOWN - set(OLD))), unique=True, max_size=5), st.integers(0, 99))
def test_known_flags_are_never_touched(names: list[str], value: int):
    words = [part for name in names for part in (f"--{name}", str(value))]
    assert translate(words, ALL) == (words, [])


def test_no_suggestion_for_a_dissimilar_name():
    assert unknown_flag("zzz", ["seed"]) == "There is no flag --zzz. --help lists them."


def test_booleans():
    assert read_bool("True", "--x")
    assert not read_bool("0", "--x")
