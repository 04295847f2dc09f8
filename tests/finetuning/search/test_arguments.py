"""The command line of a search."""

import pytest

from nip.finetuning.search.arguments import read_search
from nip.finetuning.search.space import FULL, SMALL

MODEL = ("--model_name_or_path", "model")


def words_of(search, flag):
    return search.argv[search.argv.index(flag) + 1]


def test_the_papers_search(tmp_path):
    search = read_search(["glue", *MODEL, "--task_name", "mrpc", "--output_dir", str(tmp_path)])
    assert (search.command, search.space, search.sampler, search.trials) == ("glue", FULL, "tpe", 30)
    assert (search.metric, search.direction, search.study) == ("accuracy", "maximize", "glue-mrpc")
    assert search.storage == f"sqlite:///{tmp_path / 'search.db'}"
    assert words_of(search, "--early_stopping_patience") == "3"
    assert (
        words_of(search, "--metric_for_best_model") == "accuracy" and words_of(search, "--greater_is_better") == "true"
    )
    assert {"--do_train", "--do_eval"} <= set(search.argv)


def test_tasks_and_their_metrics(tmp_path):
    to = ("--output_dir", str(tmp_path))
    large = read_search([*MODEL, "--task_name", "qqp", "--sampler", "grid", *to])  # glue unless named
    assert (large.space, large.trials, large.metric) == (
        SMALL,
        None,
        "accuracy" if large.metric == "accuracy" else "f1",
    )
    qa = read_search(["qa", *MODEL, "--dataset_name", "squad", *to])
    assert (qa.metric, qa.trials, qa.space) == ("f1", 8, SMALL)
    mlm = read_search(
        ["mlm", *MODEL, "--train_file", "a.txt", "--validation_file", "b.txt", "--metric", "perplexity", *to]
    )
    assert (mlm.metric, mlm.direction) == ("perplexity", "minimize")
    made = ["summarization", *MODEL, "--dataset_name", "xsum", *to]
    assert read_search(made).metric == "loss" and read_search(made).direction == "minimize"
    assert read_search([*made, "--predict_with_generate"]).metric == "rougeL"


def test_given_flags_are_kept(tmp_path):
    given = ["--evaluation_strategy", "steps", "--eval_steps", "200", "--patience", "0", "--seed=7"]
    search = read_search([*MODEL, "--task_name", "rte", *given, "--output-dir", str(tmp_path), "--workers", "3"])
    assert "--early_stopping_patience" not in search.argv and "--eval_strategy" not in search.argv
    assert words_of(search, "--save_strategy") == "steps" and words_of(search, "--save_steps") == "200"
    assert (search.seed, search.workers, search.folder) == (7, 3, tmp_path.resolve())
    share = ["--eval_strategy", "steps", "--eval_steps", "0.1"]
    search = read_search([*MODEL, "--task_name", "rte", *share, "--output-dir", str(tmp_path)])
    assert words_of(search, "--save_steps") == "0.1"


def test_the_originals_objective(tmp_path):
    to = ("--output_dir", str(tmp_path))
    search = read_search([*MODEL, "--task_name", "mrpc", "--objective", "sum", *to])
    assert (search.metric, search.direction) == ("sum", "maximize")
    for flag in ("--eval_steps", "--save_steps"):
        assert words_of(search, flag) == "200"
    assert words_of(search, "--eval_strategy") == words_of(search, "--save_strategy") == "steps"
    assert words_of(search, "--metric_for_best_model") == "accuracy"  # early stopping watches it
    plain = read_search([*MODEL, "--task_name", "mrpc", *to])
    assert plain.described() == read_search([*MODEL, "--task_name", "mrpc", "--objective", "metric", *to]).described()
    assert plain.described() != search.described()  # another search: the study is not shared
    given = read_search([*MODEL, "--task_name", "rte", "--objective=sum", "--eval_strategy", "epoch", *to])
    assert "--eval_steps" not in given.argv and words_of(given, "--save_strategy") == "epoch"
    given = read_search([*MODEL, "--task_name", "rte", "--objective=sum", "--eval_steps", "50", *to])
    assert words_of(given, "--eval_steps") == words_of(given, "--save_steps") == "50"
    assert given.argv.count("--eval_steps") == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--task_name", "mrpc", "--objective", "sum", "--metric", "f1"], "maximized as it is. Leave --metric f1 out"),
        (["--task_name", "mrpc", "--objective", "sum", "--direction", "minimize"], "Leave --direction minimize out"),
        (["qa", "--dataset_name", "squad", "--objective", "sum"], "metrics of a GLUE task; nip hpo qa takes --metric"),
        (["--task_name", "mrpc", "--objective", "product"], "invalid choice: 'product'"),
        (["cook"], "no command 'cook' to search for. The commands are glue, mlm, qa, summarization"),
        (["glue", "--task_name", "chess"], "chess"),
        (["--task_name", "rte", "--trials", "0"], "--trials must be an integer of at least 1. Got 0"),
        (["--task_name", "rte", "--trials", "x"], "invalid int value: 'x'"),
        (["--task_name", "rte", "--sampler", "best"], "invalid choice: 'best'"),
        (["--task_name", "rte", "--learning_rat", "1"], "There is no flag --learning_rat"),
        (["--task_name", "rte", "--learning_rate", "1e-5"], "--learning_rate is searched, so that it cannot be given"),
        (["--task_name", "rte", "--warmup_ratio", "0.1"], "--warmup_ratio is searched"),
        (["--task_name", "rte", "--metric", "f1", "--metric_for_best_model", "accuracy"], "f1 .* accuracy contradict"),
        (["--task_name", "rte", "--eval_strategy", "no"], "needs evaluations while training"),
        (["--task_name", "rte", "--attention", "hypercub"], "hypercub"),
        (["qa"], "Name the data"),
    ],
)
def test_errors_before_any_trial(words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=says):
        read_search([*words, *MODEL])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("flag", "says"), [("--study", "--study takes a name"), ("--storage", "--storage takes")])
def test_an_empty_name_is_refused(tmp_path, flag, says):
    with pytest.raises(ValueError, match=says):
        read_search(["glue", *MODEL, "--task_name", "mrpc", "--output_dir", str(tmp_path / "out"), flag, ""])
    assert not (tmp_path / "out").exists()
