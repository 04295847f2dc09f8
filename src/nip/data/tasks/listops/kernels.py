"""ListOps in compiled loops over flat token arrays; `language` defines the same in plain Python.

They are in one file because numba's cache on disk does not notice changes in other files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nip.data.compiled import compiled
from nip.data.tasks.listops.language import CLOSE, MAX, MED, MIN, SM, TOKENS, ZERO

_LAST = ZERO + 9
_RANDOM_BITS = 1 << 53  # a Generator's random() is a multiple of 2^-53: its 53 raw bits are used as an integer

Array = NDArray[Any]


@compiled
def _bits(rng: np.random.Generator) -> int:
    return int(rng.random() * _RANDOM_BITS)


@compiled
def _below(rng: np.random.Generator, bits: int, available: int, n: int) -> int:
    """A uniform integer in [0, n) from `bits`, uniform in [0, available); drawn again where it would be biased."""
    while bits >= available - available % n:
        bits = _bits(rng) % available  # `available` is a power of two, so this stays uniform
    return bits % n


@compiled
def _longer(array: Array, used: int, more: int) -> Array:
    """`array`, or a copy of at least twice the size, with space for `more` entries after the first `used`."""
    if used + more <= array.size:
        return array
    grown = np.empty(max(2 * array.size, used + more), array.dtype)
    grown[:used] = array[:used]
    return grown


@compiled
def draw_trees(rng: np.random.Generator, attempts: int, rule: tuple[int, int, int, int]) -> tuple[Array, Array]:
    """Draw `attempts` trees whose root is an operator, and keep those that the rule accepts.

    A root that is a digit has length 1 and is never accepted, so it is not drawn; and a tree is abandoned once its
    minimum length reaches `max_length`. Neither changes the distribution of the accepted trees.

    Parameters
    ----------
    rng : Generator
    attempts : int
    rule : tuple of int
        (max_depth, max_args, min_length, max_length).

    Returns
    -------
    tokens : ndarray of shape (n_tokens,), uint8
    offsets : ndarray of shape (n + 1,), int64
    """
    max_depth, max_args, min_length, max_length = rule
    tokens = np.empty(4 * max_length, np.uint8)
    offsets = np.zeros(attempts + 1, np.int64)
    taken = 0
    # an operator adds at least three tokens, so no tree in bounds is deeper than it is long
    missing = np.empty(min(max_depth, max_length) + 1, np.int64)  # remaining arguments, by depth
    for _ in range(attempts):
        start = offsets[taken]
        tokens = _longer(tokens, start, max_length)
        end = start
        depth = 0  # open operators
        certain = 1  # the tree's length if all remaining nodes are digits
        missing[0] = 1
        while True:
            bits = _bits(rng)
            if depth == 0 or (depth + 1 < max_depth and bits % 4 == 0):
                tokens[end] = MIN + bits // 4 % 4
                end += 1
                arguments = 2 + _below(rng, bits // 16, _RANDOM_BITS // 16, max_args - 1)
                certain += 1 + arguments
                if certain >= max_length:
                    break
                depth += 1
                missing[depth] = arguments
            else:
                tokens[end] = ZERO + _below(rng, bits // 4, _RANDOM_BITS // 4, 10)
                end += 1
                missing[depth] -= 1
                while depth > 0 and missing[depth] == 0:
                    tokens[end] = CLOSE
                    end += 1
                    depth -= 1
                    missing[depth] -= 1
                if depth == 0:
                    break
        if min_length < certain < max_length:
            taken += 1
            offsets[taken] = end
    return tokens[: offsets[taken]].copy(), offsets[: taken + 1].copy()


@compiled
def _apply(operator: int, counts: Array) -> int:
    """The value of an operator for arguments given as a histogram of the digits, shape (10,)."""
    total = 0
    weighted = 0
    for digit in range(10):
        total += counts[digit]
        weighted += digit * counts[digit]
    if total == 0:
        return -1
    if operator == SM:
        return weighted % 10
    # ranks, from 0, of the arguments in ascending order
    low, high = 0, 0
    if operator == MAX:
        low = high = total - 1
    elif operator == MED:
        low, high = (total - 1) // 2, total // 2
    seen = 0
    lower = -1
    for digit in range(10):
        seen += counts[digit]
        if lower < 0 and seen > low:
            lower = digit
        if seen > high:
            return (lower + digit) // 2
    return -1


@compiled
def _value(tokens: Array, operators: Array, counts: Array) -> int:
    """The value of an expression, -1 if it is not one. `operators` (m,) and `counts` (m, 10) are work space."""
    depth = 0
    value = -1
    for token in tokens:
        if value >= 0:
            return -1
        if MIN <= token <= SM:
            operators[depth] = token
            counts[depth] = 0
            depth += 1
            continue
        if ZERO <= token <= _LAST:
            done = int(np.int64(token)) - ZERO  # signed: else the compiler makes it a float
        elif token == CLOSE and depth > 0:
            depth -= 1
            done = _apply(operators[depth], counts[depth])
            if done < 0:
                return -1
        else:
            return -1
        if depth > 0:
            counts[depth - 1, done] += 1
        else:
            value = done
    return value


@compiled
def values(tokens: Array, offsets: Array) -> Array:
    """The value of every expression, −1 for malformed ones; ndarray of shape (n,), int64."""
    n = offsets.size - 1
    longest = 0
    for i in range(n):
        longest = max(longest, offsets[i + 1] - offsets[i])
    operators = np.empty(longest, np.int64)
    counts = np.empty((longest, 10), np.int64)
    out = np.empty(n, np.int64)
    for i in range(n):
        out[i] = _value(tokens[offsets[i] : offsets[i + 1]], operators, counts)
    return out


@compiled
def shapes(tokens: Array, offsets: Array) -> tuple[Array, Array, Array]:
    """Depth of every tree (root 1, digits counted), shape (n,); counts by number of arguments and by token id."""
    n = offsets.size - 1
    depths = np.zeros(n, np.int64)
    arguments = np.zeros(16, np.int64)
    open_ = np.zeros(16, np.int64)  # arguments so far, by depth
    occurs = np.zeros(256, np.int64)
    for i in range(n):
        depth = 0
        for token in tokens[offsets[i] : offsets[i + 1]]:
            occurs[token] += 1
            if token == CLOSE:
                arguments = _longer_zeroed(arguments, open_[depth] + 1)
                arguments[open_[depth]] += 1
                depth -= 1
                continue
            open_[depth] += 1
            if MIN <= token <= SM:
                depth += 1
                open_ = _longer_zeroed(open_, depth + 1)
                open_[depth] = 0
                depths[i] = max(depths[i], depth)
            else:
                depths[i] = max(depths[i], depth + 1)
    return depths, arguments, occurs


@compiled
def _longer_zeroed(array: Array, size: int) -> Array:
    if size <= array.size:
        return array
    grown = np.zeros(max(2 * array.size, size), array.dtype)
    grown[: array.size] = array
    return grown


# errors of a line
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
    """Parse the lines of a file, from byte `start` after the header. Blank lines are skipped.

    Parameters
    ----------
    text : ndarray of shape (n_bytes,), uint8
    start : int

    Returns
    -------
    tokens : ndarray of shape (n_tokens,), uint8
    offsets : ndarray of shape (n + 1,), int64
    labels : ndarray of shape (n,), int64
    lines : ndarray of shape (n,), int64
        Line numbers, from 1.
    fault : tuple of int
        The first error: its kind (SOUND if there is none), line, and bytes [start, stop).
    """
    n_lines = 1
    for character in text[start:]:
        n_lines += character == _NEWLINE
    tokens = np.empty(text.size // 2 + 1, np.uint8)  # a token has a separator; unused pages stay untouched
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
    """The lines of the official file as bytes: every application in parentheses, one argument at a time.

    Parameters
    ----------
    tokens : ndarray of shape (n_tokens,)
        Token ids of all examples, one after the other.
    offsets : ndarray of shape (n + 1,), int64
        Where each example begins.
    labels : ndarray of shape (n,)
    """
    n = labels.size
    # with parentheses and spaces a digit takes at most 6 bytes, an operator with its closing bracket 15
    text = np.empty(8 * (offsets[n] - offsets[0]) + 16 * n, np.uint8)
    used = 0
    longest = 0
    for i in range(n):
        longest = max(longest, offsets[i + 1] - offsets[i])
    arguments = np.zeros(longest, np.int64)  # of each operator, by its position in the example
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
