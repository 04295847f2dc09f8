"""Texts with summaries: the names of their columns, and how they are tokenized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# The columns of text and summary in common datasets; of other datasets the first of the names below.
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
    """The columns with the text and the summary.

    Parameters
    ----------
    names : sequence of str
        Of all columns.
    text, summary : str, optional
        The columns that were asked for; by default those of the dataset, or the first of the usual names.
    dataset_name : str, optional
        On the hub.
    need_summary : bool, default=True
        Whether a summary is required; a test set may lack it.
    source : str
        What has the columns, for errors.

    Returns
    -------
    text : str
    summary : str or None

    Raises
    ------
    ValueError
        If a column that was asked for does not exist, or none has a usual name.

    Examples
    --------
    >>> choose_columns(["id", "article", "highlights"])
    ('article', 'highlights')
    """
    known = COLUMNS_OF.get((dataset_name or "").rpartition("/")[2], (None, None))
    found: list[str | None] = []
    for flag, asked, usual, likely in (
        ("text_column", text, known[0], TEXT_NAMES),
        ("summary_column", summary, known[1], SUMMARY_NAMES),
    ):
        if asked is not None and asked not in names and (need_summary or flag == "text_column"):
            raise ValueError(f"{source} has no column {asked!r} (--{flag}). It has {', '.join(names)}.")
        candidates = [name for name in (asked, usual, *likely) if name in names and name not in found]
        if not candidates and (need_summary or flag == "text_column"):
            raise ValueError(
                f"{source} has no column called {', '.join(likely)}. It has {', '.join(names)}: name it with --{flag}."
            )
        found.append(candidates[0] if candidates else None)
    if found[0] == found[1]:
        raise ValueError(f"--text_column and --summary_column are both {found[0]!r}.")
    assert found[0] is not None
    return found[0], found[1]


@dataclass(frozen=True)
class TokenRules:
    """How texts and summaries are tokenized.

    Parameters
    ----------
    max_source_length, max_target_length : int
        Maximum number of tokens of a text and of a summary.
    prefix : str, default=""
        Prepended to each text, as T5 was trained.
    pad_to_max_length : bool, default=False
        Pad to those lengths; otherwise a batch is padded to its longest.
    ignore_pad_token_for_loss : bool, default=True
        Exclude the padding of summaries from the loss.
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
    """Tokenize texts and their summaries.

    Parameters
    ----------
    batch : mapping of str to sequence
        Columns.
    tokenizer : PreTrainedTokenizerBase
    text : str
        The column with the text.
    summary : str or None
        The column with the summary, if any.
    rules : TokenRules
    keep : bool, default=False
        Keep rows without text or summary, as empty texts, so that predictions have the order of the rows.

    Returns
    -------
    dict of str to list
        ``input_ids``, ``attention_mask``, and ``labels`` if there are summaries.
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
    columns = {name: inputs[name] for name in inputs if name in ("input_ids", "attention_mask")}
    if summary is not None:
        targets = tokenizer(
            text_target=[batch[summary][place] for place in rows],
            max_length=rules.max_target_length, truncation=True, padding=padding,
        )["input_ids"]  # fmt: skip
        if rules.pad_to_max_length and rules.ignore_pad_token_for_loss:
            targets = [[-100 if token == tokenizer.pad_token_id else token for token in row] for row in targets]
        columns["labels"] = targets
    return columns
