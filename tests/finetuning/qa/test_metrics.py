"""Exact match and F1 against torchmetrics, the threshold against exhaustive search."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.text import squad as squad_of_torchmetrics

from nip.finetuning.qa.metrics import best_threshold, normalize, score_v1, score_v2, token_f1

words = st.lists(st.sampled_from(["the", "a", "Town", "town,", "old", "in", "sea", "1070.", "it's", "—"]), max_size=5)
texts = words.map(" ".join)
rights = st.lists(texts.filter(normalize), min_size=1, max_size=3)  # of the empty answer torchmetrics thinks otherwise
answered = st.dictionaries(st.sampled_from("uvwxyz"), st.tuples(texts, rights), min_size=1)


@given(answered)
def test_version_1_equals_torchmetrics(questions):
    ours = score_v1(
        {name: said for name, (said, _) in questions.items()}, {n: right for n, (_, right) in questions.items()}
    )
    theirs = squad_of_torchmetrics(
        [{"id": name, "prediction_text": said} for name, (said, _) in questions.items()],
        [
            {"id": name, "answers": {"text": right, "answer_start": [0] * len(right)}}
            for name, (_, right) in questions.items()
        ],
    )
    assert ours["exact_match"] == pytest.approx(float(theirs["exact_match"]), abs=1e-3)
    assert ours["f1"] == pytest.approx(float(theirs["f1"]), abs=1e-3)
    assert ours["total"] == len(questions)


def test_words_are_counted_with_multiplicity():
    assert token_f1("sea sea", "sea") == pytest.approx(2 / 3)
    assert token_f1("the", "a") == 0.0  # no word is left of either
    assert normalize(" The U.S. of  A ") == "us of"


def test_version_2_by_hand():
    predictions = {"right": "old town", "half": "old town", "said none": "", "none": "", "made up": "sea"}
    references = {
        "right": ["Town", "the old town"],
        "half": ["town"],
        "said none": ["sea"],
        "none": [],
        "made up": ["the"],
    }
    scores = score_v2(predictions, references)
    assert scores["exact"] == pytest.approx(100 * (1 + 0 + 0 + 1 + 0) / 5)
    assert scores["f1"] == pytest.approx(100 * (1 + 2 / 3 + 0 + 1 + 0) / 5)
    assert (scores["HasAns_total"], scores["NoAns_total"]) == (4, 1)  # "the" alone is an answer, which no word matches
    assert scores["HasAns_f1"] == pytest.approx(100 * (1 + 2 / 3) / 4)
    assert scores["NoAns_exact"] == scores["NoAns_f1"] == 100.0


@given(answered, st.sets(st.sampled_from("uvwxyz")), st.data())
def test_best_thresholds_equal_exhaustive_search(questions, unanswerable, data):
    predictions = {name: said or "x" for name, (said, _) in questions.items()}
    references = {name: [] if name in unanswerable else right for name, (_, right) in questions.items()}
    odds = {name: float(data.draw(st.integers(-2, 2))) for name in questions}
    scores = score_v2(predictions, references, odds)
    for measure in ("exact", "f1"):

        def at(threshold, measure=measure):
            emptied = {name: "" if odds[name] > threshold else said for name, said in predictions.items()}
            return score_v2(emptied, references)[measure]

        tried = [at(threshold) for threshold in (-9.0, *odds.values())]
        kept_of_none = [name for name, said in predictions.items() if not normalize(said)]
        if not kept_of_none:  # otherwise a prediction that is nothing once normalized is right where there is no answer
            assert scores[f"best_{measure}"] == pytest.approx(max(tried))
            assert at(scores[f"best_{measure}_thresh"]) == pytest.approx(max(tried))


def test_best_threshold_keeps_equal_odds_together():
    best, threshold = best_threshold(np.array([1.0, 1.0]), np.array([1.0, 0.0]), np.array([True, False]))
    assert best == 50.0
    assert threshold in (0.0, 1.0)


def test_missing_predictions_raise():
    with pytest.raises(ValueError, match="no questions"):
        score_v1({}, {})
    with pytest.raises(ValueError, match=r"1 of 2 questions have no prediction, first 'b'\."):
        score_v2({"a": ""}, {"a": [], "b": []})


def official(predictions, gold, odds):
    """What the published evaluation script of SQuAD 2.0 computes, step by step as it does."""
    has = {name: bool(answers) for name, answers in gold.items()}
    exact = {}
    for name, answers in gold.items():
        left = [answer for answer in answers if normalize(answer)] or [""]
        exact[name] = max(int(normalize(predictions[name]) == normalize(answer)) for answer in left)
    best = current = sum(not each for each in has.values())
    for name in sorted(odds, key=odds.get):
        current += exact[name] if has[name] else (-1 if predictions[name] else 0)
        best = max(best, current)
    by_kind = {kind: [exact[name] for name in gold if has[name] == kind] for kind in (True, False)}
    return {
        "exact": 100 * sum(exact.values()) / len(exact),
        "HasAns_total": len(by_kind[True]),
        "NoAns_total": len(by_kind[False]),
        "best_exact": 100 * best / len(gold),
    }


ARTICLES = st.sampled_from(["The", "a", "an the", "town", "The town", "", "!", "A"])


@given(st.lists(st.tuples(ARTICLES, st.lists(ARTICLES.filter(bool), max_size=2)), min_size=1, max_size=6))
def test_answers_and_predictions_of_articles_count_as_in_the_official_evaluation(questions):
    predictions = {str(number): said for number, (said, _) in enumerate(questions)}
    gold = {str(number): right for number, (_, right) in enumerate(questions)}
    odds = {name: float(number) for number, name in enumerate(gold)}
    expected, ours = official(predictions, gold, odds), score_v2(predictions, gold, odds)
    for name, value in expected.items():
        assert ours.get(name, 0) == pytest.approx(value), name


def test_an_answer_of_an_article_is_an_answer():
    scores = score_v2({"q": "The"}, {"q": ["The"]})
    assert (scores["HasAns_total"], "NoAns_total" in scores) == (1, False)
    assert score_v2({"q": "a"}, {"q": []}, {"q": 1.0})["best_exact"] == 100.0
    assert score_v2({"q": "a", "p": "x"}, {"q": [], "p": ["x"]}, {"q": 0.0, "p": 1.0})["best_exact"] == 50.0
