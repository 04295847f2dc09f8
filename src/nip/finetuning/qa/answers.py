"""Answers from start and end logits: the best spans over all windows of a context."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class AnswerRules:
    """What counts as an answer.

    Parameters
    ----------
    n_best_size : int, default=20
        Number of answers that are kept per question.
    max_answer_length : int, default=30
        Tokens of the longest answer.
    version_2_with_negative : bool, default=False
        Whether a question may have no answer; the prediction is then empty.
    null_score_diff_threshold : float, default=0.0
        A question has no answer if the score of "no answer" exceeds that of the best span by more than this.

    Raises
    ------
    ValueError
        If a number is below 1, or a threshold is given although every question has an answer.
    """

    n_best_size: int = 20
    max_answer_length: int = 30
    version_2_with_negative: bool = False
    null_score_diff_threshold: float = 0.0

    def __post_init__(self) -> None:
        for name in ("n_best_size", "max_answer_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be an integer of at least 1. Got {getattr(self, name)} instead.")
        if self.null_score_diff_threshold and not self.version_2_with_negative:
            raise ValueError(
                "--null_score_diff_threshold decides between an answer and none: it needs --version_2_with_negative."
            )


@dataclass(frozen=True)
class Answers:
    """The answers to a set of questions, by question id.

    Parameters
    ----------
    predictions : dict of str to str
        The answer; empty for none.
    nbest : dict of str to list of dict
        The best answers, best first: ``text``, ``probability`` among them, ``start_logit``, ``end_logit``.
    best : dict of str to str
        The best answer that is not empty, regardless of the threshold.
    null_odds : dict of str to float
        Score of "no answer" minus that of the best span; empty if every question has an answer.
    """

    predictions: dict[str, str]
    nbest: dict[str, list[dict[str, Any]]]
    best: dict[str, str]
    null_odds: dict[str, float]


def find_answers(
    examples: Iterable[Mapping[str, Any]],
    windows: Sequence[Mapping[str, Any]],
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    rules: AnswerRules = AnswerRules(),
) -> Answers:
    """The best answers to each question, over all windows of its context.

    Parameters
    ----------
    examples : iterable of mapping
        With ``id`` and ``context``.
    windows : sequence of mapping
        As `nip.finetuning.qa.data.tokenize_windows` returns them: ``example_id``; ``first`` and ``last`` context token;
        ``offsets``, the characters of the context tokens; ``null``, the token that stands for "no answer".
    start_logits, end_logits : ndarray of shape (n_windows, n_tokens)
    rules : AnswerRules

    Returns
    -------
    Answers

    Raises
    ------
    ValueError
        If the numbers of windows and logits differ, or logits are NaN or Inf.

    Notes
    -----
    A span's score is its start logit plus its end logit. *Every* span of at most ``max_answer_length`` context tokens
    of a window is scored, in O(n_tokens · max_answer_length); the scripts of transformers consider only those between
    the ``n_best_size`` best start and end tokens. The score of "no answer" is the minimum over the windows of that at
    the ``null`` token.

    Probabilities are the softmax over the kept answers. A context without tokens has the answer "".
    """
    if not len(windows) == len(start_logits) == len(end_logits):
        raise ValueError(
            f"There are {len(windows)} windows, and logits of {len(start_logits)} and {len(end_logits)} windows."
        )
    of_example: dict[str, list[int]] = {}
    for index, window in enumerate(windows):
        of_example.setdefault(window["example_id"], []).append(index)
    found = Answers({}, {}, {}, {})
    for example in examples:
        name, context = example["id"], example["context"]
        spans: list[_Span] = []
        null: _Span | None = None
        for index in of_example.get(name, []):
            window = windows[index]
            length = max(window["last"], window["null"]) + 1
            starts = np.asarray(start_logits[index][:length], dtype=np.float64)
            ends = np.asarray(end_logits[index][:length], dtype=np.float64)
            if not (np.isfinite(starts).all() and np.isfinite(ends).all()):
                raise ValueError(f"The logits for question {name!r} contain NaN or Inf: the model has diverged.")
            here = _Span(float(starts[window["null"]]), float(ends[window["null"]]), 0, 0)
            if null is None or here.score < null.score:
                null = here
            spans += _best_spans(window, starts, ends, rules)
        spans.sort(key=lambda span: -span.score)
        top = next((span for span in spans if span.text(context)), None)
        best = "" if top is None else top.text(context)
        kept = spans[: rules.n_best_size]
        if rules.version_2_with_negative and null is not None:
            kept = sorted([*kept, null], key=lambda span: -span.score)
            if kept[-1] is not null:  # "no answer" always stays in the list
                kept = kept[: rules.n_best_size]
        found.best[name] = found.predictions[name] = best
        found.nbest[name] = _with_probabilities(kept, context)
        if rules.version_2_with_negative:
            odds = (0.0 if null is None else null.score) - (0.0 if top is None else top.score)
            found.null_odds[name] = odds
            if odds > rules.null_score_diff_threshold:
                found.predictions[name] = ""
    return found


@dataclass(frozen=True)
class _Span:
    """Characters `begin` to `end` of a context, with the logits of their first and last token."""

    start_logit: float
    end_logit: float
    begin: int
    end: int

    @property
    def score(self) -> float:
        return self.start_logit + self.end_logit

    def text(self, context: str) -> str:
        return context[self.begin : self.end]


def _best_spans(window: Mapping[str, Any], starts: np.ndarray, ends: np.ndarray, rules: AnswerRules) -> list[_Span]:
    first, last = window["first"], window["last"]
    n = last - first + 1
    if n < 1:
        return []
    starts, ends = starts[first : last + 1], ends[first : last + 1]
    reach = min(rules.max_answer_length, n)
    # scores[i, j]: the span of j + 1 tokens that starts at token i
    padded = np.concatenate([ends, np.full(reach - 1, -np.inf)])
    scores = starts[:, None] + np.lib.stride_tricks.sliding_window_view(padded, reach)
    flat = scores.ravel()
    kept = min(rules.n_best_size, flat.size)
    chosen = np.argpartition(-flat, kept - 1)[:kept]
    chosen = chosen[np.argsort(-flat[chosen], kind="stable")]
    offsets = window["offsets"]
    spans = []
    for place in chosen[np.isfinite(flat[chosen])]:
        i, length = divmod(int(place), reach)
        j = i + length
        spans.append(_Span(float(starts[i]), float(ends[j]), int(offsets[i][0]), int(offsets[j][1])))
    return spans


def _with_probabilities(spans: Sequence[_Span], context: str) -> list[dict[str, Any]]:
    if not spans:
        return [{"text": "", "probability": 1.0, "start_logit": 0.0, "end_logit": 0.0}]
    scores = np.array([span.score for span in spans])
    weights = np.exp(scores - scores.max())
    return [
        {
            "text": span.text(context),
            "probability": float(weight),
            "start_logit": span.start_logit,
            "end_logit": span.end_logit,
        }
        for span, weight in zip(spans, weights / weights.sum(), strict=True)
    ]
