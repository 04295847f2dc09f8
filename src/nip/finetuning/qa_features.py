"""Questions and contexts as tokens: a context that is too long becomes several windows that overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class WindowRules:
    """How contexts are cut.

    Parameters
    ----------
    max_seq_length : int, default=384
        Tokens of a window: the question, a part of the context and the special ones.
    doc_stride : int, default=128
        Context tokens that a window shares with the one before.
    pad_to_max_length : bool, default=True
        Pad every window to `max_seq_length`; otherwise a batch is padded to its longest.

    Raises
    ------
    ValueError
        If a number is impossible, or the stride leaves a window nothing new.
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
                f"--doc_stride {self.doc_stride}, what consecutive windows share, must be below --max_seq_length "
                f"{self.max_seq_length}, what they hold."
            )


def check_tokenizer(tokenizer: Any, rules: WindowRules) -> None:
    """Refuse a tokenizer that cannot say which characters its tokens are.

    Raises
    ------
    ValueError
        If it is not a fast one, or pads on the left and only once batches are made.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(
            f"Question answering needs to know which characters a token is, and {type(tokenizer).__name__} does not "
            "tell: it is no fast tokenizer. Take a model with a tokenizer.json."
        )
    if tokenizer.padding_side == "left" and not rules.pad_to_max_length:
        raise ValueError("This tokenizer pads on the left, which moves the answers: it needs --pad_to_max_length true.")


def windows(batch: Mapping[str, Sequence[Any]], tokenizer: Any, rules: WindowRules) -> dict[str, list[Any]]:
    """Tokens of questions with their contexts, a row for each window of a context; where the answers are in them.

    The question comes first, or the context where the tokenizer pads on the left.

    Parameters
    ----------
    batch : mapping
        Columns ``id``, ``question``, ``context`` and ``answers`` (``text`` and ``answer_start``, both lists), as
        `datasets.Dataset.map` hands them over.
    tokenizer : PreTrainedTokenizerFast
    rules : WindowRules

    Returns
    -------
    dict of list
        A model's inputs; ``start_positions`` and ``end_positions``, the first and last token of the first answer,
        inclusive, both the ``null`` token where the window does not hold all of it; and what
        `nip.finetuning.qa_answers.find_answers` reads.

    Raises
    ------
    ValueError
        If a question leaves no room for its context.
    """
    questions = [question.lstrip() for question in batch["question"]]  # leading spaces could fill a whole window
    _check_room(batch["id"], questions, tokenizer, rules)
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
    """First and last of the first answer's among these tokens, given by characters; None if they lack a part of it."""
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


def _check_room(names: Sequence[str], questions: Sequence[str], tokenizer: Any, rules: WindowRules) -> None:
    special = tokenizer.num_special_tokens_to_add(pair=True)
    lengths = tokenizer(questions, add_special_tokens=False)["input_ids"]
    for name, ids in zip(names, lengths, strict=True):
        if len(ids) + special + rules.doc_stride >= rules.max_seq_length:
            raise ValueError(
                f"Question {name!r} has {len(ids)} tokens: with {special} special ones and --doc_stride "
                f"{rules.doc_stride} nothing of --max_seq_length {rules.max_seq_length} is left for its context. "
                "Raise --max_seq_length or lower --doc_stride."
            )
