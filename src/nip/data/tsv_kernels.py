"""The official ListOps files in compiled loops: text to tokens and back. `nip.data.tsv` is what to call."""

from __future__ import annotations

import numpy as np

from nip.data.kernels import Array, compiled
from nip.data.listops import CLOSE, MAX, MED, MIN, SM, TOKENS, ZERO

# what can be wrong with a line
SOUND, UNKNOWN_TOKEN, NO_TARGET, NO_LABEL, NO_TOKENS = range(5)

_SPACE, _TAB, _NEWLINE, _RETURN, _OPEN, _SHUT = (ord(c) for c in " \t\n\r()")
_ZERO, _NINE, _BRACKET, _CROSS = (ord(c) for c in "09]X")
_SKIPPED, _UNKNOWN = -1, -2

_NAME_LENGTHS = np.array([len(token) for token in TOKENS])
_NAMES = np.array([[*token.encode().ljust(4)] for token in TOKENS], dtype=np.uint8)  # (token id, 4)


@compiled
def _token(text: Array, start: int, stop: int) -> int:
    if stop - start == 1:
        character = np.int64(text[start])
        if _ZERO <= character <= _NINE:
            return int(ZERO + character - _ZERO)
        if character in (_BRACKET, _CROSS):
            return CLOSE
        return _SKIPPED if character in (_OPEN, _SHUT) else _UNKNOWN
    for token in (MIN, MAX, MED, SM):
        if stop - start == _NAME_LENGTHS[token]:
            same = 0
            while same < stop - start and text[start + same] == _NAMES[token, same]:
                same += 1
            if same == stop - start:
                return token
    return _UNKNOWN


@compiled
def parse_lines(text: Array, start: int) -> tuple[Array, Array, Array, Array, tuple[int, int, int, int]]:
    """Read the lines of a file's bytes from `start`, which follows the header. Blank lines are passed over.

    Returns tokens (n_tokens,), offsets (n + 1,), labels (n,), lines (n,) counted from 1, and the first fault: what it
    is (SOUND if there is none), its line, and the bytes at fault as start and stop.
    """
    n_lines = 1
    for character in text[start:]:
        n_lines += character == _NEWLINE
    tokens = np.empty(text.size // 2 + 1, np.uint8)  # a token takes a separator too; what is not used is never paged in
    offsets = np.zeros(n_lines + 1, np.int64)
    labels = np.empty(n_lines, np.int64)
    lines = np.empty(n_lines, np.int64)
    n = 0
    used = 0
    line = 1
    fault = (SOUND, 0, 0, 0)
    while start < text.size:
        line += 1
        stop = start
        tab = -1
        while stop < text.size and text[stop] != _NEWLINE:
            if text[stop] == _TAB and tab < 0:
                tab = stop
            stop += 1
        following = stop + 1
        while stop > start and text[stop - 1] in (_RETURN, _SPACE):
            stop -= 1
        if stop > start:
            position = start
            end = tab if tab >= 0 else stop
            while position < end:
                if text[position] == _SPACE:
                    position += 1
                    continue
                piece = position
                while position < end and text[position] != _SPACE:
                    position += 1
                token = _token(text, piece, position)
                if token == _UNKNOWN:
                    fault = (UNKNOWN_TOKEN, line, piece, position)
                    break
                if token != _SKIPPED:
                    tokens[used] = token
                    used += 1
            if fault[0] == SOUND:
                if tab < 0:
                    fault = (NO_TARGET, line, start, stop)
                elif used == offsets[n]:
                    fault = (NO_TOKENS, line, start, tab)
                elif stop - tab != 2 or not _ZERO <= text[tab + 1] <= _NINE:
                    fault = (NO_LABEL, line, tab + 1, stop)
            if fault[0] != SOUND:
                break
            labels[n] = np.int64(text[tab + 1]) - _ZERO
            lines[n] = line
            n += 1
            offsets[n] = used
        start = following
    return tokens[:used].copy(), offsets[: n + 1].copy(), labels[:n].copy(), lines[:n].copy(), fault


@compiled
def official_lines(tokens: Array, offsets: Array, labels: Array) -> Array:
    """The lines of the official file, as bytes: every application in parentheses, one argument at a time."""
    n = labels.size
    # with its parentheses and spaces a digit takes at most 6 bytes, an operator with its closing bracket 15
    text = np.empty(8 * (offsets[n] - offsets[0]) + 16 * n, np.uint8)
    used = 0
    longest = 0
    for i in range(n):
        longest = max(longest, offsets[i + 1] - offsets[i])
    arguments = np.zeros(longest, np.int64)  # of each operator, by its place in the example
    stack = np.empty(longest + 1, np.int64)
    for i in range(n):
        example = tokens[offsets[i] : offsets[i + 1]]
        depth = 0
        for place in range(example.size):
            token = example[place]
            if token == CLOSE:
                depth -= 1
                continue
            if depth > 0:
                arguments[stack[depth - 1]] += 1
            arguments[place] = 0
            if token <= SM:
                stack[depth] = place
                depth += 1
        depth = 0
        for place in range(example.size):
            token = example[place]
            if place > 0:
                text[used] = _SPACE
                used += 1
            if token <= SM:
                for _ in range(arguments[place] + 1):
                    text[used] = _OPEN
                    text[used + 1] = _SPACE
                    used += 2
                depth += 1
            for k in range(_NAME_LENGTHS[token]):
                text[used] = _NAMES[token, k]
                used += 1
            if token == CLOSE:
                depth -= 1
                text[used] = _SPACE
                text[used + 1] = _SHUT
                used += 2
            if token >= CLOSE and depth > 0:
                text[used] = _SPACE
                text[used + 1] = _SHUT
                used += 2
        text[used] = _TAB
        text[used + 1] = _ZERO + labels[i]
        text[used + 2] = _RETURN
        text[used + 3] = _NEWLINE
        used += 4
    return text[:used].copy()
