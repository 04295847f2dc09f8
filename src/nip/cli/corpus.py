"""`nip data corpus`: from text files to shards for pretraining."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from nip.cli.options import Json, Overwrite, option
from nip.cli.output import print_json, progress_bars
from nip.data.corpus.settings import Settings

SETTINGS = {field.name: field.default for field in fields(Settings)}
LOSS = 0.01  # share of the tokens above which a loss is reported
ONLY_MASKED_ONCE = ("dup_factor", "masked_lm_prob", "max_predictions_per_seq", "seed")

_input = partial(option, panel="Input")
_filter = partial(option, panel="Filters and split")
_tokenizer = partial(option, panel="Tokenizer")
_samples = partial(option, panel="Samples")


def corpus_command(
    origin: Annotated[str, option("File, folder, or data set on the Hugging Face Hub as NAME[:CONFIG].", "--from")],
    output_dir: Annotated[Path, option("Folder of the corpus.", "--output-dir", "--out")],
    form: Annotated[
        str,
        _input("Documents of plain text: separated by empty lines (text), one a line (lines), one a file (books)."),
    ] = "text",
    encoding: Annotated[str, _input("Encoding of text files.")] = "utf-8",
    bad_bytes: Annotated[str, _input("Bytes that are invalid in the encoding: refuse or drop.")] = "refuse",
    column: Annotated[
        str | None,
        _input("Column with the text, for JSON lines and parquet.", default="text, content, article, body or document"),
    ] = None,
    unicode_form: Annotated[str, _input("Unicode normalization: NFC or NFKC.")] = "NFC",
    min_chars: Annotated[int, _filter("Drop documents with fewer characters.")] = 1,
    max_chars: Annotated[int, _filter("Drop documents with more characters; 0 is no limit.")] = 0,
    exact_duplicates: Annotated[
        bool, _filter("Keep exact duplicates; needs --near-duplicates 0.", "--exact-duplicates")
    ] = False,
    near_duplicates: Annotated[
        float, _filter("Drop documents whose shingles have this Jaccard index with an earlier one; 0 keeps all.")
    ] = 0.8,
    frac_test: Annotated[float, _filter("Fraction of documents in the test split.")] = 0.1,
    tokenizer: Annotated[
        str | None, _tokenizer("Tokenizer: a folder, a vocab.txt, or a name on the Hugging Face Hub.")
    ] = None,
    train_tokenizer: Annotated[
        int, _tokenizer("Train a WordPiece tokenizer of this vocabulary size instead; 0 trains none.")
    ] = 0,
    lower_case: Annotated[
        bool, _tokenizer("Lower-case the text, for a trained tokenizer or a vocab.txt.", "--lower-case/--cased")
    ] = True,
    max_seq_length: Annotated[int, _samples("Tokens per sample, special tokens included.")] = 128,
    packing: Annotated[
        bool, _samples("Pack several documents into a sample instead of padding.", "--packing/--no-packing")
    ] = True,
    masked_once: Annotated[
        bool, _samples("Mask now, in --dup-factor copies, instead of during training.", "--masked-once")
    ] = False,
    next_sentence: Annotated[
        bool, _samples("Make sentence pairs for next-sentence prediction; needs --masked-once.", "--next-sentence")
    ] = False,
    dup_factor: Annotated[int, _samples("Copies of the data with different masks, with --masked-once.")] = 5,
    masked_lm_prob: Annotated[float, _samples("Fraction of tokens to mask, with --masked-once.")] = 0.15,
    max_predictions_per_seq: Annotated[
        int, _samples("Maximum number of masked tokens per sample, with --masked-once.")
    ] = 20,
    seed: Annotated[int, _samples("Seed of the masks, with --masked-once.")] = 0,
    shard_mb: Annotated[int, option("Megabytes of text per shard and per unit of work.")] = 32,
    jobs: Annotated[int, option("Processes; −1 is one per core. The result does not depend on it.")] = -1,
    licence: Annotated[str, option("Licence of the text, as a note in the manifest.")] = "as the source says",
    keep_text: Annotated[
        bool, option("Keep the cleaned documents in the corpus folder, in text/.", "--keep-text")
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Read text, drop duplicates, split, tokenize. Rerun the same command to resume.

    Reads text files, JSON lines, WikiExtractor's output, Wikipedia dumps and parquet files, .gz, .bz2 and .xz too;
    the original's samples (parquet) are converted, with the --tokenizer that made them.

    Example: nip data corpus --from books --output-dir shards --train-tokenizer 8192 --max-seq-length 128
    """
    given = {name: value for name, value in locals().items() if name in SETTINGS}
    settings = Settings(**given)  # raises a sentence about an option that is out of range
    for notice in without_effect(settings):
        print(f"nip: {notice}", file=sys.stderr)
    how = {"jobs": jobs, "licence": licence, "keep_text": keep_text, "overwrite": overwrite}
    make_corpus(origin, output_dir, settings, as_json=as_json, **how)


def without_effect(settings: Settings) -> list[str]:
    """A sentence for each option that differs from its default but has no effect with the others.

    Examples
    --------
    >>> without_effect(Settings(train_tokenizer=8192, dup_factor=7))
    ['--dup-factor does nothing without --masked-once.']
    """
    found = []
    if not settings.masked_once:
        given = [name for name in ONLY_MASKED_ONCE if getattr(settings, name) != SETTINGS[name]]
        found += [f"--{name.replace('_', '-')} does nothing without --masked-once." for name in given]
    if (
        not settings.lower_case
        and settings.tokenizer is not None
        and not Path(settings.tokenizer).expanduser().is_file()
    ):
        found.append("--cased does nothing with a tokenizer that is not a vocab.txt.")
    return found


def make_corpus(origin: str, output_dir: Path, settings: Settings, *, as_json: bool = False, **how: Any) -> None:
    """Make a corpus and print what it contains.

    Parameters
    ----------
    origin : str
        What is read.
    output_dir : Path
    settings : Settings
    as_json : bool, default=False
    **how
        Passed to `nip.data.corpus.build_corpus`.
    """
    from nip.data.corpus import build_corpus, read_manifest
    from nip.data.corpus.corpus import RULES
    from nip.data.corpus.files import counted
    from nip.data.corpus.original_samples import kind_of_samples, options_without_effect

    if kind_of_samples(Path(origin).expanduser()) == "parquet":
        print(f"nip: {origin} has samples of the original's, which are taken as they are.", file=sys.stderr)
        for name in options_without_effect(settings):
            print(f"nip: --{name.replace('_', '-')} does nothing with samples that are ready.", file=sys.stderr)
    began = time.perf_counter()
    with progress_bars() as progress:
        made = build_corpus(origin, output_dir, settings, progress=progress, **how)
    seconds = time.perf_counter() - began
    manifest = read_manifest(output_dir)
    if manifest.get("rules", 1) < RULES:
        print(
            f"nip: {output_dir} was made by an earlier version of nip, which read text by other rules; "
            "--overwrite makes it again.",
            file=sys.stderr,
        )
    for name, split in manifest["splits"].items():
        for lost in losses(split):
            print(f"nip: {name}: {lost}", file=sys.stderr)
    if as_json:
        found = {"folder": str(output_dir), "made": made, "seconds": round(seconds, 3), "manifest": manifest}
        print_json(found, ensure_ascii=False)
        return
    documents = manifest["documents"]
    print(f"{output_dir}: {'made' if made else 'exists already'} in {seconds:.1f} s")
    print(
        f"{documents['read']:,} documents read; dropped: {documents['equal']:,} exact duplicates, "
        f"{documents['similar']:,} near duplicates, {documents['too_short'] + documents['too_long']:,} by length"
    )
    if left_out := documents.get("left_out"):
        print(f"left out: {counted(left_out)}")
    print(f"vocabulary: {manifest['tokenizer']['vocabulary']['size']:,} tokens")
    for name, split in manifest["splits"].items():
        print(
            f"{name}: {split['documents']:,} documents, {split['tokens']:,} tokens, {split['samples']:,} samples of "
            f"{manifest['settings']['max_seq_length']}, {len(split['shards'])} shards"
        )
        if "sampled" in split:
            print(
                f"{name}: {split['tokens']:,} tokens in, {split['sampled']:,} tokens out, in each copy of the samples"
            )
    if manifest["settings"]["frac_test"] and "test" not in manifest["splits"]:
        print("The test split is empty: there are too few documents.")


def losses(split: Mapping[str, Any]) -> list[str]:
    """A sentence for each reason for which more than one per cent of a split's tokens are lost.

    Examples
    --------
    >>> losses({"tokens": 1000, "unknown": 20, "sampled": 1000})
    ['2.0 % of the tokens are unknown to the tokenizer; another one may know their words or characters.']
    """
    tokens = split["tokens"]
    unknown, lost = split.get("unknown", 0), tokens - split.get("sampled", tokens)
    found = []
    if unknown > LOSS * tokens:
        found.append(
            f"{100 * unknown / tokens:.1f} % of the tokens are unknown to the tokenizer; "
            "another one may know their words or characters."
        )
    if lost > LOSS * tokens:
        found.append(
            f"{100 * lost / tokens:.1f} % of the tokens are in no sample: "
            "a document of a single token has no second segment where its shard has no other document."
        )
    return found


def verify_corpus(folder: Path, *, as_json: bool) -> None:
    """Verify every byte of a corpus."""
    from nip.data.corpus import verify

    counts = verify(folder)
    if as_json:
        print_json({"folder": str(folder), "sound": True, "samples": counts}, indent=None)
        return
    print(f"{folder}: sound ({', '.join(f'{number:,} {name} samples' for name, number in counts.items())})")
