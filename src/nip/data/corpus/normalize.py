"""Documents in a normal form: composed characters, no control characters, single spaces, no empty lines.

Line breaks stay because they end paragraphs or sentences. A document never contains an empty line, so empty lines can
separate documents.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Literal

UnicodeForm = Literal["NFC", "NFKC"]
UNICODE_FORMS: tuple[UnicodeForm, ...] = ("NFC", "NFKC")

LONGEST = 1 << 22  # characters of a document; longer ones are split to bound memory

# Soft hyphen, zero-width space, word joiner, byte order mark. Joiners that are part of words stay.
_INVISIBLE = "\u00ad\u200b\u2060\ufeff"
_PRINTABLE = bytes(range(32, 127))  # of ASCII
_REMOVED = ("Cc", "Cs")  # categories: control characters and surrogates
# Marks that end a sentence where white space follows: also Urdu, Arabic, Hindi, Armenian, Amharic, Burmese, Khmer ones.
_MARKS = ".!?…‼⁇⁈⁉۔؟।॥։።፧။។"
_WIDE = "。！？｡"  # of Chinese and Japanese, which write no space after them
_SENTENCE_END = re.compile(
    rf"(?<=[{_MARKS}])[\"'”’»)\]]*(\s+)(?=[—–]? ?[\"'“‘„«(\[¿¡]*([^\W_]))"
    rf"|(?<=[{_WIDE}])[{_WIDE}”’」』）》〉】〕)\]]*+(\s*)(?=[^\s{_WIDE}])"
)
_ABBREVIATIONS = r"(?:[^\W\d_]|Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|vs|etc|e\.g|i\.e|cf|No|Vol|Fig|Gen|Col)\.$"
_ABBREVIATION = re.compile(rf"(?:^|[\s(\"'“{_WIDE}]){_ABBREVIATIONS}")
_LOWER_CASE_ABBREVIATION = re.compile(_ABBREVIATION.pattern, re.IGNORECASE)
_FEW_CAPITALS = 200  # lower-case letters to a capital, above which a text is taken as written without capitals


def normalize(text: str, form: UnicodeForm = "NFC") -> str:
    r"""Compose characters, drop U+FFFD, control and invisible characters, leave one space between words.

    Parameters
    ----------
    text : str
    form : {"NFC", "NFKC"}, default="NFC"
        Unicode normal form: NFC keeps the look of a character, NFKC replaces it by its plain equivalent (``ﬁ`` →
        ``fi``).

    Examples
    --------
    >>> normalize("cafe\u0301\tau  lait\x07 \r\n\r\n\u200bdeux")
    'café au lait\ndeux'
    >>> normalize("ﬁn", "NFKC")
    'fin'
    """
    text = text.replace("\0", "")  # before its neighbours compose; `_in_lines` uses it as a mark
    if not text.isascii():
        text = unicodedata.normalize(form, text.replace("\ufffd", ""))
    text = text.strip()
    spaced = text.replace("\n", " ")
    # for ASCII, looking at bytes is faster than at characters
    printable = not spaced.encode().translate(None, _PRINTABLE) if spaced.isascii() else spaced.isprintable()
    if printable and "  " not in spaced:
        return text  # most documents: " " and "\n" are the only white space and controls, and in the right places
    lines = _in_lines(text)
    if not lines.replace("\n", "").isprintable():
        text = "".join(c for c in lines if c in "\n " or not (unicodedata.category(c) in _REMOVED or c in _INVISIBLE))
        lines = _in_lines(unicodedata.normalize(form, text))  # characters that were apart may compose now
    return lines


def _in_lines(text: str) -> str:
    """Single spaces and no empty lines. All lines are split at once: one by one is slow where they are short."""
    if "\n" not in text:
        return " ".join(text.split())
    lines = " ".join(text.replace("\n", " \0").split()).strip(" \0").replace(" \0", "\n")
    if "\n " in lines:  # indented lines
        lines = lines.replace("\n ", "\n")
    while "\n\n" in lines:
        lines = lines.replace("\n\n", "\n")
    return lines


def pieces(text: str, longest: int = LONGEST) -> Iterator[str]:
    r"""A normalized document; a longer one is split at the last line end or space before `longest` characters.

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
    r"""The sentences of a normalized document: lines, split after a mark that ends a sentence.

    After a full stop and its like, a sentence begins with a capital, a digit, or a letter of a script without
    capitals; in a text that is written without capitals, with any letter. Chinese and Japanese marks need neither that
    nor white space. A rule without a model: it knows a few abbreviations and single letters, and splits wrongly at
    others.

    Examples
    --------
    >>> sentences('Dr. No came. "Why?" He left.\nThe end')
    ['Dr. No came.', '"Why?"', 'He left.', 'The end']
    >>> sentences("the cat sat . the dog ran .")
    ['the cat sat .', 'the dog ran .']
    >>> sentences("他来了。“为什么？”她走了。")
    ['他来了。', '“为什么？”', '她走了。']
    """
    lower_case = _is_lower_case(text)
    abbreviation = _LOWER_CASE_ABBREVIATION if lower_case else _ABBREVIATION
    found = []
    for line in text.split("\n"):
        begin = 0
        for end in _SENTENCE_END.finditer(line):
            space, following = (1, end[2]) if end[2] else (3, "")
            stop = end.start(space)
            if stop <= begin or (following.islower() and not lower_case):
                continue
            if following and abbreviation.search(line, max(begin - 1, stop - 8, 0), stop):
                continue
            found.append(line[begin:stop])
            begin = end.end(space)
        if begin < len(line):
            found.append(line[begin:])
    return found


def _is_lower_case(text: str) -> bool:
    """Whether a text is written without capitals, but for a few."""
    return sum(map(str.isupper, text)) * _FEW_CAPITALS < sum(map(str.islower, text))
