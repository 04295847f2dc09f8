"""The language of ListOps: its tokens, the value of an expression, and the rule by which the official set is drawn.

An expression is a digit, or an operator with its arguments: ``[MAX 4 3 [MIN 2 3 ] 1 0 ]`` has the value 4. ListOps is
by Nangia and Bowman [1]_; the rule is Long Range Arena's [2]_.

References
----------
.. [1] N. Nangia, S. R. Bowman, *ListOps: A diagnostic dataset for latent tree learning*, arXiv 1804.06028.
.. [2] Y. Tay et al., *Long Range Arena*, arXiv 2011.04006, section 2.2.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from nip.graphs.pattern import check_int

# A token's id is its index here. The order never changes: stored data and trained models depend on it.
TOKENS = ("", "[MIN", "[MAX", "[MED", "[SM", "]", *"0123456789")
PADDING, MIN, MAX, MED, SM, CLOSE, ZERO = range(7)
OPERATORS = (MIN, MAX, MED, SM)

LARGEST = 1_000_000  # maximum of every parameter: the sampler keeps an example in memory and draws from 49 bits

_IDS = {token: i for i, token in enumerate(TOKENS) if token} | {"X": CLOSE}


@dataclass(frozen=True)
class Rule:
    """The distribution of expressions; the official setting by default.

    The root of a tree is at depth 1. A node above `max_depth` is an operator with probability 1/4, else a digit; one at
    `max_depth` is a digit. Operator (MIN, MAX, MED, SM), digit (0 … 9) and number of arguments (2 … `max_args`) are
    uniform. A tree is accepted if its length, with operators and closing brackets, is strictly between `min_length` and
    `max_length`.

    Parameters
    ----------
    max_depth : int, default=10
        At least 2.
    max_args : int, default=10
        At least 2.
    min_length : int, default=500
        In tokens, at least 1: a single digit is no example.
    max_length : int, default=2000
        In tokens, at least ``min_length + 2``; like all parameters at most 1,000,000.

    Raises
    ------
    ValueError
        If a value is out of range, or no tree of that depth and number of arguments is longer than `min_length`.
    """

    max_depth: int = 10
    max_args: int = 10
    min_length: int = 500
    max_length: int = 2000

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_depth", check_int("max_depth", self.max_depth, "ListOps", minimum=2))
        object.__setattr__(self, "max_args", check_int("max_args", self.max_args, "ListOps", minimum=2))
        object.__setattr__(self, "min_length", check_int("min_length", self.min_length, "ListOps", minimum=1))
        object.__setattr__(
            self, "max_length", check_int("max_length", self.max_length, "ListOps", minimum=self.min_length + 2)
        )
        for field in fields(self):
            if getattr(self, field.name) > LARGEST:
                raise ValueError(
                    f"The '{field.name}' parameter of ListOps must be at most {LARGEST}. "
                    f"Got {getattr(self, field.name)} instead."
                )
        longest = 1
        for _ in range(self.max_depth - 1):
            longest = 2 + self.max_args * longest
            if longest > self.min_length:
                return
        raise ValueError(
            f"The 'min_length' parameter of ListOps must be below {longest}, the length of the longest tree of depth "
            f"{self.max_depth} with {self.max_args} arguments. Got {self.min_length} instead."
        )


def encode(text: str) -> NDArray[np.uint8]:
    """Token ids of an expression; ndarray of shape (length,).

    The parentheses of the official files are skipped (they are redundant to the brackets), and ``X`` is read as ``]``,
    as Long Range Arena's own pipeline writes it.

    Examples
    --------
    >>> encode("( ( ( [MAX 1 ) 2 ) ] )").tolist()
    [2, 7, 8, 5]
    """
    try:
        return np.array([_IDS[piece] for piece in text.split() if piece not in "()"], dtype=np.uint8)
    except KeyError as unknown:
        raise ValueError(f"ListOps has no token {unknown.args[0]!r}. Its tokens are {' '.join(TOKENS[1:])}.") from None


def decode(tokens: Iterable[int]) -> str:
    """The expression of token ids, without parentheses and padding.

    Examples
    --------
    >>> decode([2, 7, 8, 5, 0, 0])
    '[MAX 1 2 ]'
    """
    ids = [int(i) for i in tokens]
    if ids and not (min(ids) >= 0 and max(ids) < len(TOKENS)):
        raise ValueError(f"ListOps token ids must be in [0, {len(TOKENS)}). Got {min(ids)} … {max(ids)} instead.")
    return " ".join(TOKENS[i] for i in ids if i != PADDING)


def evaluate(tokens: Iterable[int]) -> int:
    """The value 0 … 9 of an expression, by a stack of unfinished operators: the definition of every label.

    MED is the median, rounded down between two digits; SM is the sum modulo 10.

    Parameters
    ----------
    tokens : iterable of int
        Token ids of a complete expression, without padding.

    Raises
    ------
    ValueError
        If the tokens are not an expression.

    Examples
    --------
    >>> evaluate(encode("[MAX 4 3 [MIN 2 3 ] 1 0 ]"))
    4
    """
    unfinished: list[tuple[int, list[int]]] = []
    value = None
    for token in tokens:
        if value is not None:
            raise ValueError("This is not a ListOps expression: tokens follow its end.")
        if token in OPERATORS:
            unfinished.append((token, []))
            continue
        if ZERO <= token < len(TOKENS):
            done = int(token) - ZERO
        elif token == CLOSE:
            if not unfinished or not unfinished[-1][1]:
                raise ValueError("This is not a ListOps expression: a closing bracket has no operator or no arguments.")
            done = _apply(*unfinished.pop())
        else:
            raise ValueError(f"This is not a ListOps expression: {token!r} is not a token.")
        if unfinished:
            unfinished[-1][1].append(done)
        else:
            value = done
    if value is None:
        raise ValueError("This is not a ListOps expression: it is empty or ends before its last bracket.")
    return value


def _apply(operator: int, arguments: list[int]) -> int:
    if operator == MIN:
        return min(arguments)
    if operator == MAX:
        return max(arguments)
    if operator == SM:
        return sum(arguments) % 10
    ordered, middle = sorted(arguments), len(arguments) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) // 2
