import pytest

from nip.cli.compat import pretraining_flags as original_pretraining
from nip.cli.compat.pretraining_flags import DEFAULTS, RENAMED, flags, today, with_defaults
from nip.pretraining.settings import FIELDS


@pytest.mark.parametrize(
    ("gpu", "bf16", "precision"), [(True, True, "fp16"), (False, True, "bf16"), (False, False, "fp32")]
)
def test_fp16_of_the_original_needs_a_gpu(gpu, bf16, precision, monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: gpu)
    monkeypatch.setattr(original_pretraining, "computes_bf16", lambda: bf16)
    found, notices = today([("fp16", None)])
    assert found == [("precision", precision)]
    assert notices == ([] if gpu else [f"--fp16 needs a GPU: it is --precision {precision} here."])
    assert today([("fp16", "false")]) == ([], [])


def translated(text):
    found, notices = today(flags(text.split()))
    return dict(found), notices


@pytest.mark.parametrize(
    ("markers", "more", "hours", "never"),
    [
        ("0.5,0.9", "", "12,21.6", 0),
        ("0.25", "--total_training_time 8", "2", 0),
        ("0.5,12", "", "12", 1),
        ("0.5,0.9", "--early_exit_time_marker 14", "12", 1),
        ("3", "", None, 1),
    ],
)
def test_time_markers_are_shares_of_the_budget(markers, more, hours, never):
    more = more if "total" in more else f"{more} --total_training_time 24"
    found, notices = translated(f"--finetune_time_markers {markers} {more}")
    assert found.get("finetune_hours") == hours
    assert sum("never comes" in notice for notice in notices) == never


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("--finetune_time_markers a --total_training_time 1", "takes shares of the time budget"),
        ("--finetune_time_markers -1 --total_training_time 1", "takes shares of the time budget"),
        ("--finetune_time_markers 0.5", "are shares of --total_training_time"),
        ("--optimizer_type sgd", "--optimizer_type must be one of adam, adamw, lamb, adafactor"),
        ("--model_type t5", "--model_type must be one of bert-mlm, bert-mlm-roberta, bert-mlm-nsp"),
    ],
)
def test_values_without_an_equivalent_are_refused(text, says):
    with pytest.raises(ValueError, match=says):
        translated(text)


def test_the_optimizers_are_those_of_the_original():
    found, notices = translated("--optimizer_type lamb --adam_beta2 0.98 --adam_eps 1e-6")
    assert found == {
        "optimizer": "lamb-deepspeed", "beta1": "0.9", "beta2": "0.999", "eps": "1e-8", "max_coeff": "0.3",
        "bias_correction": "false",
    }  # fmt: skip
    assert any("DeepSpeed's LAMB has betas 0.9 and 0.999 and epsilon 1e-8" in notice for notice in notices)
    found, _ = translated("--optimizer_type lamb --max_coeff 2 --bias_correction")
    assert (found["max_coeff"], found["bias_correction"]) == ("2", None)
    assert translated("--optimizer_type adafactor")[0] == {"optimizer": "adafactor-absolute"}
    assert translated("--optimizer_type adamw")[0] == {"optimizer": "adamw"}


def test_other_flags_of_the_original():
    assert translated("--use_early_stopping")[0] == {"early_stop_minutes": "720", "early_stop_loss": "2.1"}
    found = translated("--use_early_stopping --early_stop_time 60")[0]
    assert found == {"early_stop_minutes": "60", "early_stop_loss": "2.1"}
    assert translated("--model_type bert-mlm-nsp")[0] == {"next_sentence": None}
    assert translated("--model_type bert-mlm-roberta")[0] == {}
    names = ("group_name", "model_name_or_path", "config_name", "cache_dir", "pretrain_run_args")
    for name in names:
        found, notices = translated(f"--{name} x")
        assert not found and notices[0].startswith(f"--{name} does nothing")


def test_a_flag_that_is_left_out_has_the_original_s_default(capsys):
    words = with_defaults(["--dataset_path", "shards", "--lr", "1e-3"])
    said = capsys.readouterr().err
    found = dict(today(flags(words))[0])
    assert (found["learning_rate"], found["batch_size"], found["layers"], found["width"]) == (
        "1e-3",
        "65536",
        "24",
        "1024",
    )
    assert (found["architecture"], found["beta2"], found["schedule"]) == ("roberta-prelayernorm", "0.999", "time")
    assert (found["max_predictions"], found["hours"], found["eval_begin_share"]) == ("20", "24", "0.1")
    assert said.count("\n") == 1 and "defaults of the original in force: encoder_ln_mode pre-ln" in said
    assert "lr 0.011" not in said and "max_coeff" not in said


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("--size tiny", {"num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"}),
        ("--width 64 --learning-rate 1", {"hidden_size", "lr"}),
        ("--architecture bert", {"encoder_ln_mode"}),
        ("--no-bias-correction", {"bias_correction"}),
        (
            "--train_batch_size 64 --gradient_accumulation_steps 2",
            {"train_batch_size", "train_micro_batch_size_per_gpu"},
        ),
    ],
)
def test_what_is_given_under_any_name_stays(text, left):
    added = {name for name, _ in flags(with_defaults(text.split()))} - {name for name, _ in flags(text.split())}
    assert added == set(DEFAULTS) - left - {"max_coeff"}


def test_help_and_configurations_get_no_defaults():
    for words in ([], ["--help"], ["--config", "a.yaml"]):
        assert with_defaults(words) == words


def test_the_docs_list_every_default_that_differs():
    from pathlib import Path

    page = (Path(__file__).parents[3] / "docs" / "pretraining.md").read_text("utf-8")
    for name, value in DEFAULTS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `--{name}` |"))
        assert f"| {value} |" in row, name
        assert RENAMED.get(name, name) in FIELDS or name in ("encoder_ln_mode",)
