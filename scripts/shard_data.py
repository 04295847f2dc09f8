"""The original's script: ``python shard_data.py --dir FOLDER -o SHARDS [--num_train_shards N …]``.

Writes one sentence per line, and an empty line after each article.
"""

from nip.cli.compat.corpus_commands import run, shard_data

if __name__ == "__main__":
    run(shard_data)
