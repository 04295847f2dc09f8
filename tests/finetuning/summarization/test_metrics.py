"""ROUGE against torchmetrics; sentences by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from torchmetrics.functional.text.rouge import rouge_score as rouge_of_torchmetrics

from nip.finetuning.summarization.metrics import rouge, sentence_lines

words = st.lists(st.sampled_from(["the", "Cat", "cats", "sat", "on", "mat", "3", "mats."]), min_size=1, max_size=8)
pairs = st.lists(st.tuples(words.map(" ".join), words.map(" ".join)), min_size=1, max_size=3)


@settings(max_examples=30)
@given(pairs)
def test_rouge_equals_torchmetrics(pairs):
    made, right = map(list, zip(*pairs, strict=True))
    ours = rouge(made, right, stem=False)
    theirs = rouge_of_torchmetrics(made, right, rouge_keys=("rouge1", "rouge2", "rougeL"))
    for kind in ("rouge1", "rouge2", "rougeL"):
        assert ours[kind] == pytest.approx(100 * float(theirs[f"{kind}_fmeasure"]), abs=1e-3)


def test_rouge_lsum_splits_sentences():
    made, right = "It rains here. The sun sets.", "The sun sets. It rains here."
    scores = rouge([made], [right])
    assert scores["rougeLsum"] == 100.0
    assert scores["rougeL"] == 50.0  # the longest common subsequence of two orders
    lines = RougeScorer(["rougeLsum"], use_stemmer=True).score(*(t.replace(". ", ".\n") for t in (right, made)))
    assert scores["rougeLsum"] == 100 * lines["rougeLsum"].fmeasure


def test_stemming():
    assert rouge(["cats sitting"], ["cat sits"])["rouge1"] == 100.0
    assert rouge(["cats sitting"], ["cat sits"], stem=False)["rouge1"] == 0.0


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ('He said "no." Then he left.', ['He said "no."', "Then he left."]),
        ("It cost 3.5 e.g. for two.", ["It cost 3.5 e.g. for two."]),
        ("first line\n\n second. Same line \n", ["first line", "second. Same line"]),
        ("", []),
    ],
)
def test_sentences(text, lines):
    assert sentence_lines(text).splitlines() == lines


def test_an_empty_prediction_scores_zero():
    assert set(rouge([""], ["cat"]).values()) == {0.0}


def test_invalid_input_raises():
    with pytest.raises(ValueError, match="Got 0 predictions and 0 references"):
        rouge([], [])
    with pytest.raises(ValueError, match="Got 1 predictions and 2 references"):
        rouge(["a"], ["a", "b"])
