"""The original's command: ``python process_data.py -f DUMP -o FOLDER --type wiki|bookcorpus [--n_processes N]``.

It writes one article a line. ``nip data corpus`` does all four steps in one, and needs none of their files.
"""

from nip.cli.compat.corpus_commands import process_data, run

if __name__ == "__main__":
    run(process_data)
