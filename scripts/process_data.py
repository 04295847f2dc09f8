"""The original's script: ``python process_data.py -f DUMP -o FOLDER --type wiki|bookcorpus [--n_processes N]``.

Writes one article per line. ``nip data corpus`` does all four steps in one, without their files.
"""

from nip.cli.compat.corpus_commands import process_data, run

if __name__ == "__main__":
    run(process_data)
