"""`nip qa` from the command line to its files, with a small BERT and small datasets in SQuAD's format."""

import json
import random

import datasets
import pytest
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

import nip
from finetuning_files import write_model
from nip.cli import main
from nip.finetuning.qa.metrics import score_v1, score_v2
from nip.runs.record import find_records

NAMES, PLACES = ("ann", "bob", "cid", "dan"), ("town", "wood", "lake", "hill", "cave")
WORDS = [*NAMES, *PLACES, "is", "in", "the", "where", "?", "."]


def question(drawn, number, negative):
    facts = [(name, drawn.choice(PLACES)) for name in drawn.sample(NAMES, 3)]
    context = " ".join(f"{name} is in the {place} ." for name, place in facts)
    about, place = drawn.choice(facts)
    if negative and drawn.random() < 0.4:
        about = next(name for name in NAMES if name not in dict(facts))
        answers = []
    else:
        start = context.index(f"{about} is in the ") + len(f"{about} is in the ")
        answers = [{"text": place, "answer_start": start}, {"text": f"the {place}", "answer_start": start - 4}]
    asked = {"id": f"q{number}", "question": f"where is {about} ?", "answers": answers, "is_impossible": not answers}
    return {"context": context, "qas": [asked]}


def write_squad(path, n, *, seed=0, negative=False):
    drawn = random.Random(seed)
    paragraphs = [question(drawn, number, negative) for number in range(n)]
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "places", "paragraphs": paragraphs}]}))
    return path


def right_answers(path):
    paragraphs = json.loads(path.read_text())["data"][0]["paragraphs"]
    return {qa["id"]: [each["text"] for each in qa["answers"]] for paragraph in paragraphs for qa in paragraph["qas"]}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qa")
    write_model(folder / "model", words=WORDS, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    write_squad(folder / "train.json", 40, seed=1)
    write_squad(folder / "dev.json", 12, seed=2)
    write_squad(folder / "dev2.json", 12, seed=3, negative=True)
    return folder


@pytest.fixture
def qa(capsys, files, tmp_path):
    """Run the command in-process: (exit code, standard output, standard error, output folder)."""

    def run(*words, model=files / "model", out=tmp_path / "out"):
        fixed = ["--model_name_or_path", model, "--output_dir", out, "--max_seq_length", 20, "--doc_stride", 4]
        with pytest.raises(SystemExit) as ended:
            main(["qa", *map(str, [*fixed, "--block_size", 4, *words])])
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err, out

    return run


def read(path):
    return json.loads(path.read_text())


def test_train_evaluate_predict(qa, files, tmp_path, bars):
    words = ("--train_file", files / "train.json", "--validation_file", files / "dev.json", "--num_train_epochs", 2)
    more = ("--evaluation_strategy", "epoch", "--save_strategy", "epoch", "--metric_for_best_model", "f1", "--json")
    predict = ("--do_predict", "--test_file", files / "dev.json")
    code, said, err, out = qa(*words, *more, "--do_train", "--do_eval", *predict, "--learning_rate", 1e-2)
    assert code == 0 and "--evaluation_strategy is now --eval_strategy" in err
    assert not bars.search(err), "no bars where standard error is no terminal"
    result = json.loads(said)
    assert result == read(out / "result.json")
    predictions, nbest = read(out / "predictions.json"), read(out / "nbest_predictions.json")
    expected = score_v1(predictions, right_answers(files / "dev.json"))
    assert {name: result["metrics"][name] for name in expected} == expected
    assert result["metric"] == "f1" and result["n_test"] == 12
    assert (
        find_records([out])[0].result.test_accuracy == result["score"] == expected["f1"] / 100
    )  # what nip report shows
    assert all(entries[0]["text"] == predictions[name] and len(entries) <= 20 for name, entries in nbest.items())
    assert all(sum(entry["probability"] for entry in entries) == pytest.approx(1) for entries in nbest.values())
    assert read(out / "predict_predictions.json") == predictions  # the same questions, without their answers
    assert not (out / "null_odds.json").exists()
    assert {row["split"] for row in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())} == {
        "train",
        "dev",
    }

    model = nip.from_pretrained(out, AutoModelForQuestionAnswering)  # by hand: one question in one window
    assert model.config.nip["default"] == {"pattern": "hypercube", "block_size": 4, "parameters": {}}
    tokenizer = AutoTokenizer.from_pretrained(out)
    paragraph = read(files / "dev.json")["data"][0]["paragraphs"][0]
    (asked,) = paragraph["qas"]
    code, _, _, wide = qa("--validation_file", files / "dev.json", "--do_eval", "--max_seq_length", 32,
                          model=out, out=tmp_path / "wide")  # fmt: skip
    inputs = tokenizer(
        asked["question"], paragraph["context"], return_tensors="pt", padding="max_length", max_length=32
    )
    with torch.no_grad():
        scores = model.eval()(**inputs)
    spans = [
        (float(scores.start_logits[0, i] + scores.end_logits[0, j]), i, j)
        for i in range(32)
        for j in range(i, min(i + 30, 32))
        if inputs.sequence_ids(0)[i] == inputs.sequence_ids(0)[j] == 1
    ]
    _, i, j = max(spans)
    text = paragraph["context"][inputs.token_to_chars(0, i).start : inputs.token_to_chars(0, j).end]
    assert code == 0 and read(wide / "predictions.json")[asked["id"]] == text


def test_unanswerable_questions(qa, files):
    words = ("--validation_file", files / "dev2.json", "--version_2_with_negative", "--do_eval", "--json")
    code, said, _, out = qa(*words)
    assert code == 0
    metrics, odds, predictions = (
        json.loads(said)["metrics"],
        read(out / "null_odds.json"),
        read(out / "predictions.json"),
    )
    right = right_answers(files / "dev2.json")
    assert metrics["exact"] == score_v2(predictions, right)["exact"]
    assert metrics["HasAns_total"] + metrics["NoAns_total"] == metrics["total"] == 12
    assert all((predictions[name] == "") == (value > 0) for name, value in odds.items())
    code, said, _, out = qa(*words, "--null_score_diff_threshold", metrics["best_exact_thresh"])
    assert code == 0 and json.loads(said)["metrics"]["exact"] == pytest.approx(metrics["best_exact"])
    code, *_ = qa(*words, "--null_score_diff_threshold", max(odds.values()) + 1)
    assert code == 0 and all(read(out / "predictions.json").values())


def test_a_dataset_of_the_hub(qa, files, monkeypatch):
    asked = []

    def load(name, config=None, **more):
        asked.append((name, config))
        answers = datasets.Features(
            {"text": datasets.List(datasets.Value("string")), "answer_start": datasets.List(datasets.Value("int32"))}
        )
        features = {name: datasets.Value("string") for name in ("id", "title", "context", "question")}
        rows = []
        for paragraph in read(files / "dev.json")["data"][0]["paragraphs"]:
            qa = paragraph["qas"][0]
            found = {key: [each[key] for each in qa["answers"]] for key in ("text", "answer_start")}
            rows.append(
                {
                    "id": qa["id"],
                    "title": "x",
                    "context": paragraph["context"],
                    "question": qa["question"],
                    "answers": found,
                }
            )
        made = datasets.Dataset.from_list(rows, features=datasets.Features({**features, "answers": answers}))
        return datasets.DatasetDict({"train": made, "validation": made})

    code, said, _, _ = qa("--validation_file", files / "dev.json", "--do_eval", "--json")
    monkeypatch.setattr(datasets, "load_dataset", load)
    code, again, _, _ = qa("--dataset_name", "squad", "--do_eval", "--json")
    assert code == 0 and asked == [("squad", None)]
    assert json.loads(again)["metrics"] == json.loads(said)["metrics"]
    code, _, err, _ = qa("--dataset_name", "squad", "--do_predict")
    assert code == 2 and "The dataset squad has no test split. It has train, validation." in err


def test_a_stopped_run_resumes(qa, files, tmp_path, monkeypatch):
    words = (
        "--train_file",
        files / "train.json",
        "--do_train",
        "--max_steps",
        6,
        "--save_steps",
        3,
        "--learning_rate",
        1e-2,
    )
    assert qa(*words, out=tmp_path / "full")[0] == 0
    from nip.finetuning.recorder import RecordedTrainer

    real = RecordedTrainer.training_step

    def stop(self, *arguments, **named):
        if self.state.global_step == 4:
            raise OSError("the plug is pulled")
        return real(self, *arguments, **named)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RecordedTrainer, "training_step", stop)
        assert qa(*words)[0] == 2
    code, _, err, out = qa(*words)
    assert code == 0 and "resuming from" in err
    one, other = (AutoModelForQuestionAnswering.from_pretrained(folder) for folder in (tmp_path / "full", out))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--do_eval",), "Name the data: --dataset_name squad, or --train_file and --validation_file."),
        (("--do_train", "--validation_file", "dev.json"), "--do_train needs --train_file."),
        (("--do_eval", "--validation_file", "none.json"), "none.json"),
        (("--do_train", "--train_file", "train.json", "--label_smoothing_factor", "0.1"), "is not for nip qa"),
        (("--do_eval", "--validation_file", "dev2.json"), "If that is intended, add --version_2_with_negative."),
        (("--do_eval", "--validation_file", "dev.json", "--dataset_name", "squad"), "Give --dataset_name or files"),
        (("--do_eval", "--validation_file", "dev.json", "--doc_stride", "20"), "must be below --max_seq_length 20"),
        (("--do_eval", "--validation_file", "dev.json", "--doc_stride", "14"), "--max_seq_length 20 has no space"),
        (("--do_eval", "--validation_file", "dev.json", "--max_seq_length", "99"), "give --extend_positions reflect"),
        (("--do_eval", "--validation_file", "dev.json", "--n_best_size", "0"), "--n_best_size must be an integer"),
        (("--do_eval", "--validation_file", "dev.json", "--null_score_diff_threshold", "1"), "--version_2_with"),
        (("--do_train", "--train_file", "train.json", "--metric_for_best_model", "exact", "--eval_strategy", "epoch",
          "--validation_file", "dev.json", "--save_strategy", "epoch"), "squad: it has loss, exact_match, f1"),
    ],
)  # fmt: skip
def test_errors(qa, files, monkeypatch, words, says, tmp_path):
    monkeypatch.chdir(files)
    code, said, err, _ = qa(*words)
    assert (code, said) == (2, "")
    assert says in err.strip().splitlines()[-1]
    assert "Traceback" not in err
