"""ROUGE of summaries, with Google's `rouge_score` and without downloads: sentences are told apart here."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")

# The end of a sentence: its mark, what closes quotations, then space before what begins another.
_END = re.compile(r"(?<=[.!?])([\"')\]”’]*)\s+(?=[\"'(\[“‘]*[A-Z0-9])")


def sentence_lines(text: str) -> str:
    """A sentence a line, as ROUGE-Lsum expects them; lines that are there already are kept as they are.

    Examples
    --------
    >>> sentence_lines("It rains. We stay (in). 3.5 mm fell, i.e. little!")
    'It rains.\\nWe stay (in).\\n3.5 mm fell, i.e. little!'
    >>> sentence_lines("one\\n two. Three")
    'one\\ntwo. Three'
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) == 1:
        lines = _END.sub(r"\1\n", lines[0]).splitlines()
    return "\n".join(lines)


def rouge(predictions: Sequence[str], references: Sequence[str], *, stem: bool = True) -> dict[str, float]:
    """Mean F-measures of ROUGE-1, -2, -L and -Lsum over pairs of summaries, 0 to 100.

    Parameters
    ----------
    predictions, references : sequence of str
        The summary made and the right one, in the same order.
    stem : bool, default=True
        Compare English words without their endings, as is usual.

    Returns
    -------
    dict
        ``rouge1``, ``rouge2``, ``rougeL`` (the text as one sentence), ``rougeLsum`` (by sentence: `sentence_lines`).

    Raises
    ------
    ValueError
        If there are no pairs, or more of one than of the other.

    References
    ----------
    .. [1] Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004.

    Examples
    --------
    >>> rouge(["the cat sat"], ["cats sat"])["rouge1"]
    80.0
    """
    from rouge_score.rouge_scorer import RougeScorer

    if not predictions or len(predictions) != len(references):
        raise ValueError(f"ROUGE compares pairs. Got {len(predictions)} predictions and {len(references)} references.")
    scorer = RougeScorer(KINDS, use_stemmer=stem)
    scores = [
        scorer.score(sentence_lines(right), sentence_lines(made))
        for made, right in zip(predictions, references, strict=True)
    ]
    return {kind: float(100 * np.mean([score[kind].fmeasure for score in scores])) for kind in KINDS}
