"""ROUGE of summaries with Google's `rouge_score`; sentences are split here, without nltk's downloads."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")

# The end of a sentence: punctuation, closing quotes and brackets, then space before the start of another.
_END = re.compile(r"(?<=[.!?])([\"')\]”’]*)\s+(?=[\"'(\[“‘]*[A-Z0-9])")


def sentence_lines(text: str) -> str:
    """One sentence per line, as ROUGE-Lsum expects; a text of several lines is not split further.

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
    """Mean F-measures of ROUGE-1, -2, -L and -Lsum over pairs of summaries, from 0 to 100.

    Parameters
    ----------
    predictions, references : sequence of str
        Generated and reference summaries, in the same order.
    stem : bool, default=True
        Compare English words by their Porter stems, as is common.

    Returns
    -------
    dict
        ``rouge1``, ``rouge2``, ``rougeL`` (the text as one sentence), ``rougeLsum`` (by sentence: `sentence_lines`).

    Raises
    ------
    ValueError
        If there are no pairs, or their numbers differ.

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
    scorer = RougeScorer(ROUGE_TYPES, use_stemmer=stem)
    scores = [
        scorer.score(sentence_lines(reference), sentence_lines(prediction))
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    return {kind: float(100 * np.mean([score[kind].fmeasure for score in scores])) for kind in ROUGE_TYPES}


def mostly_other_letters(references: Sequence[str]) -> int:
    """The number of references most of whose letters ROUGE leaves out, as it knows those from a to z only.

    Examples
    --------
    >>> mostly_other_letters(["Дождь в A", "naïve", "3 %"])
    1
    """
    letters = ([letter for letter in reference.lower() if letter.isalpha()] for reference in references)
    return sum(2 * sum(letter.isascii() for letter in each) < len(each) for each in letters)
