"""`nip bench pretrain`: a step of BERT's pretraining over patterns, beside the dense one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nip.cli.bench_output import collect, show_rows, wide
from nip.cli.options import Json, integer, split


def pretrain_command(
    patterns: Annotated[str, typer.Option(help="Patterns, comma-separated.")] = "hypercube",
    seq_len: Annotated[str, typer.Option("--seq-len", help="Sequence lengths, comma-separated.")] = "512,2048,8192",
    tokens: Annotated[int, typer.Option(help="Tokens of a batch: as many samples as fit, one at least.")] = 8192,
    layers: Annotated[int, typer.Option(help="Layers.")] = 6,
    width: Annotated[int, typer.Option(help="Width of the model.")] = 384,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = 12,
    vocab_size: Annotated[int, typer.Option("--vocab-size", help="Tokens of the vocabulary.")] = 8192,
    block_size: Annotated[int, typer.Option("--block-size", help="Tokens of a block.")] = 16,
    family: Annotated[str, typer.Option(help="bert, roberta-prelayernorm or modernbert.")] = "bert",
    masked: Annotated[float, typer.Option(help="Share of the tokens that are predicted.")] = 0.15,
    outputs: Annotated[
        str, typer.Option(help="masked: only those go through the output layer; all, for comparison; or both.")
    ] = "masked",
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16 where autocast does.")] = False,
    backend: Annotated[str, typer.Option(help="The backend; auto is what attend takes.")] = "auto",
    repeats: Annotated[int, typer.Option(help="Steps of which medians are told.")] = 7,
    memory: Annotated[bool, typer.Option(help="Also measure peak memory, in processes of their own.")] = True,
    out: Annotated[Path | None, typer.Option(help="Write the table as Markdown to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Time and memory of a pretraining step, with attention over patterns and with transformers' dense attention.

    Everything outside attention is the same code: only masked tokens go through the output layer, AdamW takes the step.
    Samples are taken in turns, and again where the machine was busy.

    Example: nip bench pretrain --seq-len 2048 --patterns hypercube,bigbird
    """
    from nip.bench.pretrain import HEADER, Problem, bench_pretraining, caption, cells, to_markdown

    if tokens < 1:
        raise ValueError(f"--tokens must be an integer of at least 1. Got {tokens} instead.")
    problems = [
        Problem(n, max(1, tokens // max(n, 1)), layers, width, heads, vocab_size, block_size, family, masked, bf16)
        for n in (integer(text, "A sequence length") for text in split(seq_len))
    ]
    if not problems or not split(outputs):
        raise ValueError("There is nothing to measure. Name a sequence length and an output.")
    measured = bench_pretraining(
        problems, split(patterns), split(outputs), backend=backend, repeats=repeats, memory=memory
    )
    rows = collect(measured, to_markdown, out)
    show_rows(rows, HEADER, cells, caption(rows), lambda: to_markdown(rows), out=out, as_json=as_json, width=wide())
