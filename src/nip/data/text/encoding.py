"""Token ids of texts, each word's computed once.

BERT's tokenizers treat what stands between spaces and punctuation by itself: the same word gives the same ids wherever
it stands. So they are looked up, and only new words are given to the `tokenizers` library, which spends some five times
as long on a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Array = NDArray[Any]

# Runs without a space, a line's end or ASCII's punctuation, and each punctuation mark. Everything else is left to the
# library: other spaces, other punctuation, characters that are words.
_PIECE = re.compile(r"[^ \n!-/:-@\[-`{-~]+|[!-/:-@\[-`{-~]")
_KNOWN = 1 << 21  # characters of the pieces that are remembered: some 50 MB


class Encoder:
    """Gives what ``tokenizer.encode_batch_fast(texts, add_special_tokens=False)`` gives, as arrays.

    Parameters
    ----------
    tokenizer : Tokenizer
        One without padding or truncation. If it isn't like BERT's, whole texts are given to it.
    kind : dtype
        Of the ids.
    """

    def __init__(self, tokenizer: Tokenizer, kind: np.dtype[Any]) -> None:
        self._tokenizer = tokenizer
        self._kind = kind
        self._by_word = _treats_words_alone(tokenizer)
        self._added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
        self._known: dict[str, bytes] = {}
        self._size = 0

    def __call__(self, texts: list[str]) -> Iterator[Array]:
        """The ids of each text, without special tokens around them."""
        parts = [self._pieces(text) for text in texts]
        new = list(set().union(*parts).difference(self._known))
        encodings = self._tokenizer.encode_batch_fast(new, add_special_tokens=False)
        for piece, encoding in zip(new, encodings, strict=True):
            self._known[piece] = np.array(encoding.ids, self._kind).tobytes()
        self._size += sum(map(len, new))
        for pieces in parts:
            yield np.frombuffer(b"".join(map(self._known.__getitem__, pieces)), self._kind)
        if self._size > _KNOWN:
            self._known.clear()
            self._size = 0

    def _pieces(self, text: str) -> list[str]:
        """A text in pieces that can be encoded one by one."""
        if self._by_word and not any(token in text for token in self._added):
            return _PIECE.findall(text)
        return [text]


def _treats_words_alone(tokenizer: Tokenizer) -> bool:
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    return (
        isinstance(tokenizer.normalizer, BertNormalizer)
        and isinstance(tokenizer.pre_tokenizer, BertPreTokenizer)
        # others are found in the text as it is normalised, not as it stands
        and not any(token.normalized for token in tokenizer.get_added_tokens_decoder().values())
    )
