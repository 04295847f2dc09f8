"""The tasks of GLUE: files, columns, labels and metrics.

References
----------
A. Wang et al., GLUE: a multi-task benchmark and analysis platform for natural language understanding, ICLR 2019.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NLI = ("entailment", "neutral", "contradiction")
YES_NO = ("0", "1")


@dataclass(frozen=True)
class GlueTask:
    """A task of GLUE.

    Parameters
    ----------
    name : str
        In ``--task_name`` and on the hub.
    folder : str
        In the official archive.
    columns : tuple of str
        One text or two, as on the hub.
    labels : tuple of str
        Names in the order of their ids; empty if the label is a number.
    official : tuple of str
        The columns of texts and label in the official files.
    metric : str
        The main one.
    metrics : tuple of str
    watched : str
        The metric that early stopping watches.
    evaluated, tested : tuple of (str, str)
        Prefix of the metrics, and split on the hub.
    submissions : tuple of str
        Files of predictions, in the order of `tested`.
    written : tuple of str
        Labels in a submission.
    """

    name: str
    folder: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    official: tuple[str, ...]
    metric: str
    metrics: tuple[str, ...]
    submissions: tuple[str, ...]
    written: tuple[str, ...] = YES_NO
    watched: str = "accuracy"
    evaluated: tuple[tuple[str, str], ...] = (("", "validation"),)
    tested: tuple[tuple[str, str], ...] = (("", "test"),)


def _task(
    name: str, folder: str, columns: str, labels: tuple[str, ...], official: str, metrics: str, **more: Any
) -> GlueTask:
    named = tuple(metrics.split())
    settings = {"submissions": (f"{folder}.tsv",), **more}
    return GlueTask(
        name, folder, tuple(columns.split()), labels, tuple(official.split(",")), named[0], named, **settings
    )


_PAIR = "sentence1 sentence2"
_MNLI_SETS = (("", "matched"), ("mm", "mismatched"))

TASKS: dict[str, GlueTask] = {
    task.name: task
    for task in (
        _task(
            "cola", "CoLA", "sentence", ("unacceptable", "acceptable"), "sentence,label",
            "matthews_correlation accuracy", watched="matthews_correlation",
        ),
        _task("sst2", "SST-2", "sentence", ("negative", "positive"), "sentence,label", "accuracy"),
        _task(
            "mrpc", "MRPC", _PAIR, ("not_equivalent", "equivalent"), "#1 String,#2 String,Quality",
            "accuracy f1 combined_score", watched="f1",
        ),
        _task(
            "qqp", "QQP", "question1 question2", ("not_duplicate", "duplicate"), "question1,question2,is_duplicate",
            "accuracy f1 combined_score", watched="f1",
        ),
        _task(
            "stsb", "STS-B", _PAIR, (), "sentence1,sentence2,score", "pearson spearmanr combined_score", written=(),
            watched="spearmanr",
        ),
        _task(
            "mnli", "MNLI", "premise hypothesis", NLI, "sentence1,sentence2,gold_label", "accuracy", written=NLI,
            submissions=("MNLI-m.tsv", "MNLI-mm.tsv"),
            evaluated=tuple((name, f"validation_{each}") for name, each in _MNLI_SETS),
            tested=tuple((name, f"test_{each}") for name, each in _MNLI_SETS),
        ),
        _task(
            "qnli", "QNLI", "question sentence", ("entailment", "not_entailment"), "question,sentence,label",
            "accuracy", written=("entailment", "not_entailment"),
        ),
        _task(
            "rte", "RTE", _PAIR, ("entailment", "not_entailment"), "sentence1,sentence2,label", "accuracy",
            written=("entailment", "not_entailment"),
        ),
        _task("wnli", "WNLI", _PAIR, ("not_entailment", "entailment"), "sentence1,sentence2,label", "accuracy"),
        _task(
            "ax", "AX", "premise hypothesis", NLI, "sentence1,sentence2,label", "matthews_correlation accuracy",
            written=NLI, evaluated=(),
        ),
    )
}  # fmt: skip


def glue_task(name: str) -> GlueTask:
    """The task of that name; ValueError if there is none."""
    if name.lower() not in TASKS:
        raise ValueError(f"There is no GLUE task {name!r}. The tasks are {', '.join(TASKS)}.")
    return TASKS[name.lower()]
