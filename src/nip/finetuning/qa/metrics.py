"""Exact match and F1 as in SQuAD's official evaluation scripts, in percent."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(text: str) -> str:
    """Lower-case the text and remove punctuation, English articles and extra spaces.

    Examples
    --------
    >>> normalize("The  White-House!")
    'whitehouse'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, reference: str) -> float:
    """1.0 if both are the same after `normalize`, else 0.0."""
    return float(normalize(prediction) == normalize(reference))


def token_f1(prediction: str, reference: str) -> float:
    """F1 of the words after `normalize`, counted with multiplicity.

    Examples
    --------
    >>> round(token_f1("in the old town", "old town"), 3)
    0.8
    """
    predicted, correct = normalize(prediction).split(), normalize(reference).split()
    shared = (Counter(predicted) & Counter(correct)).total()
    return 2 * shared / (len(predicted) + len(correct)) if shared else 0.0


def score_v1(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Mean exact match and F1 of SQuAD 1.1, where every question has an answer.

    Parameters
    ----------
    predictions : mapping of str to str
        Answer by question id.
    references : mapping of str to sequence of str
        The correct answers by question id, at least one each; the best match counts.

    Returns
    -------
    dict
        ``exact_match`` and ``f1``, 0 to 100, and ``total``, the number of questions.

    Raises
    ------
    ValueError
        If there are no questions, or one has no prediction.

    References
    ----------
    .. [1] Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text", 2016, section 6.1.

    Examples
    --------
    >>> score_v1({"q": "the old town"}, {"q": ["town", "Old Town"]})
    {'exact_match': 100.0, 'f1': 100.0, 'total': 1}
    """
    _check_complete(predictions, references)
    exact = [max(exact_match(predictions[name], right) for right in rights) for name, rights in references.items()]
    f1 = [max(token_f1(predictions[name], right) for right in rights) for name, rights in references.items()]
    return {"exact_match": _percent(exact), "f1": _percent(f1), "total": len(references)}


def score_v2(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    null_odds: Mapping[str, float] | None = None,
) -> dict[str, float]:
    """Mean exact match and F1 of SQuAD 2.0, where a question may have no answer and the prediction be empty.

    Parameters
    ----------
    predictions : mapping of str to str
        Answer by question id, empty for none.
    references : mapping of str to sequence of str
        The correct answers by question id, empty if there is none.
    null_odds : mapping of str to float, optional
        Score of "no answer" minus that of the best answer, by question id. If given, the best thresholds on it are
        computed; the predictions must then be the best answers, not empty.

    Returns
    -------
    dict
        ``exact``, ``f1``, ``total``; the same with the prefixes ``HasAns_`` and ``NoAns_`` for questions with and
        without an answer; with `null_odds` also ``best_exact``, ``best_exact_thresh``, ``best_f1``, ``best_f1_thresh``.

    Raises
    ------
    ValueError
        If there are no questions, or one has no prediction.

    References
    ----------
    .. [1] Rajpurkar et al., "Know What You Don't Know: Unanswerable Questions for SQuAD", 2018.

    Examples
    --------
    >>> score_v2({"q": "town", "none": "town"}, {"q": ["Town"], "none": []})["exact"]
    50.0
    """
    _check_complete(predictions, references)
    names = list(references)
    # As in the official evaluation, a question has an answer if one is given; but a correct answer of articles and
    # punctuation only matches empty predictions alone.
    rights = [[right for right in references[name] if normalize(right)] for name in names]
    has = np.array([bool(references[name]) for name in names])
    exact, f1 = (
        np.array(
            [
                max(measure(predictions[name], right) for right in found) if found else _empty(predictions[name])
                for name, found in zip(names, rights, strict=True)
            ]
        )
        for measure in (exact_match, token_f1)
    )
    scores: dict[str, float] = {"exact": _percent(exact), "f1": _percent(f1), "total": len(names)}
    for kind, chosen in (("HasAns", has), ("NoAns", ~has)):
        if chosen.any():
            scores |= {f"{kind}_exact": _percent(exact[chosen]), f"{kind}_f1": _percent(f1[chosen])}
            scores[f"{kind}_total"] = int(chosen.sum())
    if null_odds is not None:
        odds = np.array([null_odds[name] for name in names])
        empty = np.array([not predictions[name] for name in names])  # not normalized: "a" is a prediction
        for name, values in (("exact", exact), ("f1", f1)):
            kept = np.where(has, values, empty)
            scores[f"best_{name}"], scores[f"best_{name}_thresh"] = best_threshold(odds, kept, has)
    return scores


def best_threshold(odds: np.ndarray, values: np.ndarray, has_answer: np.ndarray) -> tuple[float, float]:
    """The threshold on `odds` above which empty predictions give the best mean score.

    Parameters
    ----------
    odds : ndarray of shape (n_questions,)
        The higher, the more likely a question has no answer.
    values : ndarray of shape (n_questions,)
        Scores of the predictions in [0, 1], if they are not empty.
    has_answer : ndarray of bool of shape (n_questions,)
        An empty prediction scores 0 if the question has an answer, else 1.

    Returns
    -------
    best : float
        The best mean score in percent.
    threshold : float
        The smallest of `odds` that reaches it; below all of them if empty predictions are best throughout.

    Notes
    -----
    O(n log n): in the order of the odds, each prediction adds its score and subtracts that of an empty one.

    Examples
    --------
    >>> best_threshold(np.array([-2.0, 1.0, 3.0]), np.array([1.0, 1.0, 0.0]), np.array([True, True, False]))
    (100.0, 1.0)
    """
    order = np.argsort(odds, kind="stable")
    gained = np.cumsum(values[order] - ~has_answer[order])
    # predictions of equal odds are kept or emptied together
    last = np.append(np.diff(odds[order]) > 0, True)
    totals = np.concatenate([[0.0], gained[last]]) + (~has_answer).sum()
    thresholds = np.concatenate([[odds.min() - 1.0], odds[order][last]])
    best = int(totals.argmax())
    return float(100 * totals[best] / len(odds)), float(thresholds[best])


def _empty(prediction: str) -> float:
    return float(not normalize(prediction))


def _percent(values: Sequence[float] | np.ndarray) -> float:
    return float(100 * np.mean(values))


def _check_complete(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> None:
    if not references:
        raise ValueError("There are no questions to score.")
    missing = [name for name in references if name not in predictions]
    if missing:
        raise ValueError(f"{len(missing)} of {len(references)} questions have no prediction, first {missing[0]!r}.")
