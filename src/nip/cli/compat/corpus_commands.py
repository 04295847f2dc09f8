"""The original's four scripts that prepare a corpus, with their flags."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from nip.cli.corpus import make_corpus
from nip.runs.workers import watch_in_forked_children


def process_data(arguments: Sequence[str]) -> None:
    """Wikipedia or BookCorpus to one file, one article a line."""
    from nip.data.corpus.original import one_article_per_line

    parser = argparse.ArgumentParser("process_data.py", description=process_data.__doc__)
    parser.add_argument(
        "-f", type=Path, required=True, help="Wikipedia dump, folder of WikiExtractor, or folder of books"
    )
    parser.add_argument("-o", type=Path, required=True, help="output folder")
    parser.add_argument("--type", choices=["wiki", "bookcorpus"], required=True)
    parser.add_argument("--n_processes", type=int, default=16)
    options = parser.parse_args(arguments)
    print(one_article_per_line(options.f, options.o, options.type, jobs=options.n_processes))


def shard_data(arguments: Sequence[str]) -> None:
    """Files of one article a line to shards of one sentence a line, split into train and test."""
    from nip.data.corpus.original import shard_text

    parser = argparse.ArgumentParser("shard_data.py", description=shard_data.__doc__)
    parser.add_argument("--dir", type=Path, required=True, help="folder with the output of process_data.py")
    parser.add_argument("-o", type=Path, required=True, help="output folder of the shards")
    parser.add_argument("--num_train_shards", type=int, default=256)
    parser.add_argument("--num_test_shards", type=int, default=256)
    parser.add_argument("--frac_test", type=float, default=0.1, help="fraction of articles in the test shards")
    options = parser.parse_args(arguments)
    shards = {"train": options.num_train_shards, "test": options.num_test_shards}
    counts = shard_text(options.dir, options.o, **shards, frac_test=options.frac_test)
    print(f"{options.o}: {counts['training']:,} articles in training shards, {counts['test']:,} in test shards")


def merge_shards(arguments: Sequence[str]) -> None:
    """Merge text shards."""
    from nip.data.corpus import original

    parser = argparse.ArgumentParser("merge_shards.py", description=merge_shards.__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--ratio", type=int, default=1, help="number of shards to merge into one")
    parser.add_argument("--grep", default="", help="only shards with this in their name")
    options = parser.parse_args(arguments)
    n = original.merge_shards(options.data, options.output_dir, ratio=options.ratio, grep=options.grep)
    print(f"{options.output_dir}: {n} shards")


def generate_samples(arguments: Sequence[str]) -> None:
    """Text shards to samples that are masked once, in copies, as ``nip data corpus --masked-once`` makes them."""
    from nip.data.corpus import Settings

    parser = argparse.ArgumentParser("generate_samples.py", description=generate_samples.__doc__)
    parser.add_argument(
        "--dir", required=True, help="folder of the text shards; those with train in their name are the training split"
    )
    parser.add_argument("-o", type=Path, required=True, help="output folder of the samples")
    parser.add_argument("--dup_factor", type=int, default=1, help="copies with different masks")
    parser.add_argument("--seed", type=int, default=555)
    parser.add_argument("--vocab_file", help="a vocab.txt instead of the model's tokenizer")
    parser.add_argument("--do_lower_case", type=int, choices=[0, 1], default=1, help="with --vocab_file")
    parser.add_argument("--masked_lm_prob", type=float, default=0.15)
    parser.add_argument("--max_seq_length", type=int, default=512)
    parser.add_argument(
        "--model_name", required=True, help="model whose tokenizer to use: a folder or a name on the Hub"
    )
    parser.add_argument("--max_predictions_per_seq", type=int, default=20)
    parser.add_argument("--n_processes", type=int, default=8)
    options = parser.parse_args(arguments)
    settings = Settings(
        tokenizer=options.vocab_file or options.model_name,
        lower_case=bool(options.do_lower_case),
        max_seq_length=options.max_seq_length,
        masked_once=True,
        dup_factor=options.dup_factor,
        masked_lm_prob=options.masked_lm_prob,
        max_predictions_per_seq=options.max_predictions_per_seq,
        seed=options.seed,
        split_by_name=True,
        exact_duplicates=True,
        near_duplicates=0,
    )
    make_corpus(options.dir, options.o, settings, jobs=options.n_processes)


def run(command: Callable[[Sequence[str]], None]) -> None:
    """Run a command on the arguments of this process; print bad input as one sentence and exit with code 2."""
    watch_in_forked_children()
    try:
        command(sys.argv[1:])
    except (ValueError, OSError, ImportError) as error:
        print(f"{command.__name__}.py: {error}", file=sys.stderr)
        sys.exit(2)
