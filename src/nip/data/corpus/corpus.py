"""A corpus on disk, as training reads it.

``<folder>/manifest.json`` has the settings and the shards with their checksums; ``tokenizer/`` is the tokenizer.

Training uses one interface for both kinds of samples::

    corpus = open_corpus(folder, "train", max_seq_length=128)
    batch = corpus.batch(places, seed=0, epoch=0)       # input_ids, segment_ids, token_type_ids, numbers
    masked = corpus.masked(batch, Masking(), seed=0, epoch=0)   # input_ids, labels, positions, position_labels

`places` are in [0, len(corpus)): places in the epoch's order, a permutation that depends only on seed and epoch and is
never stored (`nip.counter_rng.permuted`). Process r of w takes every w-th place of a global batch, ``places[r::w]``, so
any number of processes sees the same samples in the same steps. Masks depend on seed, epoch and the sample's number
(`nip.data.masking`), not on the process.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nip.counter_rng import permuted
from nip.data.corpus.batch import Batch
from nip.data.corpus.bert_samples import MaskedOnce
from nip.data.corpus.original_samples import IN_HDF5, kind_of_samples
from nip.data.corpus.shards import TOKENIZER, Packed, pack
from nip.data.masking import IGNORED, Masked, Masking, Vocabulary, mask
from nip.data.tasks.storage import MANIFEST, task_in
from nip.runs.folder import file_sha256

Array = NDArray[Any]

FORMAT = 1
# Of the rules by which text is read and sampled. Manifests of rules before 2 have no number: text that was too long for
# a sample that is masked once was lost.
RULES = 2
KIND = "corpus"
_OPEN = 200  # shards at a time: each uses a few file descriptors, of which a process usually has 1,024


@dataclass(frozen=True)
class Corpus:
    """The samples of one split, numbered from 0.

    Parameters
    ----------
    folder : Path
    split : {"train", "test"}
    manifest : dict
    max_seq_length : int
        Tokens per sample.
    vocabulary : Vocabulary
        Of `tokenizer`.
    begins : ndarray of shape (n_shards + 1,), int64
        The number of each shard's first sample, and the number of samples.
    """

    folder: Path
    split: str
    manifest: dict[str, Any]
    max_seq_length: int
    vocabulary: Vocabulary
    begins: Array
    _samples: dict[int, Array] = field(
        default_factory=dict, repr=False
    )  # by shard: where samples of another length begin
    _open: dict[int, Packed | MaskedOnce] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return int(self.begins[-1])

    @property
    def tokenizer(self) -> Path:
        """The folder of the tokenizer, for ``AutoTokenizer.from_pretrained``."""
        return self.folder / TOKENIZER

    @property
    def masked_once(self) -> bool:
        """Whether the samples were masked when the corpus was made."""
        return bool(self.manifest["settings"]["masked_once"])

    @property
    def tokens(self) -> int:
        """Number of tokens of the split's documents, without special tokens."""
        return int(self.manifest["splits"][self.split]["tokens"])

    def batch(self, places: Array, *, seed: int, epoch: int) -> Batch:
        """The samples at some places of an epoch's order.

        Parameters
        ----------
        places : ndarray of shape (b,), int
            In [0, len(corpus)).
        seed, epoch : int

        Returns
        -------
        Batch
        """
        return self.samples(permuted(np.asarray(places), len(self), seed, epoch))

    def samples(self, numbers: Array) -> Batch:
        """Samples by their numbers.

        Raises
        ------
        ValueError
            If a number is out of range.
        """
        numbers = np.asarray(numbers, np.int64)
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise ValueError(f"The samples of {self.folder} are numbered 0 … {len(self) - 1}. Got {numbers} instead.")
        shape = (numbers.size, self.max_seq_length)
        batch = Batch(
            numbers,
            np.full(shape, self.vocabulary.pad, np.int64),
            np.zeros(shape, np.int32),
            np.zeros(shape, np.int64),
        )
        settings = self.manifest["settings"]
        if settings["masked_once"]:
            most = min(settings["max_predictions_per_seq"], self.max_seq_length)
            few = (numbers.size, most)
            blank = np.full(shape, IGNORED, np.int64)
            batch = replace(
                batch,
                masked=Masked(batch.input_ids.copy(), blank, np.zeros(few, np.int64), np.full(few, IGNORED, np.int64)),
                next_sentence=np.zeros(numbers.size, np.int64) if settings["next_sentence"] else None,
            )
        shards = np.searchsorted(self.begins, numbers, side="right") - 1
        for k in np.unique(shards).tolist():
            into = np.flatnonzero(shards == k)
            self._shard(k).read(numbers[into] - self.begins[k], batch, into, self.vocabulary)
        return batch

    def masked(self, batch: Batch, how: Masking, *, seed: int, epoch: int) -> Masked:
        """Mask a batch; samples that were masked in advance keep their masks.

        Parameters
        ----------
        batch : Batch
        how : Masking
        seed, epoch : int

        Returns
        -------
        Masked
        """
        if batch.masked is not None:
            return batch.masked
        return mask(batch.input_ids, batch.numbers, self.vocabulary, how, seed=seed, epoch=epoch)

    def _shard(self, k: int) -> Packed | MaskedOnce:
        shard: Packed | MaskedOnce | None = self._open.pop(k, None)
        if shard is None:
            while len(self._open) >= _OPEN:
                del self._open[next(iter(self._open))]  # the least recently used one
            entry = self.manifest["splits"][self.split]["shards"][k]
            arrays = {part: _array(self.folder, entry, part) for part in entry["files"]}
            if not self.masked_once and k in self._samples:
                arrays["samples"] = self._samples[k]
            shard = MaskedOnce(**arrays) if self.masked_once else Packed(**arrays)
        self._open[k] = shard
        return shard


def open_corpus(
    folder: Path | str, split: Literal["train", "test"] = "train", *, max_seq_length: int | None = None
) -> Corpus:
    """Open one split of a corpus that ``nip data corpus`` made.

    Parameters
    ----------
    folder : path
    split : {"train", "test"}, default="train"
    max_seq_length : int, optional
        Pack samples of another length than the corpus was made with. Not for samples masked in advance.

    Returns
    -------
    Corpus

    Raises
    ------
    FileNotFoundError
        If there is no finished corpus in the folder.
    ValueError
        If a shard is missing or has the wrong size, there is no such split, or samples cannot have that length.
    """
    folder = Path(folder).expanduser()
    manifest = read_manifest(folder)
    if split not in manifest["splits"]:
        raise ValueError(f"{folder} has no split {split!r}. Its splits are {', '.join(manifest['splits'])}.")
    settings = manifest["settings"]
    shards = manifest["splits"][split]["shards"]
    for entry in shards:
        for part, file in entry["files"].items():
            path = folder / f"{entry['name']}.{part}.npy"
            if not path.is_file():
                raise _damaged(path, "it is missing")
            if path.stat().st_size != file["bytes"]:
                raise _damaged(path, f"it has {path.stat().st_size} bytes and should have {file['bytes']}")
    length = settings["max_seq_length"] if max_seq_length is None else max_seq_length
    others: dict[int, Array] = {}
    if length != settings["max_seq_length"]:
        if settings["masked_once"]:
            raise ValueError(
                f"The samples of {folder} were masked once, at {settings['max_seq_length']} tokens; "
                f"they cannot have {length}."
            )
        if length < 8:
            raise ValueError(f"Samples must have at least 8 tokens. Got {length} instead.")
        for k, entry in enumerate(shards):
            others[k] = pack(_array(folder, entry, "documents"), length, packing=settings["packing"])
    counts = [others[k].size - 1 if others else entry["samples"] for k, entry in enumerate(shards)]
    begins = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
    described = manifest["tokenizer"]["vocabulary"]
    vocabulary = Vocabulary(**{**described, "special": tuple(described["special"])})
    return Corpus(folder, split, manifest, length, vocabulary, begins, others)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a corpus: settings, source, counts, shards and checksums.

    Raises
    ------
    FileNotFoundError
        If there is no finished corpus in the folder.
    ValueError
        If the manifest is damaged, or has another kind or format version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"There is no corpus in {folder}. {_way_to_make(folder)}")
    try:
        manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
        kind, version = manifest["kind"], manifest["format"]
        if kind == KIND and version == FORMAT:
            for split in manifest["splits"].values():
                for entry in split["shards"]:
                    assert entry["files"].keys() and entry["samples"] > 0
            Vocabulary(**manifest["tokenizer"]["vocabulary"])
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        task = task_in(folder)
        if task is not None:
            raise ValueError(
                f"{folder} has the data of {task}, not a corpus. Make a corpus with: nip data corpus"
            ) from error
        raise _damaged(path, f"it is not the manifest of a corpus ({type(error).__name__}: {error})") from error
    if (kind, version) != (KIND, FORMAT):
        raise _damaged(
            path, f"it describes {kind!r} of format {version!r}; this version of nip reads {KIND!r} {FORMAT}"
        )
    return manifest


def _way_to_make(folder: Path) -> str:
    """The sentence about how a corpus is made, which never names a folder of other files as the target."""
    other = shlex.quote(f"{folder.resolve()}-corpus")
    kind = kind_of_samples(folder)
    if kind == "hdf5":
        return IN_HDF5
    if kind == "parquet":
        return (
            "It has samples of the original's, masked in advance. Convert them with: "
            f"nip data corpus --from {shlex.quote(str(folder))} --tokenizer NAME --output-dir {other}"
        )
    if folder.is_dir() and any(folder.iterdir()):
        text = f"nip data corpus --from {shlex.quote(str(folder))} --output-dir {other}"
        return f"It has other files. If they are text, make a corpus of them with: {text}"
    return f"Make it with: nip data corpus --from FOLDER --output-dir {shlex.quote(str(folder))}"


def verify(folder: Path) -> dict[str, int]:
    """Check all files of a corpus: checksums, token ids and numbers of samples.

    Returns
    -------
    dict of str to int
        Samples per split.

    Raises
    ------
    FileNotFoundError, ValueError
        At the first error; the message names the file.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest["tokenizer"]["sha256"].items():
        path = folder / TOKENIZER / name
        if not path.is_file() or file_sha256(path) != expected:
            raise _damaged(path, "it is missing" if not path.is_file() else "its SHA-256 is not the manifest's")
    counts = {}
    for split in manifest["splits"]:
        corpus = open_corpus(folder, split)
        for k, entry in enumerate(manifest["splits"][split]["shards"]):
            for part, file in entry["files"].items():
                path = folder / f"{entry['name']}.{part}.npy"
                if file_sha256(path) != file["sha256"]:
                    raise _damaged(path, "its SHA-256 is not the manifest's")
            shard = corpus._shard(k)
            ids = shard.input_ids if isinstance(shard, MaskedOnce) else shard.tokens
            if ids.size and int(ids.max()) >= corpus.vocabulary.size:
                raise _damaged(folder / entry["name"], f"it has token ids above {corpus.vocabulary.size - 1}")
            if len(shard) != entry["samples"]:
                raise _damaged(folder / entry["name"], f"it has {len(shard)} samples, not {entry['samples']}")
        counts[split] = len(corpus)
    return counts


def _array(folder: Path, entry: dict[str, Any], part: str) -> Array:
    path = folder / f"{entry['name']}.{part}.npy"
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise _damaged(path, "it is missing") from error
    except (ValueError, EOFError) as error:
        raise _damaged(path, f"it cannot be read ({error})") from error
    return array


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"{path} is damaged: {why}. Make the corpus again with --overwrite.")
