"""`nip summarization` from the command line to its files, on small encoder–decoders."""

import json
import os
import random
import subprocess
import sys

import datasets
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    MBart50Tokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    MBartTokenizer,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

import nip
from nip.cli import main
from nip.finetuning.summarization import task as summarization
from nip.finetuning.summarization.metrics import rouge
from nip.finetuning.summarization.task import write_summaries
from nip.models.huggingface.sparsify import attention_layers
from nip.runs.record import find_records

WORDS = [f"w{i}" for i in range(12)]
VOCABULARY = ["<s>", "<pad>", "</s>", "<unk>", "say:", *WORDS]


def write_seq2seq(folder, kind):
    small = {"vocab_size": len(VOCABULARY), "d_model": 16, "pad_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    if kind == "t5":
        config = T5Config(
            **small, d_kv=8, num_layers=1, num_heads=2, d_ff=32, decoder_start_token_id=1, dropout_rate=0.0
        )
        T5ForConditionalGeneration(config).save_pretrained(folder)
    else:
        sizes = {f"{side}_{part}": n for side in ("encoder", "decoder") for part, n in
                 (("layers", 1), ("attention_heads", 2), ("ffn_dim", 32))}  # fmt: skip
        more = {"max_position_embeddings": 24, "decoder_start_token_id": 2, "forced_eos_token_id": 2, "dropout": 0.0}
        config, model = (
            (BartConfig, BartForConditionalGeneration)
            if kind == "bart"
            else (PegasusConfig, PegasusForConditionalGeneration)
        )
        model(config(**small, **sizes, **more, bos_token_id=0)).save_pretrained(folder)
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **names).save_pretrained(folder)
    return folder


def write_texts(path, n, seed, longest=18):
    """The summary is the first three words."""
    drawn = random.Random(seed)
    rows = []
    for _ in range(n):
        words = [drawn.choice(WORDS) for _ in range(drawn.randint(5, longest))]
        rows.append({"article": " ".join(words), "abstract": " ".join(words[:3])})
    if path.suffix == ".csv":
        datasets.Dataset.from_list(rows).to_csv(path, index=False)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("summarization")
    for kind in ("bart", "t5", "pegasus"):
        write_seq2seq(folder / kind, kind)
    write_texts(folder / "train.csv", 32, 1)
    write_texts(folder / "dev.jsonl", 6, 2)
    return folder


@pytest.fixture
def summarize(capsys, files, tmp_path):
    """Run the command in-process: (exit code, standard output, standard error, output folder)."""

    def run(*words, model="bart", out=tmp_path / "out"):
        fixed = ["--output_dir", out, "--block_size", 4]
        fixed += ["--model_name_or_path", files / model] if model else []
        with pytest.raises(SystemExit) as ended:
            main(["summarization", *map(str, [*fixed, *words])])
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err, out

    return run


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("kind", ["bart", "t5", "pegasus"])
def test_train_evaluate_predict(summarize, files, kind, bars):
    data = (
        "--train_file",
        files / "train.csv",
        "--validation_file",
        files / "dev.jsonl",
        "--test_file",
        files / "dev.jsonl",
    )
    how = ("--predict_with_generate", "--num_beams", 2, "--max_target_length", 6, "--max_source_length", 20)
    steps = ("--do_train", "--do_eval", "--do_predict", "--max_steps", 4, "--learning_rate", 1e-2, "--json")
    best = (
        "--eval_strategy",
        "steps",
        "--eval_steps",
        2,
        "--metric_for_best_model",
        "rougeL",
        "--source_prefix",
        "say: ",
    )
    code, said, err, out = summarize(*data, *how, *steps, *best, model=kind)
    assert code == 0 and not bars.search(err), err
    result = json.loads(said)
    made = (out / "generated_predictions.txt").read_text().splitlines()
    rows = read_rows(files / "dev.jsonl")
    expected = rouge(made, [row["abstract"] for row in rows])
    assert {name: result["metrics"][name] for name in expected} == pytest.approx(expected)
    assert result["metric"] == "rougeL" and result["n_test"] == 6
    assert result["score"] == pytest.approx(expected["rougeL"] / 100)
    assert find_records([out])[0].result.test_accuracy == result["score"]  # what nip report shows

    model = nip.from_pretrained(out, AutoModelForSeq2SeqLM).eval()  # what was saved writes the same, text by text
    tokenizer = AutoTokenizer.from_pretrained(out)
    for row, text in zip(rows, made, strict=True):
        inputs = tokenizer("say: " + row["article"], return_tensors="pt", return_token_type_ids=False)
        ids = model.generate(**inputs, num_beams=2, max_length=6)
        assert tokenizer.decode(ids[0], skip_special_tokens=True).strip() == text
    sparse = [layer.path for layer in attention_layers(model) if layer.graph is not None]
    assert sparse and all("encoder" in path for path in sparse)


def test_rows_without_a_summary_are_counted_and_words_for_missing_values_are_texts(summarize, tmp_path):
    file = tmp_path / "train.csv"
    file.write_text("article,highlights\nnull,w1\nw2 w3,None\nw4 w5,N/A\n,w6\nw7 w8,\n")
    words = ["--do_train", "--train_file", file, "--max_steps", 1, "--max_source_length", 16, "--max_target_length", 8]
    code, _, printed, _ = summarize(*words)
    assert code == 0
    assert "train: 2 rows without a text or a summary were left out" in printed


def test_rouge_of_other_letters_is_printed(summarize, tmp_path):
    file = tmp_path / "dev.jsonl"
    file.write_text("\n".join(json.dumps({"article": "w1 w2", "summary": text}) for text in ("дождь идёт", "w1")))
    words = ["--do_eval", "--validation_file", file, "--predict_with_generate", "--max_source_length", 16]
    words += ["--max_target_length", 8]
    code, _, printed, _ = summarize(*words)
    assert code == 0
    assert "ROUGE counts words of Latin letters and digits only: 1 of 2 summaries" in printed


def test_all_outputs_of_a_run_stopped_before_its_model_was_saved_are_the_same(files, tmp_path, monkeypatch):
    words = f"--model_name_or_path {files / 'bart'} --train_file {files / 'train.csv'} --validation_file "
    words += f"{files / 'dev.jsonl'} --max_source_length 16 --max_target_length 8 --predict_with_generate --do_train "
    words += "--do_eval --eval_strategy steps --eval_steps 1 --save_steps 1 --max_steps 2 --block_size 4 --output_dir "

    def stop(*_):
        raise KeyboardInterrupt

    summarization.main([*words.split(), str(tmp_path / "full")])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("nip.finetuning.trainer.check_weights", stop)
        summarization.main([*words.split(), str(tmp_path / "stopped")])
    summarization.main([*words.split(), str(tmp_path / "stopped")])
    for name in ("generation_config.json", "config.json", "tokenizer.json", "model.safetensors"):
        assert (tmp_path / "full" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes(), name


def test_one_line_per_text_of_a_test_file(summarize, files, tmp_path, monkeypatch):
    """Also an empty one, and where a summary is missing: then nothing is scored."""
    rows = read_rows(files / "dev.jsonl")
    rows[1]["article"], rows[2]["abstract"] = None, None
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(summarization, "_decode", lambda ids, _: [f"summary {i}" for i in range(len(ids))])
    words = ("--do_predict", "--max_target_length", 6, "--max_source_length", 20, "--test_file")
    code, _, err, out = summarize(*words, tmp_path / "test.jsonl")
    assert code == 0, err
    lines = (out / "generated_predictions.txt").read_text().splitlines()
    assert lines == ["summary 0", "", *(f"summary {i}" for i in range(2, 6))]
    assert not (out / "predict_results.json").exists()


def test_softmax_is_the_unchanged_model(summarize, files):
    words = ("--validation_file", files / "dev.jsonl", "--do_eval", "--max_source_length", 20, "--json")
    code, said, err, _ = summarize(*words, "--attention", "softmax", "--max_target_length", 4)
    assert code == 0, err
    model = BartForConditionalGeneration.from_pretrained(files / "bart").eval()
    tokenizer = AutoTokenizer.from_pretrained(files / "bart")
    rows = read_rows(files / "dev.jsonl")
    texts = tokenizer([row["article"] for row in rows], padding=True, return_tensors="pt", return_token_type_ids=False)
    labels = tokenizer([row["abstract"] for row in rows], padding=True, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        loss = float(model(**texts, labels=labels.masked_fill(labels == 1, -100)).loss)
    assert json.loads(said)["metrics"]["loss"] == pytest.approx(loss, rel=1e-4)
    with torch.no_grad():
        foreseen = model(**texts, labels=labels.masked_fill(labels == 1, -100)).logits.argmax(-1)
    right = (foreseen == labels)[labels != 1].float().mean()
    assert json.loads(said)["test_accuracy"] == pytest.approx(float(right))
    assert "rougeL" not in json.loads(said)["metrics"]  # nothing is generated unless asked for


def test_texts_longer_than_the_positions(summarize, files, tmp_path):
    path = write_texts(tmp_path / "long.jsonl", 4, 3, longest=60)
    words = ("--train_file", path, "--do_train", "--max_steps", 1, "--max_source_length", 48, "--max_target_length", 6)
    code, _, err, _ = summarize(*words)
    assert code == 2
    assert "--max_source_length 48 is longer than the 24 positions of" in err
    assert "give --extend_positions reflect, or at most 24." in err
    code, _, err, out = summarize(*words, "--extend_positions", "reflect")
    assert code == 0, err
    table = BartForConditionalGeneration.from_pretrained(out).model.encoder.embed_positions.weight
    assert table.shape[0] - 2 == 48


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_a_frozen_encoder_does_not_change(summarize, files, kind):
    words = ("--train_file", files / "train.csv", "--do_train", "--max_steps", 2, "--learning_rate", 1e-2)
    lengths = ("--max_source_length", 20, "--max_target_length", 6)
    code, _, err, out = summarize(*words, *lengths, "--freeze_encoder", model=kind)
    assert code == 0, err
    before, after = (
        dict(AutoModelForSeq2SeqLM.from_pretrained(folder).named_parameters()) for folder in (files / kind, out)
    )
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if "encoder." in name} <= same
    assert {name for name in before if "decoder." in name and name.endswith("weight")} & same == set()


def test_micro_batches_equal_the_batch(summarize, files, tmp_path):
    lengths = ("--max_source_length", 20, "--max_target_length", 6)
    words = ("--train_file", files / "train.csv", "--do_train", "--max_steps", 2, "--seed", 3, *lengths)
    for name, batch, parts in (("full", 8, 1), ("micro", 2, 4)):
        more = ("--per_device_train_batch_size", batch, "--gradient_accumulation_steps", parts)
        assert summarize(*words, *more, out=tmp_path / name)[0] == 0
    one, other = ([row["loss"] for row in read_rows(tmp_path / name / "metrics.jsonl")] for name in ("full", "micro"))
    assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.slow
def test_two_processes_predict_every_text_once(files, tmp_path):
    words = ("--model_name_or_path", files / "bart", "--test_file", files / "train.csv", "--do_predict", "--use_cpu",
             "--max_source_length", 20, "--max_target_length", 5, "--per_device_eval_batch_size", 5)  # fmt: skip
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    made = []
    for processes in (1, 2):
        launch = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
        command = [*launch, "-m", "nip", "summarization", *words, "--output_dir", tmp_path / str(processes)]
        subprocess.run([str(word) for word in command], env=environment, check=True)
        made.append((tmp_path / str(processes) / "generated_predictions.txt").read_text())
    assert made[0] == made[1] and made[0].count("\n") == 32


def test_a_dataset_of_the_hub(summarize, files, monkeypatch):
    asked = []

    def load(name, config=None, **more):
        asked.append((name, config))
        rows = [{"article": row["article"], "highlights": row["abstract"]} for row in read_rows(files / "dev.jsonl")]
        made = datasets.Dataset.from_list(rows)
        return datasets.DatasetDict({"train": made, "validation": made, "test": made})

    monkeypatch.setattr(datasets, "load_dataset", load)
    hub = ("--dataset_name", "cnn_dailymail", "--dataset_config_name", "3.0.0", "--max_source_length", 20)
    code, _, err, out = summarize(*hub, "--do_predict", "--max_predict_samples", 2, "--max_target_length", 4)
    assert code == 0 and "--do_predict generates summaries: --predict_with_generate is on" in err
    assert asked == [("cnn_dailymail", "3.0.0")]
    assert len((out / "generated_predictions.txt").read_text().splitlines()) == 2


@pytest.mark.parametrize("tokenizer_class", [MBartTokenizer, MBart50Tokenizer])
def test_multilingual_models(summarize, files, tmp_path, tokenizer_class):
    special = [(token, 0.0) for token in VOCABULARY[:4]]
    tokenizer = tokenizer_class(vocab=[*special, *((f"▁{word}", -1.0) for word in WORDS)])
    tokenizer.save_pretrained(tmp_path / "mbart")
    sizes = {
        f"{side}_{part}": 1 for side in ("encoder", "decoder") for part in ("layers", "attention_heads", "ffn_dim")
    }
    config = MBartConfig(
        vocab_size=len(tokenizer), d_model=8, max_position_embeddings=24, **sizes, decoder_start_token_id=2
    )
    MBartForConditionalGeneration(config).save_pretrained(tmp_path / "mbart")
    words = ("--model_name_or_path", tmp_path / "mbart", "--test_file", files / "dev.jsonl", "--do_predict",
             "--max_source_length", 20, "--max_target_length", 5, "--num_beams", 1)  # fmt: skip
    code, _, err, _ = summarize(*words, model=None)
    assert code == 2 and "is multilingual: name the language of the texts with --lang." in err
    code, _, err, _ = summarize(*words, "--lang", "xx_XX", model=None)
    assert code == 2 and "--lang 'xx_XX' is no language of" in err
    begun = []
    real = MBartForConditionalGeneration.generate

    def generate(self, *arguments, **named):
        begun.append((real(self, *arguments, **named), self.generation_config.forced_bos_token_id))
        return begun[-1][0]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(MBartForConditionalGeneration, "generate", generate)
        assert summarize(*words, "--lang", "de_DE", model=None)[0] == 0
    german = tokenizer.convert_tokens_to_ids("de_DE")
    (made, forced), *_ = begun
    is_first = tokenizer_class is MBartTokenizer  # mBART begins with its language, mBART-50 has it as the first word
    assert forced == (None if is_first else german)
    assert all(row[: 1 if is_first else 2].tolist() == ([german] if is_first else [2, german]) for row in made)


def test_one_line_per_summary(tmp_path):
    assert write_summaries(["one\n two", ""], tmp_path / "a.txt").read_text() == "one two\n\n"


DEV = ("--do_eval", "--validation_file", "dev.jsonl", "--max_source_length", "20")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--do_eval",), "Name the data: --dataset_name cnn_dailymail, or --train_file and --validation_file."),
        (("--do_predict", "--validation_file", "dev.jsonl"), "--do_predict needs --test_file."),
        ((*DEV, "--text_column", "body"), "has no column 'body' (--text_column). It has article, abstract."),
        ((*DEV, "--text_column", "article", "--summary_column", "article"), "are both 'article'"),
        ((*DEV, "--num_beams", "2", "--generation_num_beams", "3"), "contradict each other"),
        ((*DEV, "--max_target_length", "0"), "--max_target_length must be an integer of at least 1. Got 0 instead."),
        ((*DEV, "--max_target_length", "30"), "--max_target_length 30 is longer than the 24 positions of the decoder."),
        ((*DEV, "--metric_for_best_model", "rouge1"), "add --predict_with_generate"),
        ((*DEV, "--lang", "en_XX"), "--lang is for multilingual models"),
        (
            (*DEV, "--max_target_length", "6", "--forced_bos_token", "xx"),
            "--forced_bos_token 'xx' is not in the vocabulary",
        ),
    ],
)
def test_errors(summarize, files, monkeypatch, words, says):
    monkeypatch.chdir(files)
    code, said, err, _ = summarize(*words)
    assert (code, said) == (2, "")
    assert says in err.strip().splitlines()[-1]


def test_an_encoder_only_model_raises(summarize, files, model, monkeypatch):
    monkeypatch.chdir(files)
    code, _, err, _ = summarize(*DEV, "--model_name_or_path", model, model=None)
    assert (
        code == 2 and "Summaries need an encoder–decoder such as BART, T5 or Pegasus; " in err and "is a bert." in err
    )
