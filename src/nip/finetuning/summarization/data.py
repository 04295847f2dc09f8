"""Texts with their summaries: what their columns are called, and how they become tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Text and summary in the sets that papers report on; of other names the first that a set has.
COLUMNS_OF = {
    "big_patent": ("description", "abstract"),
    "billsum": ("text", "summary"),
    "cnn_dailymail": ("article", "highlights"),
    "gigaword": ("document", "summary"),
    "multi_news": ("document", "summary"),
    "orange_sum": ("text", "summary"),
    "reddit_tifu": ("documents", "tldr"),
    "samsum": ("dialogue", "summary"),
    "scientific_papers": ("article", "abstract"),
    "wiki_summary": ("article", "highlights"),
    "xsum": ("document", "summary"),
}
TEXT_NAMES = ("article", "document", "text", "dialogue", "source", "description")
SUMMARY_NAMES = ("abstract", "highlights", "summary", "target", "tldr")


def choose_columns(
    names: Sequence[str], *, text: str | None = None, summary: str | None = None, dataset_name: str | None = None,
    need_summary: bool = True, source: str = "The data",
) -> tuple[str, str | None]:  # fmt: skip
    """Which column is the text, and which its summary: as told, as is usual for the set, or by their names.

    Parameters
    ----------
    names : sequence of str
        The columns that there are.
    text, summary : str, optional
        As told.
    dataset_name : str, optional
        On the hub.
    need_summary : bool, default=True
        Otherwise there may be none, as in a test set.
    source : str
        What the columns are of, for an error.

    Raises
    ------
    ValueError
        If a column that was told is missing, or none has a name that says what it is.

    Examples
    --------
    >>> choose_columns(["id", "article", "highlights"])
    ('article', 'highlights')
    """
    known = COLUMNS_OF.get((dataset_name or "").rpartition("/")[2], (None, None))
    found: list[str | None] = []
    for flag, told, usual, likely in (
        ("text_column", text, known[0], TEXT_NAMES),
        ("summary_column", summary, known[1], SUMMARY_NAMES),
    ):
        if told is not None and told not in names and (need_summary or flag == "text_column"):
            raise ValueError(f"{source} has no column {told!r} (--{flag}). It has {', '.join(names)}.")
        candidates = [name for name in (told, usual, *likely) if name in names and name not in found]
        if not candidates and (need_summary or flag == "text_column"):
            raise ValueError(
                f"{source} has no column called {', '.join(likely)}. It has {', '.join(names)}: say which it is with "
                f"--{flag}."
            )
        found.append(candidates[0] if candidates else None)
    if found[0] == found[1]:
        raise ValueError(f"--text_column and --summary_column are both {found[0]!r}.")
    assert found[0] is not None
    return found[0], found[1]


@dataclass(frozen=True)
class TokenRules:
    """How texts and summaries become tokens.

    Parameters
    ----------
    max_source_length, max_target_length : int
        Tokens kept of a text and of a summary.
    prefix : str, default=""
        Put before each text, as T5's models were taught.
    pad_to_max_length : bool, default=False
        Pad to those lengths; otherwise a batch is padded to its longest.
    ignore_pad_token_for_loss : bool, default=True
        Padding of summaries is no token to be learnt.
    """

    max_source_length: int = 1024
    max_target_length: int = 128
    prefix: str = ""
    pad_to_max_length: bool = False
    ignore_pad_token_for_loss: bool = True

    def __post_init__(self) -> None:
        for name in ("max_source_length", "max_target_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be an integer of at least 1. Got {getattr(self, name)} instead.")


def tokenize(
    batch: Mapping[str, Sequence[Any]],
    tokenizer: Any,
    text: str,
    summary: str | None,
    rules: TokenRules,
    keep: bool = False,
) -> dict[str, Any]:
    """A model's inputs for a batch of texts, and ``labels`` for their summaries where there are any.

    Rows without a text or, where summaries are asked for, without a summary are left out; with `keep` all stay, an
    empty text in the place of a missing one, so that what is made of them has their order.
    """
    batch = {name: [value or "" for value in batch[name]] for name in (text, summary) if name is not None}
    rows = [
        place
        for place in range(len(batch[text]))
        if keep or (batch[text][place] and (summary is None or batch[summary][place]))
    ]
    padding = "max_length" if rules.pad_to_max_length else False
    inputs = tokenizer(
        [rules.prefix + batch[text][place] for place in rows],
        max_length=rules.max_source_length, truncation=True, padding=padding,
    )  # fmt: skip
    made = {name: inputs[name] for name in inputs if name in ("input_ids", "attention_mask")}
    if summary is not None:
        targets = tokenizer(
            text_target=[batch[summary][place] for place in rows],
            max_length=rules.max_target_length, truncation=True, padding=padding,
        )["input_ids"]  # fmt: skip
        if rules.pad_to_max_length and rules.ignore_pad_token_for_loss:
            targets = [[-100 if token == tokenizer.pad_token_id else token for token in row] for row in targets]
        made["labels"] = targets
    return made
