"""The original's script: ``python merge_shards.py --data SHARDS --output_dir FOLDER --ratio N [--grep NAME]``.

Merges N text shards into one.
"""

from nip.cli.compat.corpus_commands import merge_shards, run

if __name__ == "__main__":
    run(merge_shards)
