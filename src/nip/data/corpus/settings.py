"""Settings of a corpus: how it is read, cleaned, split and made into samples."""

from __future__ import annotations

import codecs
from dataclasses import dataclass

from nip.data.corpus.files import FORMS, TEXTUAL
from nip.data.corpus.normalize import UNICODE_FORMS, UnicodeForm


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings that the shards depend on, apart from the input files.

    Parameters
    ----------
    max_seq_length : int, default=128
        Tokens per sample, special tokens included.
    form : {"text", "lines", "books"}, default="text"
        Plain text has documents separated by empty lines (``text``), one document per line (``lines``) or one per file
        (``books``). Other formats are recognised by their content.
    encoding : str, default="utf-8"
        Of text files. Line ends must be the byte 10, so not UTF-16.
    bad_bytes : {"refuse", "drop"}, default="refuse"
        What to do with bytes that the encoding cannot decode.
    column : str, optional
        The column with the text in JSON lines, parquet files and data sets of the hub; by default the first of
        `nip.data.corpus.read.COLUMNS`.
    unicode_form : {"NFC", "NFKC"}, default="NFC"
    min_chars, max_chars : int, default=1 and 0
        Drop shorter and longer documents; 0 sets no maximum.
    exact_duplicates : bool, default=False
        Keep documents that are equal but for white space. Only with ``near_duplicates=0``.
    near_duplicates : float, default=0.8
        Drop a document whose set of shingles has this Jaccard index or more with an earlier one; 0 keeps all.
    frac_test : float, default=0.1
        Share of documents in the test split. A hash of the document decides, so it does not depend on the other ones.
    split_by_name : bool, default=False
        Instead, files with ``train`` in their name are the train split and all others the test split.
    tokenizer : str, optional
        A folder, a ``vocab.txt``, or a name on the Hugging Face Hub.
    train_tokenizer : int, default=0
        Train a WordPiece with a vocabulary of this size; 0 trains none.
    lower_case : bool, default=True
        For a trained tokenizer and a ``vocab.txt``.
    packing : bool, default=True
        Fill samples with several documents; otherwise a sample has one document and padding.
    masked_once : bool, default=False
        Mask samples in advance, in `dup_factor` copies, instead of during training.
    next_sentence : bool, default=False
        With `masked_once`: sentence pairs, half of them random, and a label for these.
    dup_factor : int, default=5
    masked_lm_prob : float, default=0.15
    max_predictions_per_seq : int, default=20
        These three apply to `masked_once`; masking during training has settings of its own.
    seed : int, default=0
        Of `masked_once`.
    shard_mb : int, default=32
        Megabytes of text per part, and so per shard.

    Raises
    ------
    ValueError
        If a value is outside its range, or two settings exclude each other; the message names the option.
    """

    max_seq_length: int = 128
    form: str = "text"
    encoding: str = "utf-8"
    bad_bytes: str = "refuse"
    column: str | None = None
    unicode_form: UnicodeForm = "NFC"
    min_chars: int = 1
    max_chars: int = 0
    exact_duplicates: bool = False
    near_duplicates: float = 0.8
    frac_test: float = 0.1
    split_by_name: bool = False
    tokenizer: str | None = None
    train_tokenizer: int = 0
    lower_case: bool = True
    packing: bool = True
    masked_once: bool = False
    next_sentence: bool = False
    dup_factor: int = 5
    masked_lm_prob: float = 0.15
    max_predictions_per_seq: int = 20
    seed: int = 0
    shard_mb: int = 32

    def __post_init__(self) -> None:
        least = {
            "max_seq_length": 8,
            "min_chars": 1,
            "max_chars": 0,
            "train_tokenizer": 0,
            "dup_factor": 1,
            "max_predictions_per_seq": 1,
            "seed": 0,
            "shard_mb": 1,
        }
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise _wrong(name, f"an integer of at least {bound}", getattr(self, name))
        if self.max_seq_length > 1 << 16:
            raise _wrong("max_seq_length", f"at most {1 << 16}", self.max_seq_length)
        if 0 < self.max_chars < self.min_chars:
            raise _wrong("max_chars", f"0 or at least --min-chars, {self.min_chars}", self.max_chars)
        for name in ("near_duplicates", "frac_test", "masked_lm_prob"):
            value = getattr(self, name)
            if not 0 <= value <= 1 or (name == "frac_test" and value == 1) or (name == "masked_lm_prob" and value == 0):
                bounds = {"frac_test": "from 0 to below 1", "masked_lm_prob": "above 0, at most 1"}
                raise _wrong(name, bounds.get(name, "from 0 to 1"), value)
        if self.form not in TEXTUAL and self.form not in FORMS:
            raise _wrong("form", f"one of {', '.join(TEXTUAL)}", repr(self.form))
        if self.form not in TEXTUAL:
            raise ValueError(f"--form {self.form} is not needed: such files are recognised by their content.")
        if self.unicode_form not in UNICODE_FORMS:
            raise _wrong("unicode_form", f"one of {', '.join(UNICODE_FORMS)}", repr(self.unicode_form))
        if self.bad_bytes not in ("refuse", "drop"):
            raise _wrong("bad_bytes", "refuse or drop", repr(self.bad_bytes))
        try:
            codecs.lookup(self.encoding)
            plain = "\n".encode(self.encoding) == b"\n"
        except LookupError:
            plain = False
        if not plain:
            raise _wrong("encoding", "a known encoding with the byte 10 as line end", repr(self.encoding))
        if (self.tokenizer is None) == (self.train_tokenizer == 0):
            raise ValueError("Name a tokenizer with --tokenizer, or train one with --train-tokenizer SIZE.")
        if self.exact_duplicates and self.near_duplicates:
            raise ValueError(
                f"--exact-duplicates keeps equal documents, which --near-duplicates {self.near_duplicates:g} drops: "
                "add --near-duplicates 0."
            )
        if self.next_sentence and not self.masked_once:
            raise ValueError("--next-sentence requires samples that are masked in advance: add --masked-once.")
        if self.masked_once and not self.packing:
            raise ValueError("--no-packing is for samples that are masked during training; --masked-once never packs.")


def _wrong(name: str, must_be: str, got: object) -> ValueError:
    return ValueError(f"--{name.replace('_', '-')} must be {must_be}. Got {got} instead.")
