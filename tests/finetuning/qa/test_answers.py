"""Answers against a plain search of all spans."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nip.finetuning.qa.answers import AnswerRules, find_answers

CONTEXT = "ab cd ef gh ij kl mn"
TOKENS = [(3 * word, 3 * word + 2) for word in range(7)]


def window(first, words, null=0, name="q"):
    """Words of the context, the first of them being token `first`."""
    return {
        "example_id": name,
        "first": first,
        "last": first + len(words) - 1,
        "offsets": [TOKENS[word] for word in words],
        "null": null,
    }


@st.composite
def problems(draw):
    rules = AnswerRules(
        n_best_size=draw(st.integers(1, 8)),
        max_answer_length=draw(st.integers(1, 9)),
        version_2_with_negative=(negative := draw(st.booleans())),
        null_score_diff_threshold=draw(st.sampled_from([0.0, 1.0, -1.0])) if negative else 0.0,
    )
    windows = []
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, 6))
        windows.append(window(draw(st.integers(1, 3)), range(begin, draw(st.integers(begin, 6)) + 1)))
    scores = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).normal(size=(2, len(windows), 12)) * 3
    return rules, windows, scores


def all_spans(rules, windows, scores):
    """(score, text) of every span of every window, best first; the least score of no answer."""
    spans = []
    for index, one in enumerate(windows):
        for i in range(one["first"], one["last"] + 1):
            for j in range(i, one["last"] + 1):
                if j - i + 1 <= rules.max_answer_length:
                    begin, end = one["offsets"][i - one["first"]][0], one["offsets"][j - one["first"]][1]
                    spans.append((scores[0, index, i] + scores[1, index, j], CONTEXT[begin:end]))
    null = min(scores[0, index, one["null"]] + scores[1, index, one["null"]] for index, one in enumerate(windows))
    return sorted(spans, reverse=True), null


@given(problems())
def test_every_span_is_considered(problem):
    rules, windows, scores = problem
    found = find_answers([{"id": "q", "context": CONTEXT}], windows, scores[0], scores[1], rules)
    spans, null = all_spans(rules, windows, scores)
    best = spans[0]
    assert found.best == {"q": best[1]}
    listed = spans[: rules.n_best_size]
    if rules.version_2_with_negative:
        assert found.null_odds["q"] == pytest.approx(null - best[0])
        assert found.predictions["q"] == ("" if null - best[0] > rules.null_score_diff_threshold else best[1])
        listed = sorted([*listed, (null, "")], reverse=True)
        if listed[-1] != (null, ""):
            listed = listed[: rules.n_best_size]
    else:
        assert found.null_odds == {}
        assert found.predictions == found.best
    total = sum(math.exp(score) for score, _ in listed)
    ours = found.nbest["q"]
    assert [entry["text"] for entry in ours] == [text for _, text in listed]
    assert [entry["probability"] for entry in ours] == pytest.approx([math.exp(score) / total for score, _ in listed])
    assert [entry["start_logit"] + entry["end_logit"] for entry in ours] == pytest.approx([s for s, _ in listed])


def test_windows_in_any_order():
    scores = np.zeros((2, 3, 5))
    scores[:, 0, 1] = 1  # b: first word
    scores[:, 1, 2] = 1  # a: second word
    scores[:, 2, 1] = 2  # b again, better: third word
    windows = [window(1, [0, 1], name="b"), window(1, [0, 1], name="a"), window(1, [2, 3], name="b")]
    examples = [{"id": name, "context": CONTEXT} for name in "ab"]
    assert find_answers(examples, windows, *scores).predictions == {"a": "cd", "b": "ef"}


def test_the_score_of_no_answer_is_the_minimum_over_windows():
    scores = np.full((2, 2, 4), -9.0)
    scores[:, 0, 0] = 5  # this window holds no answer, and says so
    scores[:, 1, 0] = 1
    scores[:, 1, 2] = 2
    rules = AnswerRules(version_2_with_negative=True)
    found = find_answers([{"id": "q", "context": CONTEXT}], [window(1, [0, 1]), window(1, [2, 3])], *scores, rules)
    assert found.predictions == {"q": "gh"}
    assert found.null_odds == {"q": pytest.approx(-2.0)}


def test_logits_of_padding_are_ignored():
    scores = np.zeros((2, 1, 6))
    scores[:, 0, 4:] = 50.0
    assert find_answers([{"id": "q", "context": CONTEXT}], [window(1, [3])], *scores).predictions == {"q": "gh"}


def test_a_context_without_tokens_has_the_empty_answer():
    nothing = {"example_id": "q", "first": 0, "last": -1, "offsets": [], "null": 0}
    found = find_answers([{"id": "q", "context": ""}], [nothing], *np.zeros((2, 1, 3)))
    assert found.predictions == {"q": ""}
    assert found.nbest["q"][0]["probability"] == 1.0


def test_invalid_input_raises():
    with pytest.raises(ValueError, match=r"--n_best_size must be an integer of at least 1\. Got 0 instead\."):
        AnswerRules(n_best_size=0)
    with pytest.raises(ValueError, match="needs --version_2_with_negative"):
        AnswerRules(null_score_diff_threshold=1.0)
    with pytest.raises(ValueError, match="There are 1 windows, and logits of 2 and 2"):
        find_answers([], [window(1, [0])], *np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match="question 'q' contain NaN or Inf"):
        find_answers([{"id": "q", "context": CONTEXT}], [window(1, [0])], *np.full((2, 1, 3), np.nan))
