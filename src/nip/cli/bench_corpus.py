"""`nip bench corpus`: the rate and the memory at which a corpus is made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nip.cli.bench_output import show_rows
from nip.cli.options import Json


def corpus_command(
    origin: Annotated[
        Path, typer.Option("--from", help="A text file or a folder of them: words are drawn as often as they occur.")
    ],
    tokenizer: Annotated[str, typer.Option(help="A folder, a vocab.txt, or a name on the Hugging Face Hub.")],
    megabytes: Annotated[int, typer.Option(help="Millions of bytes of text to draw.")] = 100,
    jobs: Annotated[int, typer.Option(help="Processes; −1: one a processor.")] = -1,
    out: Annotated[Path | None, typer.Option(help="Write the table as Markdown to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Megabytes a second at which a corpus is read, compared and tokenized, beside `tokenizers` alone; and its memory.

    The text is drawn for the purpose, and lies in the folder for temporary files while it is used.

    Example: nip bench corpus --from texts --tokenizer bert-base-uncased --megabytes 1000
    """
    from rich.console import Console

    from nip.bench.corpus import HEADER, bench_corpus, caption, cells, to_markdown
    from nip.processor import usable_cores

    with Console(stderr=True).status("measuring"):
        rows = bench_corpus(origin, tokenizer, megabytes, jobs=usable_cores() if jobs == -1 else jobs)
    show_rows(rows, HEADER, cells, caption(rows), lambda: to_markdown(rows), out=out, as_json=as_json)
