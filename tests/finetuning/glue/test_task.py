"""``nip glue`` from the command line to its predictions."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

import nip
from finetuning_files import WORDS, write_model, write_tokenizer
from nip.finetuning.glue import task as glue
from nip.finetuning.glue.registry import TASKS

README = [
    "--task_name",
    "mrpc",
    "--max_seq_length",
    "48",
    "--seed",
    "42",
    "--overwrite_output_dir",
    "--do_train",
    "--do_eval",
    "--do_predict",
    "--fp16",
    "--fp16_full_eval",
    "--eval_steps",
    "1000",
    "--save_strategy",
    "steps",
    "--save_steps",
    "1000",
    "--metric_for_best_model",
    "accuracy",
    "--evaluation_strategy",
    "steps",
    "--per_device_train_batch_size",
    "32",
    "--gradient_accumulation_steps",
    "1",
    "--per_device_eval_batch_size",
    "32",
    "--learning_rate",
    "5e-5",
    "--weight_decay",
    "0.01",
    "--max_grad_norm",
    "1.0",
    "--num_train_epochs",
    "2",
    "--lr_scheduler_type",
    "polynomial",
    "--warmup_steps",
    "0",
]


def hub(sets: dict[str, list[dict[str, Any]]], names: list[str]) -> datasets.DatasetDict:
    kinds = {"label": datasets.ClassLabel(names=names)}
    made = {split: datasets.Dataset.from_list(rows) for split, rows in sets.items()}
    return datasets.DatasetDict({split: data.cast_column("label", kinds["label"]) for split, data in made.items()})


def pairs(n: int, label: int | None = None) -> list[dict[str, Any]]:
    texts = [" ".join(np.random.default_rng(i).choice(WORDS, 6)) for i in range(n)]
    return [
        {"sentence1": text, "sentence2": texts[i - i % 2], "label": i % 2 if label is None else label, "idx": 10 + i}
        for i, text in enumerate(texts)
    ]


def submission(path: Path) -> list[list[str]]:
    with path.open() as file:
        return list(csv.reader(file, delimiter="\t"))


def test_the_documented_command(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The hub is a mirror of the call; half precision is chosen for the machine."""
    asked = []
    names = ["not_equivalent", "equivalent"]
    sets = hub({"train": pairs(40), "validation": pairs(10), "test": pairs(4, -1)}, names)
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: asked.append((a, k)) or sets)
    out = tmp_path / "out"
    result = glue.main([*README, "--model_name_or_path", str(model), "--output_dir", str(out)])
    assert asked[0][0] == ("nyu-mll/glue", "mrpc")
    assert result["steps"] == 4
    assert result["n_test"] == 10
    assert result["baselines"] == {"commonest_label": 0.5}
    assert set(result["metrics"]) == {"loss", "accuracy", "f1", "combined_score"}
    assert json.loads((out / "result.json").read_text()) == result
    said = capsys.readouterr().err
    assert said.count("--evaluation_strategy is now --eval_strategy steps") == 1
    assert "--fp16 needs a GPU: computing in" in said or torch.accelerator.is_available()
    config = json.loads((out / "config.json").read_text())
    assert config["nip"]["default"] == {"pattern": "hypercube", "block_size": 16, "parameters": {}}
    assert config["label2id"] == {"not_equivalent": 0, "equivalent": 1}
    written = submission(out / "MRPC.tsv")
    assert written[0] == ["index", "prediction"]
    assert [row[0] for row in written[1:]] == ["10", "11", "12", "13"]
    assert {row[1] for row in written[1:]} <= {"0", "1"}
    assert {"metrics.jsonl", "curves.svg", "run.json", "environment.json"} <= {each.name for each in out.iterdir()}
    # the folder is a model's: loaded again, it gives the same predictions
    saved = nip.from_pretrained(out, AutoModelForSequenceClassification).eval()
    read = AutoTokenizer.from_pretrained(out)
    test = sets["test"]
    batch = read(
        test["sentence1"][:], test["sentence2"][:], padding="max_length", max_length=48, return_tensors="pt",
        truncation=True,
    )  # fmt: skip
    with torch.no_grad():
        answers = saved(**batch).logits.argmax(1).tolist()
    assert [int(row[1]) for row in written[1:]] == answers


def test_softmax_is_the_unchanged_model(mrpc: Path, tmp_path: Path):
    """Evaluated dense, the loss and predictions are those of transformers alone."""
    folder = tmp_path / "model"
    write_tokenizer(folder)
    torch.manual_seed(1)
    names = {"id2label": {0: "not_equivalent", 1: "equivalent"}, "label2id": {"not_equivalent": 0, "equivalent": 1}}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = BertConfig(vocab_size=40, max_position_embeddings=32, initializer_range=0.5, **sizes, **names)
    plain = BertForSequenceClassification(config).eval()
    plain.save_pretrained(folder)
    words = f"--model_name_or_path {folder} --task_name mrpc --data_dir {mrpc} --max_seq_length 32 --do_eval"
    results = {}
    for graph in (
        "softmax",
        "local",
        "softmax --attention_layers local",
        "local --attention_layers 0=softmax,1=softmax",
    ):
        flags = f"{words} --attention {graph} --block_size 4 --output_dir {tmp_path}/{len(results)}"
        results[graph] = glue.main(flags.split())
    read = AutoTokenizer.from_pretrained(folder)
    lines = (mrpc / "MRPC" / "dev.tsv").read_text("utf-8-sig").splitlines()[1:]
    labels, _, _, ones, others = zip(*(line.split("\t") for line in lines), strict=True)
    with torch.no_grad():
        batch = read(list(ones), list(others), padding=True, return_tensors="pt")
        found = plain(**batch, labels=torch.tensor([int(label) for label in labels]))
    share = np.mean(found.logits.argmax(1).numpy() == np.array(labels, int))
    assert results["softmax"]["metrics"]["loss"] == pytest.approx(found.loss.item(), rel=1e-4)
    assert results["softmax"]["test_accuracy"] == pytest.approx(share)
    assert results["local"]["metrics"]["loss"] != pytest.approx(found.loss.item(), rel=1e-4)
    losses = [result["metrics"]["loss"] for result in results.values()]  # layers replace the default
    assert losses[2:] == pytest.approx([losses[1], losses[0]], rel=1e-4)


def tsv(folder: Path, name: str, *lines: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="session")
def with_head(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with a head of three classes."""
    folder = tmp_path_factory.mktemp("head") / "model"
    shutil.copytree(model, folder)
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(model, num_labels=3).save_pretrained(folder)
    return folder


def test_mnli_is_evaluated_and_predicted_twice(with_head: Path, tmp_path: Path):
    head = "index\tsentence1\tsentence2\tgold_label"
    for part, n in (("matched", 3), ("mismatched", 4)):
        tsv(tmp_path / "MNLI", f"dev_{part}.tsv", head, *(f"{i}\tthe cat\ta dog\tneutral" for i in range(n)))
        tsv(tmp_path / "MNLI", f"test_{part}.tsv", head[:25], *(f"{i}\tthe cat\ta dog" for i in range(n)))
    words = (
        f"--model_name_or_path {with_head} --task_name mnli --data_dir {tmp_path} --do_eval --do_predict --output_dir"
    )
    result = glue.main([*words.split(), str(tmp_path / "out")])
    assert {"accuracy", "mm_accuracy", "loss", "mm_loss"} <= set(result["metrics"])
    assert result["n_test"] == 3
    assert len(submission(tmp_path / "out" / "MNLI-m.tsv")) == 4
    written = submission(tmp_path / "out" / "MNLI-mm.tsv")
    assert len(written) == 5
    assert {row[1] for row in written[1:]} <= {"entailment", "neutral", "contradiction"}
    assert "model.safetensors" not in json.loads((tmp_path / "out" / "manifest.json").read_text())["owned"]


def test_regression_predictions_are_clipped(model: Path, tmp_path: Path):
    head = "index\tsentence1\tsentence2\tscore"
    tsv(tmp_path, "dev.tsv", head, "0\tthe cat\ta cat\t4.5", "1\tbig dog\tred\t0.2", "2\ta bird sang\tran\t1.0")
    tsv(tmp_path, "test.tsv", head[:25], "5\tthe cat\ta dog")
    tsv(tmp_path, "train.tsv", head, "0\tthe cat\ta cat\t4.5", "1\tbig dog\tred\t0.2")
    words = f"--model_name_or_path {model} --task_name stsb --data_dir {tmp_path} --do_train --max_steps 1 --do_eval"
    result = glue.main([*words.split(), "--do_predict", "--output_dir", str(tmp_path / "out")])
    assert {"pearson", "spearmanr", "combined_score"} <= set(result["metrics"])
    assert result["test_accuracy"] is None
    number, score = submission(tmp_path / "out" / "STS-B.tsv")[1]
    assert number == "5"
    assert 0 <= float(score) <= 5


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_tables_with_text_labels(kind: str, model: Path, tmp_path: Path):
    rows = [{"sentence1": "the cat", "sentence2": "a dog", "label": name} for name in ("no", "yes", "maybe", "no")]
    for name in ("train", "dev", "test"):
        path = tmp_path / f"{name}.{kind}"
        if kind == "csv":
            datasets.Dataset.from_list(rows).to_csv(path, index=False)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [f"--{flag}_file {tmp_path}/{name}.{kind}" for flag, name in
             (("train", "train"), ("validation", "dev"), ("test", "test"))]  # fmt: skip
    words = f"--model_name_or_path {model} --do_train --max_steps 1 --do_eval --do_predict {' '.join(files)}"
    result = glue.main([*words.split(), "--output_dir", str(tmp_path / "out")])
    predicted = [row[1] for row in submission(tmp_path / "out" / "predictions.tsv")[1:]]
    right = np.mean([one == row["label"] for one, row in zip(predicted, rows, strict=True)])
    assert result["test_accuracy"] == pytest.approx(right)  # the same rows: predictions say what the accuracy counts
    assert result["baselines"] == {"commonest_label": 0.5}


def test_a_single_test_file_of_a_task_with_two_test_sets(with_head: Path, tmp_path: Path):
    (tmp_path / "mnli.csv").write_text("premise,hypothesis,label\nthe cat,a dog,-1\na bird,red,-1\n")
    out = tmp_path / "out"
    words = f"--model_name_or_path {with_head} --do_predict --max_seq_length 16 --test_file {tmp_path}/mnli.csv"
    glue.main([*words.split(), "--task_name", "mnli", "--output_dir", str(out)])
    assert len(submission(out / "MNLI-m.tsv")) == 3
    assert not (out / "MNLI-mm.tsv").exists()


def test_unlabelled_training_rows_are_dropped(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """As SNLI has them."""
    sets = hub({"train": [*pairs(6), *pairs(3, -1)]}, ["no", "yes"])
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: sets)
    words = f"--model_name_or_path {model} --dataset_name snli --do_train --num_train_epochs 1 --max_seq_length 16"
    result = glue.main([*words.split(), "--per_device_train_batch_size", "6", "--output_dir", str(tmp_path / "out")])
    assert result["steps"] == 1
    assert np.isfinite(result["train_loss"])
    assert "3 rows without a label were left out" in capsys.readouterr().err
    sets = hub({"train": pairs(3, -1)}, ["no", "yes"])
    with pytest.raises(ValueError, match="No row of the training set of snli has a label"):
        glue.main([*words.split(), "--output_dir", str(tmp_path / "other")])


def test_regression_has_no_label_smoothing(model: Path, tmp_path: Path):
    tsv(tmp_path, "train.tsv", "index\tsentence1\tsentence2\tscore", "0\tthe cat\ta cat\t4.5")
    words = (
        f"--model_name_or_path {model} --task_name stsb --data_dir {tmp_path} --do_train --label_smoothing_factor 0.1"
    )
    with pytest.raises(ValueError, match="--label_smoothing_factor is for classes; the labels of stsb are numbers"):
        glue.main([*words.split(), "--output_dir", str(tmp_path / "out")])


def test_the_models_order_of_labels_is_kept(tmp_path: Path):
    """A model that calls its classes otherwise numbered is evaluated by their names."""
    folder = write_tokenizer(tmp_path / "model")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    names = ["CONTRADICTION", "NEUTRAL", "ENTAILMENT"]
    config = BertConfig(vocab_size=40, id2label=dict(enumerate(names)), **sizes)
    plain = BertForSequenceClassification(config)
    with torch.no_grad():
        plain.classifier.weight.zero_()
        plain.classifier.bias.copy_(torch.tensor([5.0, 0.0, 0.0]))  # always contradiction
    plain.save_pretrained(folder)
    head = "index\tsentence1\tsentence2\tgold_label"
    for part in ("matched", "mismatched"):
        tsv(tmp_path, f"dev_{part}.tsv", head, "0\ta cat\tthe cat\tcontradiction", "1\ta cat\tred\tentailment")
        tsv(tmp_path, f"test_{part}.tsv", head[:25], "0\ta cat\tthe cat")
    words = f"--model_name_or_path {folder} --task_name mnli --data_dir {tmp_path} --do_eval --do_predict"
    result = glue.main([*words.split(), "--output_dir", str(tmp_path / "out")])
    assert result["test_accuracy"] == 0.5
    assert submission(tmp_path / "out" / "MNLI-m.tsv")[1] == ["0", "contradiction"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--task_name glue --do_eval", "There is no GLUE task 'glue'"),
        ("--do_eval", "Name a task"),
        ("--task_name mrpc --train_file a.csv --data_dir b --do_train", "Give one source of examples"),
        ("--data_dir b --do_train", "--data_dir needs --task_name"),
        ("--task_name mrpc --train_file a.csv --do_train --do_eval", "--do_eval needs --validation_file."),
        ("--task_name mrpc --train_file a.csv --do_train", "a.csv: no such file"),
        ("--task_name mrpc --data_dir nowhere --do_eval", "there is no folder nowhere"),
        ("--task_name ax --data_dir MRPC --do_eval", "train on mnli, and give ax with --do_predict"),
        ("--task_name ax --data_dir MRPC --do_predict", "nor a folder AX in it has the files of ax"),
        ("--task_name mrpc --data_dir GLUE --do_eval --max_seq_length 65", "longer than the 64 positions"),
        ("--task_name mrpc --data_dir GLUE --do_eval --model_name_or_path ./nowhere", "there is no folder ./nowhere"),
        (
            "--task_name mrpc --data_dir GLUE --do_eval --tokenizer_name LARGE",
            "has 26 tokens, but the model's embedding",
        ),
        ("--task_name mrpc --do_eval --model_name_or_path some/model-nobody-has", "the hub has no"),
        ("--task_name mrpc --do_eval", "could not be downloaded"),
        ("--task_name mrpc --data_dir GLUE --do_eval --metric_for_best_model accuracy --attention x", "no pattern 'x'"),
    ],
)
def test_errors_are_one_sentence(words: str, sentence: str, mrpc: Path, tmp_path: Path):
    small = write_model(tmp_path / "model", words=WORDS[:20])
    large = write_tokenizer(tmp_path / "large", WORDS)
    words = words.replace("GLUE", str(mrpc)).replace("LARGE", str(large)).replace("MRPC", str(mrpc / "MRPC"))
    named = [] if "--model_name_or_path" in words else ["--model_name_or_path", str(small)]
    with pytest.raises((ValueError, OSError), match=r".") as refused:
        glue.main([*words.split(), *named, "--output_dir", str(tmp_path / "out")])
    said = (
        f"{refused.value.filename}: {refused.value.strerror}"
        if getattr(refused.value, "filename", None)
        else str(refused.value)
    )
    assert sentence in said
    assert "\n" not in said


def test_labels_that_do_not_match_raise(model: Path, tmp_path: Path):
    head, rows = "sentence1,label", ["the cat,yes", "a dog,no"]
    (tmp_path / "a.csv").write_text("\n".join([head, *rows]) + "\n")
    (tmp_path / "b.csv").write_text("\n".join([head, *rows, "red,perhaps"]) + "\n")
    (tmp_path / "c.csv").write_text("sentence1,answer\nred,yes\n")
    words = f"--model_name_or_path {model} --do_train --do_eval --max_steps 1 --output_dir {tmp_path}/out --train_file"
    with pytest.raises(ValueError, match=r"labels perhaps, which the training set has not"):
        glue.main([*words.split(), f"{tmp_path}/a.csv", "--validation_file", f"{tmp_path}/b.csv"])
    with pytest.raises(ValueError, match=r"has no column 'label'; it has sentence1, answer"):
        glue.main([*words.split(), f"{tmp_path}/a.csv", "--validation_file", f"{tmp_path}/c.csv"])
    trained = tmp_path / "trained"
    three = {"id2label": {0: "a", 1: "b", 2: "c"}, "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    BertForSequenceClassification(BertConfig(vocab_size=40, **three)).save_pretrained(write_tokenizer(trained))
    other = f"--model_name_or_path {trained} --do_eval --task_name mrpc --output_dir {tmp_path}/o "
    other += f"--validation_file {tmp_path}/a.csv"
    with pytest.raises(ValueError, match="has no column 'sentence2'"):
        glue.main(other.split())
    (tmp_path / "d.csv").write_text("sentence1,sentence2,label\nthe cat,a cat,1\n")
    with pytest.raises(ValueError, match="was trained with the labels a, b, c; mrpc has not_equivalent, equivalent"):
        glue.main(other.replace("a.csv", "d.csv").split())


def test_positions_are_extended_on_request(model: Path, mrpc: Path, tmp_path: Path):
    words = (
        f"--model_name_or_path {model} --task_name mrpc --data_dir {mrpc} --max_seq_length 96 --do_train --max_steps 1"
    )
    glue.main([*words.split(), "--extend_positions", "reflect", "--output_dir", str(tmp_path / "out")])
    assert json.loads((tmp_path / "out" / "config.json").read_text())["max_position_embeddings"] == 96


def test_a_graph_from_a_file_is_saved_with_the_weights(model: Path, mrpc: Path, tmp_path: Path):
    graph = nip.graphs.rename(nip.pattern("expander", 8, degree=3), "mine")
    graph.save(tmp_path / "mine.npz")
    words = (
        f"--model_name_or_path {model} --task_name mrpc --data_dir {mrpc} --graph {tmp_path}/mine.npz --block_size 4"
    )
    out = tmp_path / "out"
    train = [*words.split(), "--do_train", "--max_steps", "1", "--do_eval", "--output_dir", str(out)]
    result = glue.main([*train, "--max_seq_length", "32"])
    assert nip.Pattern.load(out / "pattern.npz").checksum == graph.checksum
    assert json.loads((out / "run.json").read_text())["checksum"] == graph.checksum
    # its own graph is taken again where the command names none
    words = f"--model_name_or_path {out} --task_name mrpc --data_dir {mrpc} --do_eval --max_seq_length 32"
    again = glue.main([*words.split(), "--output_dir", str(tmp_path / "again")])
    assert again["metrics"]["loss"] == pytest.approx(result["metrics"]["loss"], rel=1e-5)
    with pytest.raises(ValueError, match="is a graph on 8 vertices; 48 tokens in blocks of 4 need 12"):
        glue.main([*train, "--max_seq_length", "48", "--overwrite_output_dir"])


def test_submissions_have_the_official_names():
    names = [name for task in TASKS.values() for name in task.submissions]
    assert sorted(names) == sorted(
        [
            "CoLA.tsv",
            "SST-2.tsv",
            "MRPC.tsv",
            "QQP.tsv",
            "STS-B.tsv",
            "MNLI-m.tsv",
            "MNLI-mm.tsv",
            "QNLI.tsv",
            "RTE.tsv",
            "WNLI.tsv",
            "AX.tsv",
        ]
    )
