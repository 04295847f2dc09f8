"""Step 3 of a corpus: a chunk's documents as tokens, and samples of a fixed length packed from them.

A shard has three arrays: ``tokens`` (of all its documents, without special tokens), ``documents`` (where each document
begins, and the end) and ``samples`` (where each sample begins, and the end). Samples of any other length are computed
from the first two in moments: the same shards serve 128 and then 512 tokens.

A sample is a row of segments ``[CLS] tokens [SEP]``, each of one document. Documents are taken in order and cut where a
sample is full; the rest continues in the next sample as a segment of its own. So no token is lost and there is hardly
any padding: a sample ends early only if fewer than `LEAST` tokens of a longer rest would fit.

Samples that are masked when the corpus is made are in `nip.data.corpus.bert_samples`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nip.data.compiled import compiled
from nip.data.corpus.batch import Batch, token_type
from nip.data.corpus.bert_samples import masked_arrays
from nip.data.corpus.clean import Chunk, by_size, open_chunk, write_array
from nip.data.corpus.dedup import Fate
from nip.data.corpus.settings import Settings
from nip.data.corpus.tokenizer import Encoder, count_unknown, load_tokenizer
from nip.data.masking import Vocabulary
from nip.runs.folder import file_sha256, write_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPLITS = {"train": Fate.TRAIN, "test": Fate.TEST}
TOKENIZER = "tokenizer"  # the folder of the corpus's own
FATES = "fates.npy"
LEAST = 16  # tokens of a segment that continues in the next sample
_BATCH = 1 << 20  # characters that are tokenized at once

Array = NDArray[Any]


def pack(documents: Array, length: int, *, packing: bool = True) -> Array:
    """Pack documents into samples of a fixed length.

    Parameters
    ----------
    documents : ndarray of shape (n_documents + 1,), int64
        Where each document begins in the tokens, and the end; special tokens are not counted.
    length : int
        Tokens of a sample, special ones included; at least 3.
    packing : bool, default=True
        False gives each sample a single segment.

    Returns
    -------
    ndarray of shape (n_samples + 1,), int64
        Where each sample begins in the tokens, and the end.

    Examples
    --------
    >>> pack(np.array([0, 5, 9]), 8)  # [CLS] 5 [SEP], where 1 is left; [CLS] 4 [SEP]
    array([0, 5, 9])
    >>> pack(np.array([0, 2, 4, 11]), 8)  # [CLS] 2 [SEP] [CLS] 2 [SEP]; then 6 and 1 of the last document
    array([ 0,  4, 10, 11])
    """
    starts: Array = _pack(np.asarray(documents), length, packing)
    return starts


def assemble(
    tokens: Array, documents: Array, begin: int, end: int, cls: int, sep: int, input_ids: Array, segment_ids: Array
) -> None:
    """Write the sample of the tokens `begin` … `end` − 1 into two rows of padding.

    Parameters
    ----------
    tokens : ndarray of shape (n_tokens,), int
    documents : ndarray of shape (n_documents + 1,), int64
    begin, end : int
        Two successive values of `pack`.
    cls, sep : int
        The tokens around a segment.
    input_ids : ndarray of shape (length,), int
        Written to.
    segment_ids : ndarray of shape (length,), int
        Written to: 1 for the first segment, 2 for the next …; 0 stays for padding.
    """
    _assemble(np.asarray(tokens), np.asarray(documents), begin, end, cls, sep, input_ids, segment_ids)


@compiled
def _pack(documents: Array, length: int, packing: bool) -> Array:
    n_tokens = documents[-1]
    # a sample is full, or a document ends in it
    starts = np.empty(documents.size + n_tokens // max(1, length - 2) + 2, np.int64)
    samples = 0
    room = length
    if n_tokens > 0:
        starts[0] = 0
        samples = 1
    for d in range(documents.size - 1):
        place, end = documents[d], documents[d + 1]
        while place < end:
            whole = end - place <= room - 2
            fits = room == length or (packing and (whole or room - 2 >= LEAST))
            if not fits:
                starts[samples] = place
                samples += 1
                room = length
            taken = min(end - place, room - 2)
            place += taken
            room -= taken + 2
    if samples == 0:
        return np.zeros(1, np.int64)
    starts[samples] = n_tokens
    return starts[: samples + 1].copy()


@compiled
def _assemble(
    tokens: Array, documents: Array, begin: int, end: int, cls: int, sep: int, input_ids: Array, segment_ids: Array
) -> None:
    d = np.searchsorted(documents, begin, side="right") - 1
    segment = place = 0
    while begin < end:
        stop = min(end, documents[d + 1])
        segment += 1
        after = place + stop - begin + 2
        input_ids[place] = cls
        for i in range(stop - begin):
            input_ids[place + 1 + i] = tokens[begin + i]
        input_ids[after - 1] = sep
        segment_ids[place:after] = segment
        place, begin = after, stop
        d += 1


@dataclass(frozen=True)
class Packed:
    """A memory-mapped shard.

    Parameters
    ----------
    tokens : ndarray of shape (n_tokens,), uint16 or uint32
    documents : ndarray of shape (n_documents + 1,), int64
        Where each document begins in the tokens, and the end.
    samples : ndarray of shape (n_samples + 1,), int64
        Where each sample begins in the tokens, and the end.
    """

    tokens: Array
    documents: Array
    samples: Array

    def __len__(self) -> int:
        return self.samples.size - 1

    def read(self, rows: Array, batch: Batch, into: Array, vocabulary: Vocabulary) -> None:
        """Write some samples of the shard into a batch of padding.

        Parameters
        ----------
        rows : ndarray of shape (n,), int
            Sample numbers in the shard.
        batch : Batch
            Written to.
        into : ndarray of shape (n,), int
            Their rows in the batch.
        vocabulary : Vocabulary
        """
        for row, place in zip(rows.tolist(), into.tolist(), strict=True):
            begin, end = int(self.samples[row]), int(self.samples[row + 1])
            ids, segments = batch.input_ids[place], batch.segment_ids[place]
            assemble(self.tokens, self.documents, begin, end, vocabulary.cls, vocabulary.sep, ids, segments)


def kept(chunk: Chunk, fates: Array, fate: Fate) -> Iterator[list[str]]:
    """The documents of a chunk that have a fate, in lists of about `_BATCH` characters.

    Parameters
    ----------
    chunk : Chunk
    fates : ndarray of shape (n_documents,)
        The fate of each document of the chunk.
    fate : Fate
        The one that is wanted.
    """
    texts = (chunk.document(i).decode() for i in np.flatnonzero(fates == fate).tolist())
    return by_size(texts, _BATCH)


def shard_chunk(out: Path, work: Path, number: int, name: str, begin: int, end: int, settings: Settings) -> None:
    """Write the shards of a chunk, one per split; does nothing if they are finished.

    Parameters
    ----------
    out, work : Path
        The folder of the corpus, and the one of its intermediate files.
    number : int
        Of the chunk.
    name : str
        Of the chunk.
    begin, end : int
        Document numbers of the chunk: [begin, end).
    settings : Settings
    """
    done = work / f"shard-{number:05}.json"
    if done.is_file():
        return
    chunk = open_chunk(work, name)
    fates = np.load(work / FATES, mmap_mode="r", allow_pickle=False)[begin:end]
    tokenizer, vocabulary = load_tokenizer(out / TOKENIZER)
    made = {}
    for split, fate in SPLITS.items():
        if not (fates == fate).any():
            continue
        if settings.masked_once:
            batches = kept(chunk, fates, fate)
            arrays, counts = masked_arrays(batches, tokenizer, vocabulary, settings, number)
        else:
            arrays, counts = _packed_arrays(kept(chunk, fates, fate), tokenizer, vocabulary, settings)
        if not counts["samples"]:
            continue
        sums = {}
        for part, values in arrays.items():
            path = out / f"{split}-{number:05}.{part}.npy"
            write_array(path, values)
            sums[part] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        made[split] = {"name": f"{split}-{number:05}", **counts, "files": sums}
    write_json(done, made, indent=1)


def _packed_arrays(
    batches: Iterator[list[str]], tokenizer: Tokenizer, vocabulary: Vocabulary, settings: Settings
) -> tuple[dict[str, Array], dict[str, int]]:
    kind = token_type(vocabulary.size)
    tokens: list[Array] = []
    lengths: list[int] = []
    without_tokens = 0
    encode = Encoder(tokenizer, kind)
    for texts in batches:
        for ids in encode(texts):
            if ids.size:
                tokens.append(ids)
                lengths.append(ids.size)
            else:
                without_tokens += 1
    documents = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=documents[1:])
    samples = pack(documents, settings.max_seq_length, packing=settings.packing)
    flat = np.concatenate(tokens) if tokens else np.empty(0, kind)
    arrays = {"tokens": flat, "documents": documents, "samples": samples}
    counts = {
        "documents": len(lengths),
        "without_tokens": without_tokens,
        "tokens": int(flat.size),
        "unknown": count_unknown(tokenizer, flat),
        "samples": samples.size - 1,
    }
    return arrays, counts
