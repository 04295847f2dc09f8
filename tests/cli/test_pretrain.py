"""The command `nip pretrain`: options, the original's flags, files of settings, grids."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from nip.cli import app, main
from nip.cli.compat.pretraining_flags import ALWAYS, KNOWN, NOTHING, UNUSED, flags, today
from nip.cli.pretrain import read_file, resolve
from nip.data.corpus import Settings as CorpusSettings
from nip.data.corpus import build_corpus
from nip.pretraining.plan import plan
from nip.pretraining.settings import FIELDS, Settings, flag
from text_corpora import write_texts

ROOT = Path(__file__).parents[2]
SMALL = "--size tiny --layers 1 --width 16 --heads 2 --inner-width 32 --block-size 8 --batch-size 4 --track none"
# every flag that the original's README and parser name, with a value of its kind
ORIGINAL = """
--model_type bert-mlm --hidden_act gelu --hidden_size 16 --num_hidden_layers 1 --num_attention_heads 2
--intermediate_size 32 --hidden_dropout_prob 0.1 --attention_probs_dropout_prob 0.0 --max_position_embeddings 32
--type_vocab_size 2 --initializer_range 0.02 --encoder_ln_mode pre-ln --layer_norm_type rms_norm
--sparse_mask_prediction --max_predictions_per_seq 5 --train_batch_size 8 --train_micro_batch_size_per_gpu 4
--gradient_accumulation_steps 2 --lr 1e-2 --lr_schedule constant_step --curve exp --decay_rate 0.99 --decay_step 2
--num_warmup_steps 1 --warmup_proportion 0.02 --optimizer_type lamb --adam_beta1 0.9 --adam_beta2 0.98 --adam_eps 1e-6
--weight_decay 0.01 --bias_correction --max_coeff 0.3 --min_coeff 0.01 --gradient_clipping 0.5 --max_steps 4 --fp16
--fp16_backend ds --fp16_opt O2 --do_validation --validation_epochs 2 --validation_epochs_begin 1
--validation_epochs_end 1 --validation_begin_proportion 0.1 --validation_end_proportion 0.1 --validation_micro_batch 4
--max_steps_per_epoch 2 --num_epochs 100 --early_exit_time_marker 24 --total_training_time 24
--finetune_time_markers 0.5
--use_early_stopping --early_stop_time 180 --early_stop_eval_loss 9.5 --scale_cnt_limit 50 --seed 7
--num_epochs_between_checkpoints 2 --print_steps 10 --log_throughput_every 1 --steps_per_print 5 --wall_clock_breakdown
--current_run_id 3 --job_name job --project_name project --data_loader_type dist --num_workers 2 --async_worker
--deepspeed --local_rank 0 --prescale_gradients --gradient_predivide_factor 1 --finetune_checkpoint_at_end
--fused_linear_layer true --deepspeed_transformer_kernel --stochastic_mode --gelu_checkpoint --normalize_invertible
--attention_dropout_checkpoint --hyperextension --add_nsp false --vocab_size 512
"""
OF_OTHER_FILES = (
    "--dataset_path d --output_dir d --tokenizer_name d --load_training_checkpoint d --load_checkpoint_id 1"
)


def asked_for(words):
    group = typer.main.get_command(app).commands["pretrain"]
    return resolve(group.make_context("pretrain", list(words)).params)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    settings = CorpusSettings(train_tokenizer=200, max_seq_length=32, frac_test=0.2)
    build_corpus(str(write_texts(folder / "texts", n_files=2, per_file=30)), folder / "shards", settings)
    return folder / "shards"


@pytest.fixture
def nip(capsys):
    def run(*words):
        with pytest.raises(SystemExit) as stop:
            main(list(map(str, words)))
        said = capsys.readouterr()
        return stop.value.code or 0, said.out, said.err

    return run


def test_a_run_and_its_report(nip, corpus, tmp_path):
    words = ["pretrain", "--dataset", corpus, "--out", tmp_path / "run", *SMALL.split(), "--max_steps", "2", "--json"]
    code, out, err = nip(*words)
    assert code == 0, err
    result = json.loads(out)
    assert (result["steps"], result["model"]) == (2, "hypercube")
    code, out, err = nip(*words)
    assert json.loads(out) == result
    assert "is finished: 2 steps are done." in err
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["command"] == ["nip", *map(str, words)]
    assert facts["settings"]["lengths"] == [[32, 1.0]]  # the corpus's
    code, out, err = nip("report", tmp_path / "run", "--out", tmp_path / "report.html")
    assert code == 0, err
    assert "On masked language model, hypercube reached" in out
    assert "always guessing the commonest token" in (tmp_path / "report.html").read_text()
    # the run's own record is a file of settings
    again = asked_for(flags_of(["--config", tmp_path / "run" / "run.json", "--dataset", corpus]))
    assert again.settings.to_dict() == facts["settings"]


def flags_of(words):
    return list(map(str, words))


def test_dry_run(nip, corpus):
    code, out, err = nip("pretrain", "--dataset", corpus, *SMALL.split(), "--hours", "1", "--dry-run", "--json")
    assert code == 0, err
    plan = json.loads(out)
    assert plan["here"]["seconds"] == pytest.approx(3600)
    assert plan["stages"][0]["length"] == 32
    assert plan["stages"][0]["memory_bytes"] > 4 * 4 * plan["weights"]
    code, out, _ = nip("pretrain", "--dataset", corpus, *SMALL.split(), "--max-steps", "10", "--dry-run")
    assert "tokens in 10 steps" in out
    assert "Warning: " in out


def test_every_flag_of_the_original(nip, corpus, tmp_path, monkeypatch):
    """All at once: the settings, the notices about those without effect, and a run."""
    words = ["--dataset_path", str(corpus), "--output_dir", str(tmp_path), *shlex.split(ORIGINAL)]
    words += ["--tokenizer_name", str(corpus / "tokenizer")]
    with monkeypatch.context() as there:
        there.setattr("torch.accelerator.is_available", lambda: True)
        asked = asked_for(words)
    settings = asked.settings
    assert asked.output_dir == tmp_path / "job-3"
    assert (settings.architecture, settings.norm, settings.precision) == ("roberta-prelayernorm", "rms", "fp16")
    assert (settings.schedule, settings.curve, settings.warmup_steps) == ("constant_step", "exp", 1)
    assert (settings.eval_every, settings.eval_every_begin, settings.eval_every_end) == (4, 2, 2)
    assert (settings.hours, settings.early_exit_hours, settings.finetune_hours) == (24.0, None, (12.0,))
    assert (settings.early_stop_loss, settings.early_stop_minutes, settings.overflow_limit) == (9.5, 180.0, 50)
    assert (settings.batch_size, settings.micro_batch, settings.max_steps) == (8, 4, 4)
    assert (settings.optimizer, settings.max_coeff, settings.clip, settings.weight_decay) == (
        "lamb-deepspeed",
        0.3,
        0.5,
        0.01,
    )
    script = [sys.executable, str(ROOT / "scripts" / "run_pretraining_sparse.py"), *words, "--track", "none"]
    done = subprocess.run(script, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "job-3" / "result.json").read_text())
    assert (result["model"], result["steps"]) == ("hypercube", 4)
    for name in ("stochastic_mode", "gelu_checkpoint", "normalize_invertible", "deepspeed_transformer_kernel"):
        assert f"nip: --{name} does nothing: it belonged to a kernel that no longer exists.\n" in done.stderr
    assert set(NOTHING) <= set(re.findall(r"--(\w+) does nothing", done.stderr))


def test_a_run_in_fp16(nip, corpus, tmp_path):
    """--precision fp16 is computed on a CPU too, with a scaled loss."""
    code, _, err = nip(
        "pretrain",
        "--dataset",
        corpus,
        *SMALL.split(),
        "--max-steps",
        "2",
        "--precision",
        "fp16",
        "--out",
        tmp_path / "run",
    )
    assert code == 0, err
    assert json.loads((tmp_path / "run" / "result.json").read_text())["steps"] == 2


def test_no_flag_of_the_reference_is_missing():
    """ORIGINAL lists the flags of the original's parsers: each is known, and only two others are."""
    named = {name for name, _ in flags(shlex.split(f"{ORIGINAL} {OF_OTHER_FILES}"))}
    assert named - {*KNOWN, *FIELDS} == set()
    of_samples = {"masked_lm_prob", "max_seq_length"}
    assert set(KNOWN) - named == {*of_samples, *UNUSED}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--lr", "1e-3", "--lr", "1e-4"], "--lr is given twice."),
        (["--encoder_ln_mode", "mid-ln"], "--encoder_ln_mode must be one of pre-ln, post-ln. Got 'mid-ln' instead."),
        (
            ["--model_type", "gpt"],
            "--model_type must be one of bert-mlm, bert-mlm-roberta, bert-mlm-nsp. Got 'gpt' instead.",
        ),
        (
            ["--train_batch_size", "10", "--train_micro_batch_size_per_gpu", "4", "--gradient_accumulation_steps", "2"],
            "--train_batch_size 10 is not 4 samples × 2 accumulated × 1 processes = 8.",
        ),
        (["--train_batch_size", "10", "--gradient_accumulation_steps", "3"], "is not divisible into 3 micro-batches"),
        (["--validation_epochs", "2"], "Flags in epochs need --max_steps_per_epoch"),
        (
            ["--max_steps_per_epoch", "x", "--num_epochs", "2"],
            "--max_steps_per_epoch must be an integer of",
        ),
    ],
)
def test_flags_without_an_equivalent_are_refused(words, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        today(flags(words))


def test_flags_in_epochs_and_micro_batches(corpus):
    given, notices = today(flags(shlex.split(f"--dataset_path {corpus} --train_batch_size 8 --num_epochs 3")))
    steps = int(dict(given)["max_steps"])
    few = f"--dataset_path {corpus} --train_batch_size 8 --num_epochs 3 --max_steps_per_epoch 2"
    few, _ = today(flags(shlex.split(few)))
    assert dict(few)["max_steps"] == "6"
    many = f"--dataset_path {corpus} --train_batch_size 8 --num_epochs 3 --max_steps_per_epoch 1000000"
    assert dict(today(flags(shlex.split(many)))[0])["max_steps"] == str(steps)
    samples = json.loads((corpus / "manifest.json").read_text())["splits"]["train"]["samples"]
    assert steps == 3 * (samples // 8)
    assert notices == [f"--num_epochs 3 ends the run after {steps} steps, {samples // 8} per epoch."]
    given, _ = today(flags(["--train_micro_batch_size_per_gpu", "4", "--gradient_accumulation_steps", "3"]))
    assert dict(given) == {"micro_batch": "4", "batch_size": "12"}
    given, _ = today(flags(["--train_batch_size", "12", "--gradient_accumulation_steps", "3"]))
    assert dict(given) == {"micro_batch": "4", "batch_size": "12"}
    given, notices = today(flags(["--early_stop_eval_loss", "5", "--num_warmup_steps", "3"]))
    assert given == []
    assert len(notices) == 2


@pytest.mark.parametrize(
    ("words", "out"),
    [
        ("--out r --job-name job", "r"),
        ("--output_dir r --job_name job", "r/job"),
        ("--output_dir r --current_run_id 3", "r/3"),
        ("--out r --job-name job --current_run_id 3", "r/job-3"),
    ],
)
def test_folders_of_jobs(words, out):
    given, notices = today(flags(shlex.split(words)))
    assert (dict(given)["out"], notices) == (out, [])


def test_a_run_id_without_a_folder_is_reported():
    assert today(flags(["--current_run_id", "3"])) == ([], ["--current_run_id does nothing without --output_dir."])


@pytest.mark.parametrize("name", NOTHING)
def test_flags_without_effect_are_reported(name):
    """With the reason; if off, only flags whose behaviour cannot be switched off."""
    notice = f"--{name} does nothing: {NOTHING[name]}."
    assert today([(name, None)]) == ([], [notice])
    assert today([(name, "false")]) == ([], [notice] if name in ALWAYS else [])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--dataset must name the folder of a corpus"),
        (["--dataset", "nowhere", "--max-steps", "1"], "There is no corpus in nowhere."),
        (["--dataset", "CORPUS", "--lengths", "32"], "A run needs a budget: --max-steps, --max-tokens or --hours."),
        (["--dataset", "CORPUS", "--hours", "0"], "--hours must be a number above 0. Got 0.0 instead."),
        (["--dataset", "CORPUS", "--hourz", "1"], "No such option: --hourz (Possible options: --hours"),
        (
            ["--dataset", "CORPUS", "--max-steps", "many"],
            "Invalid value for '--max-steps': Input should be a valid integer",
        ),
        (["--dataset", "CORPUS", "--max-steps"], "--max-steps needs a value."),
        (["--dataset", "CORPUS", "--max-steps", "1", "--max_steps", "2"], "--max-steps is given twice."),
        (["CORPUS"], "is not an option; options begin with two hyphens."),
        (["--dataset", "CORPUS", "--max-steps", "1", "--tied", "perhaps"], "--tied must be true or false."),
        (["--dataset", "CORPUS", "--max-steps", "1", "--model", "cube"], "cube"),
        (["--dataset", "CORPUS", "--max-steps", "1", "--micro-batch", "3"], "--micro-batch must divide --batch-size."),
        (["--dataset", "CORPUS", "--max-steps", "1", "--vocab-size", "9"], "must be at least that of the tokenizer"),
        (["--dataset", "CORPUS", "--max-steps", "1", "--next-sentence"], "--next-sentence needs pairs of sentences"),
        (["--dataset", "CORPUS", "--max-steps", "1", "--tokenizer", "OTHER"], "is not the one that the shards of"),
        (["--dataset", "CORPUS", "--max-steps", "1", "--init-from", "OTHER"], "contains no model"),
        (["--dataset", "CORPUS", "--max-steps", "1", "--out", "CORPUS"], "holds a run of another kind (corpus)"),
        (["--dataset", "CORPUS", "--config", "BAD"], "There is no setting colour."),
        (["--dataset", "CORPUS", "--config", "LR"], "lr.yaml: lr is called learning-rate in a file."),
        (
            ["--dataset", "CORPUS", "--config", "OUT"],
            "out.yaml: --out belongs on the command line, not in a file.",
        ),
        (["--dataset", "CORPUS", "--config", "LIST"], "must hold a mapping of settings to values. Got list instead."),
    ],
)
def test_bad_input_is_one_sentence(nip, corpus, tmp_path, words, says):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]))
    (tmp_path / "bad.yaml").write_text("colour: red")
    (tmp_path / "list.yaml").write_text("- 1")
    (tmp_path / "lr.yaml").write_text("lr: 1e-3")
    (tmp_path / "out.yaml").write_text("out: run")
    places = {
        "CORPUS": corpus,
        "OTHER": tmp_path / "other",
        "BAD": tmp_path / "bad.yaml",
        "LIST": tmp_path / "list.yaml",
        "LR": tmp_path / "lr.yaml",
        "OUT": tmp_path / "out.yaml",
    }
    other = places["OTHER"] / "vocab.txt" if "--tokenizer" in words else places["OTHER"]
    spelled = [str({**places, "OTHER": other}.get(word, word)) for word in words]
    out = [] if "--out" in words else ["--out", tmp_path / "run"]
    code, _, err = nip("pretrain", *spelled, *out, *SMALL.split())
    assert code == 2
    assert says in err
    assert len(err.strip().splitlines()) == 1
    assert "Traceback" not in err
    left = [each.name for each in (tmp_path / "run").iterdir()] if (tmp_path / "run").exists() else []
    assert set(left) <= {".lock", "run.log"}


def test_a_damaged_corpus(nip, corpus, tmp_path):
    import shutil

    words = ["pretrain", "--max-steps", "1", "--out", tmp_path / "run", *SMALL.split()]
    for number, (name, how, says) in enumerate(
        [
            ("train-00000.tokens.npy", "cut", "is damaged: it has"),
            ("train-00000.documents.npy", "gone", "is damaged: it is missing"),
            ("tokenizer/tokenizer.json", "cut", "is not the tokenizer that the shards of"),
            ("train-00000.tokens.npy", "flipped", "is damaged"),
        ]
    ):
        copy = tmp_path / f"copy{number}"
        shutil.copytree(corpus, copy)
        if how == "gone":
            (copy / name).unlink()
        elif how == "flipped":
            raw = bytearray((copy / name).read_bytes())
            raw[-7] ^= 1
            (copy / name).write_bytes(raw)
        else:
            (copy / name).write_bytes((copy / name).read_bytes()[:-10])
        code, _, err = nip(*words, "--dataset", copy)
        assert code == 2
        assert says in err


def test_a_checkpoint_of_the_original_flags(tmp_path):
    words = ["--load_training_checkpoint", str(tmp_path), "--load_checkpoint_id", "latest_checkpoint"]
    given, notices = today(flags(words))
    assert dict(given) == {"init_from": str(tmp_path / "latest_checkpoint")}
    (tmp_path / "config.json").write_text("{}")
    given, notices = today(flags(words))
    assert dict(given) == {"init_from": str(tmp_path)}
    assert len(notices) == 2


def test_options_without_effect_with_others_are_reported(corpus, capsys):
    words = [
        "--dataset",
        str(corpus),
        "--max-steps",
        "5",
        "--decay-rate",
        "0.5",
        "--optimizer",
        "adafactor",
        "--eps",
        "1e-8",
    ]
    asked_for([*words, "--max-predictions", "2", "--warmup", "0.1"])
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == [
        "nip: --decay-rate does nothing without --curve exp.",
        "nip: --eps does nothing with --optimizer adafactor.",
    ]
    assert said[2:] == ["nip: --max-predictions leaves 6.2 % of 32 tokens to predict."]


def test_masking_options_have_no_effect_on_a_corpus_masked_once(tmp_path, capsys):
    """They are reported, and the estimate counts the masks of the corpus."""
    write_texts(tmp_path / "texts", n_files=1, per_file=60)
    plans = {}
    for most in (1, 9):
        made = CorpusSettings(
            train_tokenizer=200, max_seq_length=32, frac_test=0.2, masked_once=True, dup_factor=1,
            max_predictions_per_seq=most, masked_lm_prob=0.3,
        )  # fmt: skip
        build_corpus(str(tmp_path / "texts"), tmp_path / f"once{most}", made)
        words = ["--dataset", str(tmp_path / f"once{most}"), *SMALL.split(), "--max-steps", "5"]
        asked = asked_for([*words, "--mask-probability", "0.4", "--max_predictions_per_seq", "2"])
        said = capsys.readouterr().err.splitlines()
        assert sorted(said) == [
            f"nip: --{name} does nothing with a corpus that was masked once."
            for name in ("mask-probability", "max-predictions")
        ]
        plans[most] = plan(asked.settings, asked.dataset).stages[0].flops
    assert plans[1] < plans[9]


def test_options_come_before_the_file(corpus, tmp_path):
    lines = ["learning-rate: 1e-3", "hours: 24", "lengths: 128:0.9,512:0.1", "parameters: {seed: 3}", "model: random"]
    (tmp_path / "a.yaml").write_text("\n".join(lines))
    asked = asked_for(["--dataset", str(corpus), "--config", str(tmp_path / "a.yaml"), "--hours", "2", "--no-tied"])
    settings = asked.settings
    assert (settings.learning_rate, settings.hours, settings.tied) == (1e-3, 2.0, False)
    assert settings.lengths == ((128, 0.9), (512, 0.1))
    assert settings.parameters == {"seed": 3}


def test_a_grid(nip, tmp_path):
    (tmp_path / "grid.yaml").write_text("hyperparameters: {lr: [1.0e-3, 5.0e-4]}")
    code, out, _ = nip("pretrain", "grid", tmp_path / "grid.yaml")
    assert code == 0
    rates = enumerate((0.001, 0.0005))
    assert out.splitlines() == [f"nip pretrain --lr {rate} --out runs/grid-{i}" for i, rate in rates]
    code, out, _ = nip("pretrain", "grid", tmp_path / "grid.yaml", "--json")
    assert len(json.loads(out)) == 2
    code, _, err = nip("pretrain", "grid", tmp_path / "none.yaml")
    assert code == 2
    assert "none.yaml" in err


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("pretrain*.yaml")), ids=lambda path: path.stem)
def test_recipes(recipe, nip, corpus):
    """Each has valid settings, which give an estimate for a small model."""
    settings = Settings(**read_file(recipe))
    assert settings.hours is not None
    small = ["--lengths", "32", *SMALL.replace("--batch-size 4", "").split()]
    code, out, err = nip("pretrain", "--config", recipe, "--dataset", corpus, *small, "--dry-run", "--json")
    assert code == 0, err
    assert json.loads(out)["here"]["seconds"] == pytest.approx(3600 * settings.hours, rel=0.01)


def test_help_names_every_option(nip, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = nip("pretrain", "--help")
    assert code == 0
    for name in FIELDS:
        if name != "parameters":
            assert flag(name) in out, name
    assert "Example: nip pretrain" in out
