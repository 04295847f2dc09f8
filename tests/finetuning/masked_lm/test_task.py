"""``nip mlm`` from the command line to the perplexity."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

import nip
from finetuning_files import WORDS, write_text
from nip.finetuning.masked_lm import task as masked_lm
from nip.finetuning.masked_lm.masking import MaskingCollator

SMALL = "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,intermediate_size=32"


def run(words: str, out: Path, **places: Any) -> dict[str, Any]:
    return masked_lm.main([*words.format(**places).split(), "--output_dir", str(out), "--block_size", "4"])


def test_the_documented_command(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = datasets.load_dataset("text", data_files=str(write_text(tmp_path / "a.txt")))["train"]
    asked = []
    sets = datasets.DatasetDict({"train": text, "validation": text.select(range(8))})
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append(a) or sets)
    words = (
        "--dataset_name wikitext --dataset_config_name wikitext-103-raw-v1 --per_device_train_batch_size 8 "
        "--gradient_accumulation_steps 1 --per_device_eval_batch_size 8 --do_train --do_eval --evaluation_strategy "
        "steps --eval_steps 2 --fp16 --fp16_full_eval --logging_strategy steps --logging_steps 200 "
        "--overwrite_output_dir --max_steps 4 --model_name_or_path {model}"
    )
    result = run(words, tmp_path / "out", model=model)
    assert asked == [("wikitext", "wikitext-103-raw-v1")]
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["split"] == "dev"] == [2, 4]
    assert [row["step"] for row in rows if row["split"] == "train"] == [1, 2, 3, 4]
    assert result["task"] == "wikitext-103-raw-v1"
    assert result["metrics"]["perplexity"] == pytest.approx(len(WORDS), rel=0.5)  # untrained: any word is as likely


def test_a_stream_of_the_hub(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = str(write_text(tmp_path / "a.txt"))
    stream = datasets.load_dataset("text", data_files=file, split="train", streaming=True)
    asked = []
    sets = datasets.IterableDatasetDict({"train": stream, "validation": stream})
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k["streaming"])) or sets)
    words = "--model_name_or_path {model} --dataset_name big --streaming --do_train --do_eval --max_steps 2 "
    result = run(words + "--max_eval_samples 6 --line_by_line", tmp_path / "out", model=model)
    assert asked == [(("big", None), True)]
    assert result["n_test"] == 6
    del sets["validation"]
    with pytest.raises(ValueError, match="big has no split 'validation'; it has train"):
        run(words, tmp_path / "other", model=model)


def test_perplexity_is_that_of_the_saved_model(model: Path, text: Path, tmp_path: Path):
    """Of the model loaded again, over the same masks, computed by hand token by token."""
    out = tmp_path / "out"
    words = "--model_name_or_path {model} --train_file {text} --do_train --do_eval --max_steps 6 --max_seq_length 20 "
    result = run(words + "--learning_rate 1e-2 --validation_split_percentage 25", out, model=model, text=text)
    read = AutoTokenizer.from_pretrained(out)
    saved = nip.from_pretrained(out, AutoModelForMaskedLM).eval()
    lines = text.read_text().splitlines()[: 40 * 25 // 100]
    ids = [token for line in lines for token in read(line)["input_ids"]]
    special = [int(token in read.all_special_ids) for token in ids]
    masking = MaskingCollator(read, 0.15, 42)
    losses, right = [], []
    for number, start in enumerate(range(0, len(ids), 20)):
        piece = {"input_ids": ids[start : start + 20], "special_tokens_mask": special[start : start + 20]}
        batch = masking([{**piece, "idx": -1 - number}])
        labels = batch.pop("labels")[0]
        with torch.no_grad():
            chances = saved(**batch).logits[0].log_softmax(-1)
        for token, label in enumerate(labels.tolist()):
            if label != -100:
                losses.append(-chances[token, label].item())
                right.append(int(chances[token].argmax()) == label)
    assert result["n_answers"] == len(losses)
    assert result["metrics"]["perplexity"] == pytest.approx(math.exp(np.mean(losses)), rel=1e-4)
    assert result["test_accuracy"] == pytest.approx(np.mean(right))
    low, high = result["interval"]
    assert 0 <= low <= result["test_accuracy"] <= high <= 1
    words_of = [token for token, mark in zip(ids, special, strict=True) if not mark]
    assert result["baselines"]["commonest_token"] == pytest.approx(np.bincount(words_of).max() / len(words_of))


def test_a_model_from_scratch_of_the_given_size(model: Path, text: Path, tmp_path: Path):
    words = (
        "--model_type bert --config_overrides " + SMALL + " --tokenizer_name {model} --train_file {text} --do_train "
        "--max_steps 2 --max_seq_length 600 --attention local --line_by_line --pad_to_max_length --streaming"
    )
    run(words, tmp_path / "out", model=model, text=text)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["vocab_size"] == len(WORDS) + 5
    assert config["max_position_embeddings"] == 600
    assert config["nip"]["default"]["pattern"] == "local"


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_tables(kind: str, model: Path, tmp_path: Path):
    data = datasets.Dataset.from_dict({"id": [1, 2, 3], "body": ["the cat sat on the mat and ran"] * 3})
    path = tmp_path / f"a.{kind}"
    {"jsonl": data.to_json, "csv": data.to_csv, "parquet": data.to_parquet}[kind](path)
    words = "--model_name_or_path {model} --validation_file {path} --do_eval --text_column body --line_by_line"
    assert run(words, tmp_path / "out", model=model, path=path)["n_test"] == 3
    with pytest.raises(ValueError, match="name the one with the text with --text_column"):
        run(words.replace("--text_column body", ""), tmp_path / "out", model=model, path=path)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--model_name_or_path {model} --do_train", "Name a text"),
        ("--model_name_or_path {model} --dataset_name a --train_file b --do_train", "not both"),
        ("--model_name_or_path {model} --train_file {text} --do_predict", "nothing to predict"),
        ("--model_name_or_path {model} --train_file {text} --do_train --streaming", "needs --max_steps"),
        ("--model_name_or_path {model} --validation_file {text} --do_train", "--do_train needs --train_file"),
        (
            "--model_name_or_path {model} --train_file {text} --do_train --streaming --max_steps 1 "
            "--max_train_samples 9",
            "--max_train_samples and --streaming exclude each other",
        ),
        ("--model_name_or_path {model} --train_file {text} --do_train --shuffle_buffer 9", "needs --streaming"),
        (
            "--model_name_or_path {model} --train_file {text} --validation_file {text} --do_eval "
            "--validation_split_percentage 9",
            "Give --validation_file or --validation_split_percentage",
        ),
        (
            "--model_name_or_path {model} --train_file {text} --do_train --dataloader_persistent_workers true "
            "--dataloader_num_workers 1",
            "--dataloader_persistent_workers would give every epoch the same masks",
        ),
        ("--model_name_or_path {model} --train_file a.doc --do_train", "a.doc must end in one of"),
        ("--model_name_or_path {model} --train_file {text} --do_train --mlm_probability 1", "above 0 and below 1"),
        ("--model_name_or_path {model} --train_file {text} --do_train --model_type bert", "its own configuration"),
        ("--train_file {text} --do_train", "Name a model"),
        ("--model_type bert --train_file {text} --do_train", "needs --tokenizer_name"),
        ("--model_type bird --tokenizer_name {model} --train_file {text} --do_train", "there is no type 'bird'"),
        ("--model_type bert --config_overrides x=1 --tokenizer_name {model} --train_file {text} --do_train", "key x"),
        (
            "--model_type bert --config_overrides vocab_size=9 --tokenizer_name {model} --train_file {text} --do_train",
            "gives the model's embedding 9 rows",
        ),
        (
            "--model_name_or_path {model} --train_file {text} --do_train --max_seq_length 100",
            "longer than the 64 positions of",
        ),
    ],
)
def test_errors_are_one_sentence(words: str, sentence: str, model: Path, text: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r".") as refused:
        run(words, tmp_path / "out", model=model, text=text)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    if "positions" in sentence:
        assert "--extend_positions reflect" in str(refused.value)


def test_empty_files_raise(model: Path, tmp_path: Path):
    for name, content in (("a.txt", ""), ("b.txt", "\n \n")):
        (tmp_path / name).write_text(content)
        words = "--model_name_or_path {model} --do_eval --validation_file {path}"
        with pytest.raises(ValueError, match=r"is empty|contains no text"):
            run(words, tmp_path / "out", model=model, path=tmp_path / name)


def test_logits_are_computed_for_masked_tokens_only(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And evaluating too."""
    scored = []
    true_loss = masked_lm.classification_loss
    monkeypatch.setattr(
        masked_lm,
        "classification_loss",
        lambda outputs, labels, n=None, **more: (
            scored.append(outputs["logits"].shape) or true_loss(outputs, labels, n, **more)
        ),
    )
    original = masked_lm.reduce_logits
    monkeypatch.setattr(
        masked_lm, "reduce_logits", lambda logits, labels: scored.append(logits.shape) or original(logits, labels)
    )
    write_text(tmp_path / "a.txt")
    words = "--train_file {text} --do_train --do_eval --max_steps 2 --model_name_or_path {model} --max_seq_length 16"
    run(words, tmp_path / "out", model=model, text=tmp_path / "a.txt")
    assert len(scored) > 3
    assert {len(shape) for shape in scored} == {2}
