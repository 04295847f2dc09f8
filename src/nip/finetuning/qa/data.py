"""Questions with contexts and answers: read from SQuAD's files or tables, and tokenized in overlapping windows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nip.finetuning.datasets import from_rows, read_json, read_rows

COLUMNS = ("id", "question", "context", "answers")


def read_squad(path: Path, cache_dir: str | None = None) -> Any:
    """A file of questions as a Dataset, to be checked by `check_questions`.

    Parameters
    ----------
    path : Path
        SQuAD's JSON (articles, paragraphs, questions), or a table in JSON, JSON lines, CSV or Parquet.
    cache_dir : str, optional
        Folder of the memory-mapped file, by default that of `datasets`.

    Raises
    ------
    ValueError
        If it cannot be parsed or has no questions.
    OSError
        If it does not exist.
    """
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    return (_read_official if path.suffix == ".json" and _articles(path) else read_rows)(path, cache_dir)


def _articles(path: Path) -> Any:
    """The articles of a file in SQuAD's format; None of any other file."""
    value = read_json(path)
    articles = value.get("data") if isinstance(value, dict) else None
    if not isinstance(articles, list) or not articles or not isinstance(articles[0], dict):
        return None
    return articles if "paragraphs" in articles[0] else None


def _read_official(path: Path, cache_dir: str | None) -> Any:
    import datasets

    text = datasets.Value("string")
    answers = {"text": datasets.List(text), "answer_start": datasets.List(datasets.Value("int32"))}
    features = datasets.Features({"id": text, "question": text, "context": text, "answers": answers})
    try:
        return from_rows(_questions, path, features, cache_dir)
    except ValueError as error:
        if "corresponds to no data" in str(error):  # what datasets raises without rows
            raise ValueError(f"{path} has no questions.") from error
        raise


def _questions(path: str, digest: str, version: int) -> Iterator[dict[str, Any]]:
    try:
        yield from _of_articles(path)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is in SQuAD's format but malformed: {error}.") from error


def _of_articles(path: str) -> Iterator[dict[str, Any]]:
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


def check_questions(data: Any, source: str, *, with_negative: bool, labelled: bool = True) -> Any:
    """Check every row of a Dataset of questions.

    Parameters
    ----------
    data : Dataset
        ``answers`` may be JSON text.
    source : str
        The data's name, for errors.
    with_negative : bool
        Whether a question may have no answer.
    labelled : bool, default=True
        Whether answers are required; a test set may lack them.

    Returns
    -------
    Dataset
        With the columns ``id``, ``question``, ``context`` and ``answers``, ``{"text": [...], "answer_start": [...]}``.

    Raises
    ------
    ValueError
        If a column is missing, an id occurs twice, an answer is not in its context at its position, or a question
        lacks the answer that it must have.
    """
    missing = [name for name in COLUMNS if name not in data.column_names and (labelled or name != "answers")]
    if missing:
        raise ValueError(
            f"{source} has no column {' and no '.join(map(repr, missing))}. It needs {', '.join(COLUMNS)}; "
            f"it has {', '.join(data.column_names)}."
        )
    data = data.select_columns([name for name in COLUMNS if name in data.column_names])
    if "answers" not in data.column_names:
        data = data.map(lambda row: {"answers": {"text": [], "answer_start": []}})
    if data.num_rows and any(isinstance(value, str) for value in data[:1]["answers"]):
        data = data.map(_parse_answers)
    if data.features["id"].dtype != "string":
        import datasets

        data = data.cast_column("id", datasets.Value("string"))
    seen: set[str] = set()
    for row in data:
        _check_row(row, source, with_negative, labelled)
        if row["id"] in seen:
            raise ValueError(f"{source} has two questions with the id {row['id']!r}.")
        seen.add(row["id"])
    if not seen:
        raise ValueError(f"{source} has no questions.")
    return data


def _parse_answers(row: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"answers": json.loads(row["answers"])}
    except json.JSONDecodeError as error:
        raise ValueError(f"The answers of question {row['id']!r} are not JSON: {error}") from error


def _check_row(row: Mapping[str, Any], source: str, with_negative: bool, labelled: bool) -> None:
    name, answers = row["id"], row["answers"]
    for column in ("question", "context"):
        if not isinstance(row[column], str):
            raise ValueError(f"{source}: question {name!r} has no {column}.")
    if not isinstance(answers, Mapping) or not {"text", "answer_start"} <= set(answers):
        raise ValueError(f'{source}: the answers of question {name!r} must be {{"text": […], "answer_start": […]}}.')
    texts, starts = answers["text"], answers["answer_start"]
    for values, kind, what in ((texts, str, "texts"), (starts, int, "integers")):
        strange = values if not isinstance(values, list) else next((v for v in values if not isinstance(v, kind)), None)
        if strange is not None or values is None:
            raise ValueError(f"{source}: an answer of question {name!r} must have {what}. Got {strange!r} instead.")
    if len(texts) != len(starts):
        raise ValueError(f"{source}: question {name!r} has {len(texts)} texts and {len(starts)} positions of answers.")
    if labelled and not texts and not with_negative:
        raise ValueError(
            f"{source}: question {name!r} has no answer. If that is intended, add --version_2_with_negative."
        )
    for text, start in zip(texts, starts, strict=True):
        found = row["context"][start : start + len(text)] if start >= 0 else ""
        if not text or found != text:
            raise ValueError(
                f"{source}: the answer {text!r} of question {name!r} is not at character {start} of its "
                f"context, which has {len(row['context'])} characters and {found!r} there."
            )


def references(data: Any) -> dict[str, list[str]]:
    """The correct answers by question id, as `nip.finetuning.qa.metrics` takes them."""
    return {row["id"]: list(row["answers"]["text"]) for row in data}


@dataclass(frozen=True)
class WindowRules:
    """How contexts are split into windows.

    Parameters
    ----------
    max_seq_length : int, default=384
        Tokens of a window: question, a span of the context, special tokens.
    doc_stride : int, default=128
        Context tokens that a window shares with the previous one.
    pad_to_max_length : bool, default=True
        Pad every window to `max_seq_length`; otherwise a batch is padded to its longest window.

    Raises
    ------
    ValueError
        If a number is out of range, or a window would have no new tokens.
    """

    max_seq_length: int = 384
    doc_stride: int = 128
    pad_to_max_length: bool = True

    def __post_init__(self) -> None:
        if self.max_seq_length < 1:
            raise ValueError(f"--max_seq_length must be an integer of at least 1. Got {self.max_seq_length} instead.")
        if self.doc_stride < 0:
            raise ValueError(f"--doc_stride must be an integer of at least 0. Got {self.doc_stride} instead.")
        if self.doc_stride >= self.max_seq_length:
            raise ValueError(
                f"--doc_stride {self.doc_stride}, the overlap of windows, must be below --max_seq_length "
                f"{self.max_seq_length}, their length."
            )


def check_tokenizer(tokenizer: Any, rules: WindowRules) -> None:
    """Check that a tokenizer maps tokens to characters.

    Raises
    ------
    ValueError
        If it is not a fast tokenizer, or pads batches on the left, which moves the answers.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"Question answering needs a tokenizer that maps tokens to characters, and {type(tokenizer).__name__} is "
            "no fast tokenizer. Use a model with a tokenizer.json."
        )
    if tokenizer.padding_side == "left" and not rules.pad_to_max_length:
        raise ValueError("This tokenizer pads on the left, which moves the answers: it needs --pad_to_max_length true.")


def tokenize_windows(batch: Mapping[str, Sequence[Any]], tokenizer: Any, rules: WindowRules) -> dict[str, list[Any]]:
    """Tokenize questions with their contexts, one row per window, and locate the answers.

    The question comes first; if the tokenizer pads on the left, the context does.

    Parameters
    ----------
    batch : mapping
        Columns ``id``, ``question``, ``context`` and ``answers`` (``text`` and ``answer_start``, both lists).
    tokenizer : PreTrainedTokenizerFast
    rules : WindowRules

    Returns
    -------
    dict of list
        A model's inputs; ``start_positions`` and ``end_positions``, the first and last token of the first answer,
        inclusive, both the ``null`` token if the window lacks a part of it; and the columns that
        `nip.finetuning.qa.answers.find_answers` takes.

    Raises
    ------
    ValueError
        If a question is so long that its context does not fit.
    """
    questions = [question.lstrip() for question in batch["question"]]  # leading spaces could fill a whole window
    _check_lengths(batch["id"], questions, tokenizer, rules)
    question_first = tokenizer.padding_side == "right"
    contexts = list(batch["context"])
    tokenized = tokenizer(
        *((questions, contexts) if question_first else (contexts, questions)),
        truncation="only_second" if question_first else "only_first",
        max_length=rules.max_seq_length,
        stride=rules.doc_stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding="max_length" if rules.pad_to_max_length else False,
    )
    rows = {name: tokenized[name] for name in tokenizer.model_input_names if name in tokenized}
    for name in ("example_id", "first", "last", "null", "offsets", "start_positions", "end_positions"):
        rows[name] = []
    for index, example in enumerate(tokenized["overflow_to_sample_mapping"]):
        side = 1 if question_first else 0
        places = [place for place, of in enumerate(tokenized.sequence_ids(index)) if of == side]
        first, last = (places[0], places[-1]) if places else (0, -1)
        offsets = [list(pair) for pair in tokenized["offset_mapping"][index][first : last + 1]]
        null = _null_token(tokenized["input_ids"][index], tokenizer)
        span = _answer_tokens(offsets, batch["answers"][example]) if offsets else None
        rows["example_id"].append(batch["id"][example])
        rows["first"].append(first)
        rows["last"].append(last)
        rows["null"].append(null)
        rows["offsets"].append(offsets)
        rows["start_positions"].append(null if span is None else first + span[0])
        rows["end_positions"].append(null if span is None else first + span[1])
    return rows


def _answer_tokens(offsets: Sequence[Sequence[int]], answers: Mapping[str, Sequence[Any]]) -> tuple[int, int] | None:
    """The first and last token of the first answer, given the tokens' characters; None if a part of it is missing."""
    if not answers["text"]:
        return None
    begin = answers["answer_start"][0]
    end = begin + len(answers["text"][0])
    if begin < offsets[0][0] or end > offsets[-1][1]:
        return None
    start = max(place for place, (at, _) in enumerate(offsets) if at <= begin)
    stop = min(place for place, (_, to) in enumerate(offsets) if to >= end)
    return (start, stop) if start <= stop else None


def _null_token(ids: Sequence[int], tokenizer: Any) -> int:
    for token in (tokenizer.cls_token_id, tokenizer.bos_token_id):
        if token is not None and token in ids:
            return ids.index(token)
    return 0


def _check_lengths(names: Sequence[str], questions: Sequence[str], tokenizer: Any, rules: WindowRules) -> None:
    special = tokenizer.num_special_tokens_to_add(pair=True)
    lengths = tokenizer(questions, add_special_tokens=False)["input_ids"]
    for name, ids in zip(names, lengths, strict=True):
        if len(ids) + special + rules.doc_stride >= rules.max_seq_length:
            raise ValueError(
                f"Question {name!r} has {len(ids)} tokens: with {special} special ones and --doc_stride "
                f"{rules.doc_stride} --max_seq_length {rules.max_seq_length} has no space for its context. "
                "Raise --max_seq_length or lower --doc_stride."
            )
