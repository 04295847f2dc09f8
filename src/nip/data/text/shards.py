"""The third step, for samples that are masked when they are trained on: a chunk's documents as tokens.

A shard has three arrays: ``tokens`` (all its documents, no special tokens), ``documents`` (where each begins, and the
end) and ``samples`` (where each sample begins, see `nip.data.text.packing`). From the first two, samples of any other
length are made in a moment: the same shards serve 128 and then 512 tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nip.data.storage import checksum
from nip.data.text.batch import Batch, token_type
from nip.data.text.duplicates import Fate
from nip.data.text.encoding import Encoder
from nip.data.text.formatting import Chunk, by_size, open_chunk, write_array, write_json
from nip.data.text.masking import Vocabulary
from nip.data.text.packing import assemble, pack
from nip.data.text.samples import masked_arrays
from nip.data.text.settings import Settings
from nip.data.text.tokenizing import load

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Array = NDArray[Any]

SPLITS = {"train": Fate.TRAIN, "test": Fate.TEST}
TOKENIZER = "tokenizer"  # the folder of the corpus's own
FATES = "fates.npy"
_BATCH = 1 << 20  # characters that are encoded at once


@dataclass(frozen=True)
class Packed:
    """A shard, mapped into memory."""

    tokens: Array
    documents: Array
    samples: Array

    def __len__(self) -> int:
        return self.samples.size - 1

    def read(self, rows: Array, batch: Batch, into: Array, vocabulary: Vocabulary) -> None:
        """Write the samples `rows` of the shard into the rows `into` of a batch of padding."""
        for row, place in zip(rows.tolist(), into.tolist(), strict=True):
            begin, end = int(self.samples[row]), int(self.samples[row + 1])
            ids, segments = batch.input_ids[place], batch.segment_ids[place]
            assemble(self.tokens, self.documents, begin, end, vocabulary.cls, vocabulary.sep, ids, segments)


def kept(chunk: Chunk, fates: Array, fate: Fate) -> Iterator[list[str]]:
    """The documents of a chunk with that fate, about `_BATCH` characters at a time."""
    texts = (chunk.document(i).decode() for i in np.flatnonzero(fates == fate).tolist())
    return by_size(texts, _BATCH)


def shard_chunk(out: Path, work: Path, number: int, name: str, begin: int, end: int, settings: Settings) -> None:
    """Write the shards of a chunk, one a split, unless that was done before.

    Parameters
    ----------
    out, work : Path
        The folder of the corpus and that of its unfinished parts.
    number : int
        Of the chunk in the corpus.
    name : str
        Of the chunk.
    begin, end : int
        Its documents in the corpus.
    settings : Settings
    """
    done = work / f"shard-{number:05}.json"
    if done.is_file():
        return
    chunk = open_chunk(work, name)
    fates = np.load(work / FATES, mmap_mode="r", allow_pickle=False)[begin:end]
    tokenizer, vocabulary = load(out / TOKENIZER)
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
            sums[part] = {"bytes": path.stat().st_size, "sha256": checksum(path)}
        made[split] = {"name": f"{split}-{number:05}", **counts, "files": sums}
    write_json(done, made)


def _packed_arrays(
    batches: Iterator[list[str]], tokenizer: Tokenizer, vocabulary: Vocabulary, settings: Settings
) -> tuple[dict[str, Array], dict[str, int]]:
    kind = token_type(vocabulary.size)
    tokens: list[Array] = []
    lengths: list[int] = []
    encode = Encoder(tokenizer, kind)
    for texts in batches:
        for ids in encode(texts):
            if ids.size:
                tokens.append(ids)
                lengths.append(ids.size)
    documents = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=documents[1:])
    samples = pack(documents, settings.max_seq_length, packing=settings.packing)
    flat = np.concatenate(tokens) if tokens else np.empty(0, kind)
    arrays = {"tokens": flat, "documents": documents, "samples": samples}
    return arrays, {"documents": len(lengths), "tokens": int(flat.size), "samples": samples.size - 1}
