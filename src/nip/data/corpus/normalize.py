"""Documents in one form: composed characters, no control characters, one space between words, no empty lines.

Line breaks stay, for they end paragraphs or sentences; a document never contains an empty line, so that documents can
be told apart by one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Literal

UnicodeForm = Literal["NFC", "NFKC"]
UNICODE_FORMS: tuple[UnicodeForm, ...] = ("NFC", "NFKC")

LONGEST = 1 << 22  # characters of a document; longer ones are cut, so that memory is bounded

# Soft hyphen, zero-width space, word joiner, byte order mark. Joiners that spell words stay.
_INVISIBLE = "\u00ad\u200b\u2060\ufeff"
_PRINTABLE = bytes(range(32, 127))  # of ASCII
_UNSEEN = ("Cc", "Cs")  # controls, and halves of characters
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*(\s+)(?=[\"'“‘(\[]*[A-Z0-9À-Þ])")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'“])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|vs|etc|e\.g|i\.e|cf|No|Vol|Fig|Gen|Col)\.$"
)


def normalise(text: str, form: UnicodeForm = "NFC") -> str:
    r"""Compose characters, drop U+FFFD and those that control or cannot be seen, leave one space between words.

    Parameters
    ----------
    text : str
    form : {"NFC", "NFKC"}, default="NFC"
        Of Unicode: NFC keeps what a character looks like, NFKC replaces it by its plain equivalent (``ﬁ`` → ``fi``).

    Examples
    --------
    >>> normalise("cafe\u0301\tau  lait\x07 \r\n\r\n\u200bdeux")
    'café au lait\ndeux'
    >>> normalise("ﬁn", "NFKC")
    'fin'
    """
    text = text.replace("\0", "")  # before what it stood between is composed; `_in_lines` has its own use for it
    if not text.isascii():
        text = unicodedata.normalize(form, text.replace("\ufffd", ""))
    text = text.strip()
    spaced = text.replace("\n", " ")
    # of ASCII, bytes are looked at sooner than characters
    printable = not spaced.encode().translate(None, _PRINTABLE) if spaced.isascii() else spaced.isprintable()
    if printable and "  " not in spaced:
        return text  # as most documents are: " " and "\n" are the only spaces and controls in it, and stand right
    lines = _in_lines(text)
    if not lines.replace("\n", "").isprintable():
        text = "".join(c for c in lines if c in "\n " or not (unicodedata.category(c) in _UNSEEN or c in _INVISIBLE))
        lines = _in_lines(unicodedata.normalize(form, text))  # what was apart may compose now
    return lines


def _in_lines(text: str) -> str:
    """One space between words, no empty lines. A line is not split by itself: for short ones that would be slow."""
    if "\n" not in text:
        return " ".join(text.split())
    lines = " ".join(text.replace("\n", " \0").split()).strip(" \0").replace(" \0", "\n")
    if "\n " in lines:  # lines that were indented
        lines = lines.replace("\n ", "\n")
    while "\n\n" in lines:
        lines = lines.replace("\n\n", "\n")
    return lines


def pieces(text: str, longest: int = LONGEST) -> Iterator[str]:
    r"""A normalised document, cut at the last line end or space before `longest` characters where it is longer.

    Examples
    --------
    >>> list(pieces("one two three", longest=8))
    ['one two', 'three']
    """
    while len(text) > longest:
        cut = text.rfind("\n", 1, longest + 1)
        if cut < 0:
            cut = text.rfind(" ", 1, longest + 1)
        if cut < 0:
            cut = longest
        yield text[:cut].strip()
        text = text[cut:].strip()
    if text:
        yield text


def sentences(text: str) -> list[str]:
    r"""The sentences of a normalised document: lines, cut where a full stop is followed by a capital or a figure.

    A rule without a model: it knows a few abbreviations and single initials, and errs on others.

    Examples
    --------
    >>> sentences('Dr. No came. "Why?" He left.\nThe end')
    ['Dr. No came.', '"Why?"', 'He left.', 'The end']
    """
    found = []
    for line in text.split("\n"):
        begin = 0
        for end in _SENTENCE_END.finditer(line):
            if not _ABBREVIATION.search(line, max(begin, end.start(1) - 8), end.start(1)):
                found.append(line[begin : end.start(1)])
                begin = end.end(1)
        if begin < len(line):
            found.append(line[begin:])
    return found
