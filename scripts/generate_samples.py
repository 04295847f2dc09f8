"""The original's command: ``python generate_samples.py --dir SHARDS -o SAMPLES --model_name NAME [--dup_factor N …]``.

It writes samples that are masked once, as ``nip data corpus --masked-once`` does, for `nip.data.corpus.open_corpus`.
"""

from nip.cli.compat.corpus_commands import generate_samples, run

if __name__ == "__main__":
    run(generate_samples)
