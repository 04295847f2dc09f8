"""`nip bench …`: measure attention and scoring on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from nip import graphs
from nip.cli.options import Json, emit

PASSES = {name: (name,) for name in ("forward", "forward+backward")} | {"all": ("forward", "forward+backward")}

bench = typer.Typer(help="Measure attention and scoring on this machine.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(bench, name="bench")


@bench.command("attention")
def attention_command(
    lengths: Annotated[
        list[str] | None, typer.Argument(metavar="TOKENS", help="Sequence lengths, beside those of --seq-len.")
    ] = None,
    patterns: Annotated[str, typer.Option(help="Patterns, comma-separated.")] = "hypercube,bigbird",
    seq_len: Annotated[
        str | None, typer.Option("--seq-len", help="Sequence lengths, comma-separated (1024,2048 unless given).")
    ] = None,
    backends: Annotated[str, typer.Option(help="Backends, comma-separated; auto is what attend takes.")] = "auto",
    block_size: Annotated[int, typer.Option("--block-size", help="Tokens of a block.")] = 16,
    batch: Annotated[int, typer.Option(help="Sequences.")] = 4,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = 4,
    head_dim: Annotated[int, typer.Option("--head-dim", help="Width of a head.")] = 32,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64.")] = "float32",
    passes: Annotated[str, typer.Option("--pass", help="forward, forward+backward, or all.")] = "all",
    repeats: Annotated[int, typer.Option(help="Pairs of calls of which medians are told.")] = 7,
    threads: Annotated[int | None, typer.Option(help="Threads (torch's choice unless given).")] = None,
    memory: Annotated[bool, typer.Option(help="Measure peak memory too, each in a process of its own.")] = True,
    out: Annotated[Path | None, typer.Option(help="Write the table as Markdown to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Time and peak memory of attention over patterns, beside torch's dense attention in the same process.

    `ratio_to_dense` is time over the time of dense attention: below 1 is faster.

    Example: nip bench attention --patterns hypercube,bigbird --seq-len 1024,2048,4096 --pass forward+backward
    """
    if passes not in PASSES:
        raise ValueError(f"--pass must be one of {', '.join(PASSES)}. Got {passes!r} instead.")
    if threads is not None and threads < 1:
        raise ValueError(f"--threads must be an integer of at least 1. Got {threads} instead.")
    all_lengths = [*_split(seq_len or ""), *(lengths or ())] or ["1024", "2048"]

    import torch
    from rich.console import Console
    from rich.progress import Progress

    from nip.bench import Case, bench_attention, to_markdown, to_table

    if threads is not None:
        torch.set_num_threads(threads)
    cases = [
        Case(name, _length(tokens), block_size, batch, heads, head_dim, dtype)
        for name in _split(patterns)
        for tokens in all_lengths
    ]
    measured = bench_attention(cases, _split(backends), PASSES[passes], repeats=repeats, memory=memory)
    rows = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        expected = len(cases) * len(PASSES[passes]) * (1 + len(_split(backends)))
        task = progress.add_task("measuring", total=expected)
        for row in measured:
            rows.append(row)
            progress.advance(task)
    if out is not None:
        emit(to_markdown(rows), out)
    if as_json:
        emit(json.dumps([row.to_dict() for row in rows], allow_nan=False, indent=2), None)
    elif out is None:
        Console().print(to_table(rows))


@bench.command("scoring")
def scoring_command(
    patterns: Annotated[str, typer.Option(help="Patterns, comma-separated.")] = ",".join(graphs.PATTERNS),
    seq_len: Annotated[str, typer.Option("--seq-len", help="Sequence lengths, comma-separated.")] = "4096",
    block_size: Annotated[int, typer.Option("--block-size", help="Tokens of a block.")] = 16,
    repeats: Annotated[int, typer.Option(help="Calls of which medians are told.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Write the table as Markdown to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Time of scoring patterns, beside scipy's distances between all vertices in the same process.

    Example: nip bench scoring --patterns hypercube,local --seq-len 4096,65536
    """
    from rich.console import Console
    from rich.table import Table

    from nip.bench.scoring import HEADER, bench_scoring, caption, cells

    lengths = [_length(text) for text in _split(seq_len)]
    rows = list(bench_scoring(_split(patterns), lengths, block_size, repeats=repeats))
    if not rows:
        raise ValueError("There is nothing to measure. Name a pattern and a sequence length.")
    if out is not None:
        lines = [caption(rows), "", f"| {' | '.join(HEADER)} |", "|---|--:|--:|--:|--:|"]
        emit("\n".join([*lines, *(f"| {' | '.join(cells(row))} |" for row in rows)]), out)
    if as_json:
        emit(json.dumps([row.to_dict() for row in rows], allow_nan=False, indent=2), None)
    elif out is None:
        table = Table(title=caption(rows), title_justify="left")
        for name in HEADER:
            table.add_column(name, justify="left" if name == "pattern" else "right")
        for row in rows:
            table.add_row(*cells(row))
        Console().print(table)


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _length(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"A sequence length must be an integer. Got {text!r} instead.") from None
