"""`nip data corpus`: from a folder of text to shards for pretraining."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nip.cli.options import Json, Overwrite, emit

if TYPE_CHECKING:
    from nip.data.corpus import Settings

ONCE = ("dup_factor", "masked_lm_prob", "max_predictions_per_seq", "seed")  # options that go with --masked-once


def corpus_command(
    origin: Annotated[
        str, typer.Option("--from", help="A file, a folder, or a set on the Hugging Face Hub: NAME[:CONFIG].")
    ],
    output_dir: Annotated[Path, typer.Option("--output-dir", "--out", help="The folder of the corpus.")],
    tokenizer: Annotated[
        str | None, typer.Option(help="A folder, a vocab.txt, or a tokenizer's name on the Hugging Face Hub.")
    ] = None,
    train_tokenizer: Annotated[int, typer.Option(help="Train a WordPiece with so many tokens instead.")] = 0,
    lower_case: Annotated[
        bool, typer.Option("--lower-case/--cased", help="Of a trained tokenizer and of a vocab.txt.")
    ] = True,
    max_seq_length: Annotated[int, typer.Option(help="Tokens of a sample, special ones included.")] = 128,
    form: Annotated[
        str, typer.Option(help="What plain text means: text (empty lines part documents), lines, or books (files do).")
    ] = "text",
    encoding: Annotated[str, typer.Option(help="Of text files.")] = "utf-8",
    bad_bytes: Annotated[str, typer.Option(help="That are no character of the encoding: refuse or drop.")] = "refuse",
    column: Annotated[str | None, typer.Option(help="With the text, in JSON lines and parquet files.")] = None,
    unicode_form: Annotated[str, typer.Option(help="NFC or NFKC.")] = "NFC",
    min_chars: Annotated[int, typer.Option(help="Drop shorter documents.")] = 1,
    max_chars: Annotated[int, typer.Option(help="Drop longer documents; 0: none.")] = 0,
    exact_duplicates: Annotated[
        bool, typer.Option("--exact-duplicates", help="Keep equal documents; with --near-duplicates 0.")
    ] = False,
    near_duplicates: Annotated[
        float,
        typer.Option(help="Drop documents whose word sequences have this Jaccard index with an earlier one; 0: none."),
    ] = 0.8,
    frac_test: Annotated[float, typer.Option(help="The share of documents in the test split.")] = 0.1,
    packing: Annotated[
        bool, typer.Option("--packing/--no-packing", help="Fill samples with several documents, or one and padding.")
    ] = True,
    masked_once: Annotated[
        bool, typer.Option("--masked-once", help="Mask now, in copies, as the original does; else when training.")
    ] = False,
    next_sentence: Annotated[bool, typer.Option("--next-sentence", help="With --masked-once: pairs.")] = False,
    dup_factor: Annotated[int, typer.Option(help="With --masked-once: copies.")] = 5,
    masked_lm_prob: Annotated[float, typer.Option(help="With --masked-once: the share of tokens.")] = 0.15,
    max_predictions_per_seq: Annotated[int, typer.Option(help="With --masked-once: at most.")] = 20,
    seed: Annotated[int, typer.Option(help="With --masked-once: of the masks.")] = 0,
    shard_mb: Annotated[int, typer.Option(help="Megabytes of text of a shard, and of what is read at once.")] = 32,
    jobs: Annotated[int, typer.Option(help="Processes; −1: one a processor. Changes no byte of the result.")] = -1,
    licence: Annotated[str, typer.Option(help="A note for the manifest.")] = "as the source says",
    keep_text: Annotated[
        bool, typer.Option("--keep-text", help="Keep the cleaned documents in the folder's text/.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Read text, drop duplicates, split, tokenize; stopped at any time, the same command goes on where it was.

    Reads text files, JSON lines, WikiExtractor's output, Wikipedia dumps and parquet files, .gz, .bz2 and .xz too.

    Example: nip data corpus --from books --output-dir shards --train-tokenizer 8192 --max-seq-length 128
    """
    from nip.data.corpus import Settings

    settings = Settings(
        max_seq_length=max_seq_length,
        form=form,
        encoding=encoding,
        bad_bytes=bad_bytes,
        column=column,
        unicode_form=unicode_form,  # type: ignore[arg-type]  # Settings says which there are
        min_chars=min_chars,
        max_chars=max_chars,
        exact_duplicates=exact_duplicates,
        near_duplicates=near_duplicates,
        frac_test=frac_test,
        tokenizer=tokenizer,
        train_tokenizer=train_tokenizer,
        lower_case=lower_case,
        packing=packing,
        masked_once=masked_once,
        next_sentence=next_sentence,
        dup_factor=dup_factor,
        masked_lm_prob=masked_lm_prob,
        max_predictions_per_seq=max_predictions_per_seq,
        seed=seed,
        shard_mb=shard_mb,
    )
    for notice in idle(settings):
        print(f"nip: {notice}", file=sys.stderr)
    make_corpus(
        origin,
        output_dir,
        settings,
        jobs=jobs,
        licence=licence,
        keep_text=keep_text,
        overwrite=overwrite,
        as_json=as_json,
    )


def idle(settings: Settings) -> list[str]:
    """A sentence for each option that is not as by default and has no effect beside the others.

    Examples
    --------
    >>> from nip.data.corpus import Settings
    >>> idle(Settings(train_tokenizer=8192, dup_factor=7))
    ['--dup-factor does nothing without --masked-once.']
    """
    found = []
    if not settings.masked_once:
        defaults = {each.name: each.default for each in dataclasses.fields(settings)}
        given = [name for name in ONCE if getattr(settings, name) != defaults[name]]
        found += [f"--{name.replace('_', '-')} does nothing without --masked-once." for name in given]
    if (
        not settings.lower_case
        and settings.tokenizer is not None
        and not Path(settings.tokenizer).expanduser().is_file()
    ):
        found.append("--cased does nothing with a tokenizer that is no vocab.txt.")
    return found


def make_corpus(origin: str, out: Path, settings: Settings, *, as_json: bool = False, **how: Any) -> None:
    """Make a corpus and say what it is."""
    from nip.data.corpus import build_corpus, read_manifest

    began = time.perf_counter()
    with _steps() as progress:
        made = build_corpus(origin, out, settings, progress=progress, **how)
    seconds = time.perf_counter() - began
    manifest = read_manifest(out)
    if as_json:
        found = {"folder": str(out), "made": made, "seconds": round(seconds, 3), "manifest": manifest}
        emit(json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False), None)
        return
    documents = manifest["documents"]
    print(f"{out}: {'made' if made else 'is there already'} in {seconds:.1f} s")
    print(
        f"{documents['read']:,} documents read; dropped: {documents['equal']:,} equal to another, "
        f"{documents['similar']:,} similar to one, {documents['too_short'] + documents['too_long']:,} for their length"
    )
    print(f"vocabulary: {manifest['tokenizer']['vocabulary']['size']:,} tokens")
    for name, split in manifest["splits"].items():
        print(
            f"{name}: {split['documents']:,} documents, {split['tokens']:,} tokens, {split['samples']:,} samples of "
            f"{manifest['settings']['max_seq_length']}, {len(split['shards'])} shards"
        )
    if settings.frac_test and "test" not in manifest["splits"]:
        print("The test split is empty: there are too few documents.")


def verify_corpus(folder: Path, *, as_json: bool) -> None:
    """Read every byte of a corpus, and say that it is sound."""
    from nip.data.corpus import verify

    counts = verify(folder)
    if as_json:
        emit(json.dumps({"folder": str(folder), "sound": True, "samples": counts}), None)
        return
    print(f"{folder}: sound ({', '.join(f'{number:,} {name} samples' for name, number in counts.items())})")


@contextmanager
def _steps() -> Iterator[Callable[[str, int, int], None] | None]:
    """A progress bar for each step, on a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, Any] = {}

        def progress(step: str, done: int, total: int) -> None:
            tasks[step] = tasks[step] if step in tasks else bar.add_task(step, total=total)
            bar.update(tasks[step], completed=done)

        yield progress
