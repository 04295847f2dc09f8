"""Samples of the original's ``generate_samples.py``, masked in advance, as the shards of a corpus.

They are parquet files with the columns of `COLUMNS`, one row per sample, and ``next_sentence_labels`` for sentence
pairs; ``train`` or ``test`` in a file's name is its split. Those of academic-budget-BERT are HDF5 files with the same
arrays, which are recognized and not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nip.data.corpus.batch import token_type
from nip.data.corpus.clean import write_array
from nip.data.corpus.files import find_files
from nip.data.corpus.settings import Settings
from nip.data.corpus.tokenizer import count_unknown, load_tokenizer
from nip.data.masking import IGNORED, Vocabulary
from nip.data.tables import parquet_batches, parquet_columns
from nip.runs.folder import file_sha256

Array = NDArray[Any]

COLUMNS = ("input_ids", "input_mask", "segment_ids", "masked_lm_positions", "masked_lm_ids")
NEXT = "next_sentence_labels"
SPLITS = ("train", "test")
IN_HDF5 = (
    "It has HDF5 files, as academic-budget-BERT writes its samples. nip reads those of the original, in parquet files "
    f"with the columns {', '.join(COLUMNS)}: write the same arrays as such files, or make a corpus of the text."
)
_HDF5 = b"\x89HDF\r\n\x1a\n"
_SHARD = 1 << 16  # samples


@dataclass(frozen=True)
class OriginalSamples:
    """The files of a folder of samples.

    Parameters
    ----------
    files : dict of str to list of Path
        By split.
    length, predictions : int
        Tokens of a sample, and predictions at most.
    pairs : bool
        Whether they are sentence pairs with labels.
    """

    files: dict[str, list[Path]]
    length: int
    predictions: int
    pairs: bool

    def settings(self, given: Settings) -> Settings:
        """The settings of a corpus of them: those of the samples, and the tokenizer that is given."""
        if given.tokenizer is None:
            raise ValueError("These samples are token ids: name the tokenizer that made them with --tokenizer.")
        return Settings(
            tokenizer=given.tokenizer,
            lower_case=given.lower_case,
            max_seq_length=self.length,
            max_predictions_per_seq=self.predictions,
            masked_once=True,
            next_sentence=self.pairs,
            dup_factor=1,
            frac_test=0.0,
            split_by_name=True,
        )


def kind_of_samples(origin: Path) -> str | None:
    """``parquet`` or ``hdf5`` if a file, or the first of a folder, has samples of the original; None otherwise."""
    try:
        first = next(iter(find_files(origin)), None)
        if first is None:
            return None
        with first.open("rb") as file:
            head = file.read(len(_HDF5))
        if head == _HDF5:
            return "hdf5"
        return "parquet" if head.startswith(b"PAR1") and set(COLUMNS) <= set(parquet_columns(first)) else None
    except (OSError, ValueError, ImportError):  # the reader of its format says what is wrong
        return None


def find_samples(origin: Path) -> OriginalSamples | None:
    """The samples in a file or folder; None if it has none.

    Raises
    ------
    ValueError
        If they are HDF5 files, a file is of another kind or names no split, or there is no training file.
    """
    kind = kind_of_samples(origin)
    if kind is None:
        return None
    if kind == "hdf5":
        raise ValueError(f"{origin} cannot be converted. {IN_HDF5}")
    files: dict[str, list[Path]] = {}
    shapes = set()
    for file in find_files(origin):
        if kind_of_samples(file) != "parquet":
            raise ValueError(f"{file} is no file of samples like the others in {origin}. Move it elsewhere.")
        split = next((split for split in SPLITS if split in file.name), None)
        if split is None and origin.is_dir():
            raise ValueError(f"The name of {file} says neither train nor test, so its split is unknown. Rename it.")
        files.setdefault(split or "train", []).append(file)
        first = next(_batches(file, 1), None)
        if first is None:
            raise ValueError(f"{file} has no samples.")
        shapes.add((first["input_ids"].shape[1], first["masked_lm_positions"].shape[1], NEXT in first))
    if len(shapes) > 1:
        raise ValueError(f"The files in {origin} have samples of different lengths, predictions or kinds.")
    if "train" not in files:
        raise ValueError(f"{origin} has no file with train in its name.")
    return OriginalSamples(files, *shapes.pop())


def write_shards(out: Path, tokenizer: Path, samples: OriginalSamples) -> Iterator[tuple[str, dict[str, Any]]]:
    """Write the shards of a corpus from samples; yields each one's split and its entry for the manifest.

    Parameters
    ----------
    out : Path
        The folder of the corpus.
    tokenizer : Path
        The folder of its tokenizer.
    samples : OriginalSamples

    Raises
    ------
    ValueError
        If a sample is damaged, or was made with another tokenizer; the message names file and row.
    """
    own, vocabulary = load_tokenizer(tokenizer)
    number = 0
    for split, files in samples.files.items():
        for file in files:
            row = 0
            for columns in _batches(file, _SHARD):
                arrays, tokens = _arrays(columns, samples, vocabulary, (file, row))
                row += len(arrays["input_ids"])
                name, sums = f"{split}-{number:05}", {}
                for part, values in arrays.items():
                    path = out / f"{name}.{part}.npy"
                    write_array(path, values)
                    sums[part] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
                counts = {"documents": len(arrays["input_ids"]), "without_tokens": 0, "tokens": int(tokens.size)}
                counts |= {"unknown": count_unknown(own, tokens), "sampled": int(tokens.size)}
                yield split, {"name": name, **counts, "samples": len(arrays["input_ids"]), "files": sums}
                number += 1


def _batches(file: Path, size: int) -> Iterator[dict[str, Array]]:
    """The columns of some rows at a time, as arrays of shape (n, length), or (n,) for labels of pairs."""
    names = [*COLUMNS, *([NEXT] if NEXT in parquet_columns(file) else [])]
    for batch in parquet_batches(file, names, size):
        columns = {}
        for name in names:
            column = batch.column(name)
            try:
                if name == NEXT:
                    columns[name] = np.asarray(column.to_numpy(zero_copy_only=False)).astype(np.int64, casting="safe")
                    continue
                lengths = np.diff(np.asarray(column.offsets))
                values = column.flatten().to_numpy(zero_copy_only=False).astype(np.int64, casting="safe")
            except (TypeError, ValueError, AttributeError) as error:
                raise ValueError(f"{file} has no lists of integers in the column {name}.") from error
            if (lengths != lengths[0]).any() or values.size != lengths.sum():
                raise ValueError(f"{file} has samples of different lengths in the column {name}.")
            columns[name] = values.reshape(len(lengths), lengths[0])
        yield columns


def _arrays(
    columns: dict[str, Array], samples: OriginalSamples, vocabulary: Vocabulary, place: tuple[Path, int]
) -> tuple[dict[str, Array], Array]:
    """The arrays of a shard (`nip.data.corpus.bert_samples.MaskedOnce`), and its tokens without special ones."""
    ids, mask, segments, positions, labels = (columns[name] for name in COLUMNS)
    n = len(ids)
    shapes = {ids.shape, mask.shape, segments.shape}, {positions.shape, labels.shape}
    if shapes != ({(n, samples.length)}, {(n, samples.predictions)}):
        raise ValueError(f"{place[0]} has samples of different lengths.")
    lengths = mask.sum(1)
    at = np.arange(samples.length)
    real = at < lengths[:, None]
    # the first position 0, which is that of [CLS], ends the list of predictions
    predicted = np.cumprod(positions != 0, axis=1).astype(bool)
    first = lengths - (segments * real).sum(1)
    rows = np.arange(n)
    own = range(vocabulary.size)
    outside = (((ids < 0) | (ids >= own.stop)) & real).any(1) | (((labels < 0) | (labels >= own.stop)) & predicted).any(
        1
    )
    wrong = {
        "has a mask that is not 1 up to its end": (mask != real).any(1) | (lengths < 2),
        "has segments that are not 0, then 1": (segments != (real & (at >= first[:, None]))).any(1),
        "does not begin with the tokenizer's [CLS] and end with its [SEP]": (ids[:, 0] != vocabulary.cls)
        | (ids[rows, np.maximum(lengths, 1) - 1] != vocabulary.sep),
        f"has ids outside the tokenizer's 0 … {own.stop - 1}": outside,
        "predicts tokens beyond its end": (((positions < 0) | (positions >= lengths[:, None])) & predicted).any(1),
    }  # fmt: skip
    for what, where in wrong.items():
        if where.any():
            number = place[1] + int(np.flatnonzero(where)[0])
            raise ValueError(f"{place[0]}, row {number}: the sample {what}. --tokenizer must be the one that made it.")
    kind = token_type(vocabulary.size)
    arrays = {
        "input_ids": np.where(real, ids, vocabulary.pad).astype(kind),
        "positions": np.where(predicted, positions, 0).astype("<u2"),
        "position_labels": np.where(predicted, labels, IGNORED).astype("<i4"),
        "lengths": np.stack([first, lengths], 1).astype("<u4"),
    }
    if samples.pairs:
        arrays["next_sentence"] = columns[NEXT].astype(np.uint8)
    unmasked = ids.copy()
    row, which = np.nonzero(predicted)
    unmasked[row, positions[row, which]] = labels[row, which]
    return arrays, unmasked[real & ~np.isin(unmasked, (vocabulary.cls, vocabulary.sep))].astype(kind)


def options_without_effect(given: Settings) -> list[str]:
    """The names of settings that differ from their defaults and mean nothing for samples: all but the tokenizer's."""
    usual = Settings(tokenizer=given.tokenizer, lower_case=given.lower_case, train_tokenizer=given.train_tokenizer)
    return [name for name, value in vars(usual).items() if getattr(given, name) != value]
