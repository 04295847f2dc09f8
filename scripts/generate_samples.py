"""The original's script: ``python generate_samples.py --dir SHARDS -o SAMPLES --model_name NAME [--dup_factor N …]``.

Writes samples that are masked once, as ``nip data corpus --masked-once`` does; `nip.data.corpus.open_corpus` reads
them.
"""

from nip.cli.compat.corpus_commands import generate_samples, run

if __name__ == "__main__":
    run(generate_samples)
