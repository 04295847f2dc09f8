"""Questions with contexts and answers: SQuAD's files of either version, and rows of JSON, CSV or Parquet."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nip.finetuning.rows import read_json, read_rows

COLUMNS = ("id", "question", "context", "answers")


def read_squad(path: Path) -> Any:
    """A file of questions as a `datasets.Dataset`; `check` says whether they are in order.

    Parameters
    ----------
    path : Path
        SQuAD's own JSON (articles, paragraphs, questions); or rows in JSON, JSON lines, CSV or Parquet.

    Raises
    ------
    ValueError
        If it cannot be read, or holds no questions.
    OSError
        If there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    return _official(path) if path.suffix == ".json" and _articles(path) else read_rows(path)


def _articles(path: Path) -> Any:
    """The articles of a file in SQuAD's own form; None of any other."""
    read = read_json(path)
    articles = read.get("data") if isinstance(read, dict) else None
    if not isinstance(articles, list) or not articles or not isinstance(articles[0], dict):
        return None
    return articles if "paragraphs" in articles[0] else None


def _official(path: Path) -> Any:
    import datasets

    text = datasets.Value("string")
    answers = {"text": datasets.List(text), "answer_start": datasets.List(datasets.Value("int32"))}
    features = datasets.Features({"id": text, "question": text, "context": text, "answers": answers})
    # stored as Arrow once; the digest makes another set of a file that has changed
    source = {"path": str(path), "digest": hashlib.sha256(path.read_bytes()).hexdigest()}
    try:
        return datasets.Dataset.from_generator(_questions, features=features, gen_kwargs=source)
    except ValueError as error:  # what datasets says of a set without rows
        raise ValueError(f"{path} holds no questions.") from error
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, KeyError | TypeError):
            raise ValueError(f"{path} begins in SQuAD's form but does not keep to it: {error.__cause__}.") from error
        raise ValueError(f"{path} cannot be read: {error.__cause__ or error}") from error


def _questions(path: str, digest: str) -> Iterator[dict[str, Any]]:
    for article in _articles(Path(path)) or ():
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                answers = [] if question.get("is_impossible") else question.get("answers", [])
                yield {
                    "id": str(question["id"]),
                    "question": question["question"],
                    "context": paragraph["context"],
                    "answers": {
                        "text": [answer["text"] for answer in answers],
                        "answer_start": [answer["answer_start"] for answer in answers],
                    },
                }


def check(data: Any, source: str, *, with_negative: bool, need: bool = True) -> Any:
    """The columns ``id``, ``question``, ``context``, ``answers`` of a set, once all rows were found to be in order.

    Parameters
    ----------
    data : datasets.Dataset
        Where ``answers`` is text, it must be JSON.
    source : str
        What the data is called in an error.
    with_negative : bool
        Whether a question may have no answer.
    need : bool, default=True
        Otherwise questions without any answers are welcome, as in a test set.

    Returns
    -------
    datasets.Dataset
        ``answers`` is ``{"text": [...], "answer_start": [...]}``.

    Raises
    ------
    ValueError
        If columns are missing, an id occurs twice, an answer does not stand in its context where it is said to, or a
        question has none although each must.
    """
    missing = [name for name in COLUMNS if name not in data.column_names and (need or name != "answers")]
    if missing:
        raise ValueError(
            f"{source} has no column {' and no '.join(map(repr, missing))}. It needs {', '.join(COLUMNS)}; "
            f"it has {', '.join(data.column_names)}."
        )
    data = data.select_columns([name for name in COLUMNS if name in data.column_names])
    if "answers" not in data.column_names:
        data = data.map(lambda row: {"answers": {"text": [], "answer_start": []}})
    if data.num_rows and any(isinstance(value, str) for value in data[:1]["answers"]):
        data = data.map(_parsed)
    if data.features["id"].dtype != "string":
        import datasets

        data = data.cast_column("id", datasets.Value("string"))
    seen: set[str] = set()
    for row in data:
        _check_row(row, source, with_negative, need)
        if row["id"] in seen:
            raise ValueError(f"{source} has two questions with the id {row['id']!r}.")
        seen.add(row["id"])
    if not seen:
        raise ValueError(f"{source} holds no questions.")
    return data


def _parsed(row: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"answers": json.loads(row["answers"])}
    except json.JSONDecodeError as error:
        raise ValueError(f"The answers of question {row['id']!r} are not JSON: {error}") from error


def _check_row(row: Mapping[str, Any], source: str, with_negative: bool, need: bool) -> None:
    name, answers = row["id"], row["answers"]
    for column in ("question", "context"):
        if not isinstance(row[column], str):
            raise ValueError(f"{source}: question {name!r} has no {column}.")
    if not isinstance(answers, Mapping) or not {"text", "answer_start"} <= set(answers):
        raise ValueError(f'{source}: the answers of question {name!r} must be {{"text": […], "answer_start": […]}}.')
    texts, starts = answers["text"], answers["answer_start"]
    for values, kind, what in ((texts, str, "texts"), (starts, int, "whole numbers")):
        strange = values if not isinstance(values, list) else next((v for v in values if not isinstance(v, kind)), None)
        if strange is not None or values is None:
            raise ValueError(f"{source}: an answer of question {name!r} must have {what}. Got {strange!r} instead.")
    if len(texts) != len(starts):
        raise ValueError(f"{source}: question {name!r} has {len(texts)} answers and {len(starts)} places of them.")
    if need and not texts and not with_negative:
        raise ValueError(f"{source}: question {name!r} has no answer. If that is meant, add --version_2_with_negative.")
    for text, start in zip(texts, starts, strict=True):
        found = row["context"][start : start + len(text)] if start >= 0 else ""
        if not text or found != text:
            raise ValueError(
                f"{source}: the answer {text!r} of question {name!r} does not stand at character {start} of its "
                f"context, which has {len(row['context'])} characters and {found!r} there."
            )


def references(data: Any) -> dict[str, list[str]]:
    """The right answers by question id, as `nip.finetuning.qa_score` reads them."""
    return {row["id"]: list(row["answers"]["text"]) for row in data}
