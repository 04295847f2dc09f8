"""Step 3 of a corpus with ``--masked-once``, as in BERT's code: samples masked in advance, in several copies.

Sentences of a document are concatenated until a sample is full; one in ten documents aims at a shorter length. What
does not fit continues in the next sample, so no token is lost; BERT's code cuts it away. With sentence pairs, the
second segment is the continuation in half of the cases, else from another document of the same shard. A shard has the
arrays ``input_ids`` (n, L), ``positions`` and ``position_labels`` (n, P), ``lengths`` (n, 2: of the first segment and
of both, special tokens included) and, with pairs, ``next_sentence`` (n,).
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nip.counter_rng import key
from nip.data.corpus.batch import Batch, token_type
from nip.data.corpus.normalize import sentences
from nip.data.corpus.settings import Settings
from nip.data.corpus.tokenizer import Encoder, count_unknown
from nip.data.masking import IGNORED, Masking, Vocabulary, mask

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Array = NDArray[Any]
Span = tuple[int, int]  # [begin, end) in the tokens of a shard

SHORT = 0.1  # share of documents that aim at a shorter length
_AT_ONCE = 1 << 14  # samples that are masked at a time
_PARTS = ("input_ids", "positions", "position_labels", "lengths")


@dataclass(frozen=True)
class Sentences:
    """Tokens of a shard's documents, sentence by sentence.

    Parameters
    ----------
    tokens : ndarray of shape (n_tokens,)
    ends : list of int
        Where each sentence begins in the tokens, and the end.
    documents : list of int
        The first sentence of each document, and the end.
    """

    tokens: Array
    ends: list[int]
    documents: list[int]


@dataclass(frozen=True)
class MaskedOnce:
    """A memory-mapped shard of n samples.

    Parameters
    ----------
    input_ids : ndarray of shape (n, L)
    positions, position_labels : ndarray of shape (n, P)
        See `nip.data.masking.Masked`.
    lengths : ndarray of shape (n, 2)
        Tokens of the first segment and of both.
    next_sentence : ndarray of shape (n,), optional
        For sentence pairs: 1 where the second is a random one.
    """

    input_ids: Array
    positions: Array
    position_labels: Array
    lengths: Array
    next_sentence: Array | None = None

    def __len__(self) -> int:
        return int(self.lengths.shape[0])

    def read(self, rows: Array, batch: Batch, into: Array, vocabulary: Vocabulary) -> None:
        """Write some samples of the shard into a batch of padding; see `nip.data.corpus.shards.Packed.read`.

        Parameters
        ----------
        rows : ndarray of shape (b,), int64
            Numbers of the samples in the shard.
        batch : Batch
            Changed in place.
        into : ndarray of shape (b,), int64
            Rows of the batch that they fill.
        vocabulary : Vocabulary
        """
        assert batch.masked is not None
        first, both = (self.lengths[rows, i].astype(np.int64)[:, None] for i in (0, 1))
        place = np.arange(batch.input_ids.shape[1])
        batch.input_ids[into] = self.input_ids[rows]
        batch.segment_ids[into] = place < both
        batch.token_type_ids[into] = (place >= first) & (place < both)
        batch.masked.input_ids[into] = batch.input_ids[into]
        batch.masked.positions[into] = self.positions[rows]
        labels = self.position_labels[rows].astype(np.int64)
        batch.masked.position_labels[into] = labels
        at, which = np.nonzero(labels != IGNORED)
        batch.masked.labels[into[at], self.positions[rows][at, which]] = labels[at, which]
        if batch.next_sentence is not None and self.next_sentence is not None:
            batch.next_sentence[into] = self.next_sentence[rows]


def masked_arrays(
    batches: Iterator[list[str]], tokenizer: Tokenizer, vocabulary: Vocabulary, settings: Settings, number: int
) -> tuple[dict[str, Array], dict[str, int]]:
    """The arrays of a shard, and its numbers of documents, tokens and samples.

    Parameters
    ----------
    batches : iterator of lists of str
        Documents.
    tokenizer : Tokenizer
    vocabulary : Vocabulary
    settings : Settings
    number : int
        Of the shard: part of the random seed.

    Returns
    -------
    arrays : dict of str to ndarray
    counts : dict of str to int
        Also ``sampled``: how many of the documents' tokens are in every copy of the samples.
    """
    found, without_tokens = _tokenized(batches, tokenizer, token_type(vocabulary.size))
    length = settings.max_seq_length
    samples: list[tuple[Span, Span | None, bool]] = []
    sampled = []
    for copy in range(settings.dup_factor):
        draw = random.Random(int(key(settings.seed, number, copy)))
        begin = len(samples)
        for d in range(len(found.documents) - 1):
            samples.extend(pairs(found, d, length, draw) if settings.next_sentence else singles(found, d, length, draw))
        sampled.append(sum(map(_own_tokens, samples[begin:])))
    how = Masking(settings.masked_lm_prob, settings.max_predictions_per_seq)
    parts: dict[str, list[Array]] = {part: [] for part in _PARTS}
    for begin in range(0, len(samples), _AT_ONCE):
        some = samples[begin : begin + _AT_ONCE]
        ids, lengths = _rows(found.tokens, some, length, vocabulary)
        numbers = np.arange(begin, begin + len(some))
        masked = mask(ids, numbers, vocabulary, how, seed=settings.seed, epoch=number)
        parts["input_ids"].append(masked.input_ids.astype(token_type(vocabulary.size)))
        parts["positions"].append(masked.positions.astype("<u2"))
        parts["position_labels"].append(masked.position_labels.astype("<i4"))
        parts["lengths"].append(lengths.astype("<u4"))
    arrays = {part: np.concatenate(values) for part, values in parts.items() if values}
    if settings.next_sentence:
        arrays["next_sentence"] = np.array([is_random for _, _, is_random in samples], np.uint8)
    counts = {
        "documents": len(found.documents) - 1,
        "without_tokens": without_tokens,
        "tokens": int(found.tokens.size),
        "unknown": count_unknown(tokenizer, found.tokens),
        "sampled": min(sampled),
        "samples": len(samples),
    }
    return arrays, counts


def singles(found: Sentences, d: int, length: int, draw: random.Random) -> Iterator[tuple[Span, None, bool]]:
    """The single-segment samples of document d: token span, None, False.

    Parameters
    ----------
    found : Sentences
    d : int
        The document's number.
    length : int
        Tokens of a sample at most, special tokens included.
    draw : random.Random
    """
    most = length - 2
    target = _target(most, draw)
    begin, last = found.ends[found.documents[d]], found.ends[found.documents[d + 1]]
    while begin < last:
        end = _full(found, begin, last, target, most)
        yield (begin, end), None, False
        begin = end


def pairs(found: Sentences, d: int, length: int, draw: random.Random) -> Iterator[tuple[Span, Span, bool]]:
    """The sentence pairs of document d: two token spans, and whether the second is random.

    Parameters
    ----------
    found : Sentences
    d : int
        The document's number.
    length : int
        Tokens of a sample at most, special tokens included.
    draw : random.Random
    """
    most = length - 3
    target = _target(most, draw)
    begin, last = found.ends[found.documents[d]], found.ends[found.documents[d + 1]]
    while begin < last:
        end = _full(found, begin, last, target, most)
        inner = range(bisect_right(found.ends, begin), bisect_left(found.ends, end))  # ends of sentences between them
        if inner:
            cut = found.ends[inner[_below(len(inner), draw)]]
        elif _is_end(found, begin) and _is_end(found, end):
            cut = end  # a single sentence
        else:
            cut = _between(begin, end, draw)  # a stretch of one that continues
        other = _other_document(found, d, draw)
        is_random = other is not None and (cut == end or draw.random() < 0.5)
        if is_random:
            assert other is not None
            start = found.documents[other] + _below(found.documents[other + 1] - found.documents[other], draw)
            wanted = target - (cut - begin)
            stop = bisect_left(found.ends, found.ends[start] + wanted, start + 1, found.documents[other + 1])
            size = found.ends[stop] - found.ends[start]
            cut = min(cut, begin + most - min(size, most // 2))  # the rest continues
            second = _shortened(found.ends[start], found.ends[stop], most - (cut - begin), draw)
            after = cut
        else:
            if cut == end:
                cut = _between(begin, end, draw)  # no other document
            second, after = (cut, end), end
        if second[0] < second[1]:
            yield (begin, cut), second, is_random
        begin = after


def _own_tokens(sample: tuple[Span, Span | None, bool]) -> int:
    """Number of tokens of a sample without those of a random second segment, which are in other samples too."""
    first, second, is_random = sample
    return first[1] - first[0] + (0 if second is None or is_random else second[1] - second[0])


def _tokenized(batches: Iterator[list[str]], tokenizer: Tokenizer, kind: np.dtype[Any]) -> tuple[Sentences, int]:
    """The sentences of the documents as tokens, and the number of documents that have none."""
    tokens: list[Array] = []
    ends, documents = [0], [0]
    without_tokens = 0
    encode = Encoder(tokenizer, kind)
    for texts in batches:
        split = [sentences(text) for text in texts]
        encoded = encode([sentence for document in split for sentence in document])
        for document in split:
            for _ in document:
                ids = next(encoded)
                if ids.size:
                    tokens.append(ids)
                    ends.append(ends[-1] + ids.size)
            if len(ends) - 1 > documents[-1]:
                documents.append(len(ends) - 1)
            else:
                without_tokens += 1
    return Sentences(np.concatenate(tokens) if tokens else np.empty(0, kind), ends, documents), without_tokens


def _full(found: Sentences, begin: int, last: int, target: int, most: int) -> int:
    """The end of the sentences from token `begin` on that have at least `target` tokens, cut after `most`."""
    end = found.ends[min(bisect_left(found.ends, begin + target), len(found.ends) - 1)]
    return min(end, begin + most, last)


def _is_end(found: Sentences, token: int) -> bool:
    """Whether a sentence ends, or begins, at this token."""
    return found.ends[bisect_left(found.ends, token)] == token


def _between(begin: int, end: int, draw: random.Random) -> int:
    """A token after `begin` and before `end`; `end` if there is none."""
    return begin + 1 + _below(end - begin - 1, draw) if end - begin > 1 else end


def _target(most: int, draw: random.Random) -> int:
    return 2 + _below(most - 1, draw) if draw.random() < SHORT else most


def _below(n: int, draw: random.Random) -> int:
    """An integer in [0, n), from random() alone, which is the same in every version of Python."""
    return int(draw.random() * n)


def _other_document(found: Sentences, d: int, draw: random.Random) -> int | None:
    n = len(found.documents) - 1
    if n == 1:
        return None
    other = _below(n - 1, draw)
    return other + (other >= d)


def _shortened(begin: int, end: int, most: int, draw: random.Random) -> Span:
    """A span cut to at most `most` tokens, each removed at a random end."""
    excess = max(0, end - begin - most)
    front = sum(draw.random() < 0.5 for _ in range(excess))
    return begin + front, end - (excess - front)


def _rows(
    tokens: Array, samples: list[tuple[Span, Span | None, bool]], length: int, vocabulary: Vocabulary
) -> tuple[Array, Array]:
    ids = np.full((len(samples), length), vocabulary.pad, np.int64)
    lengths = np.zeros((len(samples), 2), np.int64)
    for row, (first, second, _) in enumerate(samples):
        parts: list[Any] = [[vocabulary.cls], tokens[first[0] : first[1]], [vocabulary.sep]]
        lengths[row] = first[1] - first[0] + 2
        if second is not None:
            parts += [tokens[second[0] : second[1]], [vocabulary.sep]]
            lengths[row, 1] += second[1] - second[0] + 1
        ids[row, : lengths[row, 1]] = np.concatenate(parts)
    return ids, lengths
