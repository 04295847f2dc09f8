"""`nip bench …`: measure attention and scoring on this machine.

What every `nip bench` command does with its rows: a Markdown file, JSON, or a table on the terminal.

`nip bench corpus`: the rate and the memory at which a corpus is made.

`nip bench pretrain`: a step of BERT's pretraining over patterns, beside the dense one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import typer

from nip import graphs
from nip.atomic import replacing
from nip.cli.options import Json, emit, integer, number, split

Patterns = Annotated[str, typer.Option("--attention", "--patterns", help="Patterns, comma-separated.")]
Output = Annotated[
    Path | None, typer.Option("--output", "--out", help="Write the table as Markdown to this file.", show_default=False)
]


class Row(Protocol):
    """A measurement."""

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""


R = TypeVar("R", bound=Row)


def collect(measured: Iterable[R], markdown: Callable[[Sequence[R]], str], out: Path | None) -> list[R]:
    """All rows. Measuring takes long: while they come the file holds those that there are, whatever happens then."""
    from rich.console import Console

    rows: list[R] = []
    with Console(stderr=True).status("measuring"):
        for row in measured:
            rows.append(row)
            if out is not None:
                with replacing(out) as file:
                    file.write(markdown(rows).encode())
    return rows


def show_rows(
    rows: Sequence[R],
    header: Sequence[str],
    cells: Callable[[R], list[str]],
    heading: str,
    markdown: Callable[[], str],
    *,
    out: Path | None,
    as_json: bool,
    width: int | None = None,
) -> None:
    """Write the rows to a file, and print them as JSON, or as a table where there is no file.

    Parameters
    ----------
    rows : sequence of Row
    header : sequence of str
    cells : callable
        A row's texts, one for each heading.
    heading : str
        Over the table.
    markdown : callable
        The page for `out`.
    out : Path, optional
    as_json : bool
    width : int, optional
        Of the terminal, where it is not to be found out.
    """
    if out is not None:
        emit(markdown(), out)
    if as_json:
        emit(json.dumps([row.to_dict() for row in rows], allow_nan=False, indent=2), None)
    elif out is None:
        from rich.console import Console
        from rich.table import Table

        from nip.bench.table import TEXT_COLUMNS

        table = Table(title=heading, title_justify="left")
        for name in header:
            table.add_column(name, justify="left" if name in TEXT_COLUMNS else "right")
        for row in rows:
            table.add_row(*cells(row))
        Console(width=width).print(table)


def wide() -> int | None:
    """The width for many columns: a terminal's own, and enough where the output goes elsewhere."""
    return None if sys.stdout.isatty() else 160


def corpus_command(
    origin: Annotated[
        Path, typer.Option("--from", help="A text file or a folder of them: words are drawn as often as they occur.")
    ],
    tokenizer: Annotated[str, typer.Option(help="A folder, a vocab.txt, or a name on the Hugging Face Hub.")],
    megabytes: Annotated[int, typer.Option(help="Millions of bytes of text to draw.")] = 100,
    jobs: Annotated[int, typer.Option(help="Processes; −1: one a processor.")] = -1,
    output: Output = None,
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
    show_rows(rows, HEADER, cells, caption(rows), lambda: to_markdown(rows), out=output, as_json=as_json)


def pretrain_command(
    attention: Patterns = "hypercube",
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
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Time and memory of a pretraining step, with attention over patterns and with transformers' dense attention.

    Everything outside attention is the same code: only masked tokens go through the output layer, AdamW takes the step.
    Samples are taken in turns, and again where the machine was busy.

    Example: nip bench pretrain --seq-len 2048 --attention hypercube,bigbird
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
        problems, split(attention), split(outputs), backend=backend, repeats=repeats, memory=memory
    )
    rows = collect(measured, to_markdown, output)
    show_rows(rows, HEADER, cells, caption(rows), lambda: to_markdown(rows), out=output, as_json=as_json, width=wide())


EVERY = ",".join(graphs.PATTERNS)
ALL_PASSES = ("forward", "backward", "forward+backward")

bench = typer.Typer(no_args_is_help=True)


@bench.callback()
def bench_command() -> None:
    """Measure attention, scoring, training steps and the making of a corpus on this machine."""
    from nip.runs.process import spin_briefly

    spin_briefly(30_000)  # every command here imports torch later than this


def register(app: typer.Typer) -> None:
    """Add the commands of this module, and those that have modules of their own."""
    bench.command("corpus")(corpus_command)
    bench.command("pretrain")(pretrain_command)
    app.add_typer(bench, name="bench")


@bench.command("attention")
def attention_command(
    lengths: Annotated[
        list[str] | None, typer.Argument(metavar="TOKENS", help="Sequence lengths, beside those of --seq-len.")
    ] = None,
    attention: Patterns = "hypercube,bigbird",
    seq_len: Annotated[
        str | None, typer.Option("--seq-len", help="Sequence lengths, comma-separated (1024,2048 unless given).")
    ] = None,
    backends: Annotated[str, typer.Option(help="Backends, comma-separated; auto is what attend takes.")] = "auto",
    peers: Annotated[
        str,
        typer.Option(
            help="Also what others offer, comma-separated, or all: flex-window, torch-sparse, hf-longformer, "
            "hf-bigbird, and nip-module, which has projections as those two have."
        ),
    ] = "",
    block_size: Annotated[str, typer.Option("--block-size", help="Tokens of a block, comma-separated.")] = "16",
    batch: Annotated[int, typer.Option(help="Sequences.")] = 4,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = 4,
    head_dim: Annotated[int, typer.Option("--head-dim", help="Width of a head.")] = 32,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16, float16 or float64; several, comma-separated.")
    ] = "float32",
    passes: Annotated[
        str, typer.Option("--pass", help="forward, backward, forward+backward, comma-separated, or all.")
    ] = "forward,forward+backward",
    dense_up_to: Annotated[
        int, typer.Option("--dense-up-to", help="Tokens of the longest inputs that dense attention is measured on.")
    ] = 16384,
    repeats: Annotated[int, typer.Option(help="Samples of which medians are told.")] = 7,
    threads: Annotated[int | None, typer.Option(help="Threads (torch's choice unless given).")] = None,
    memory: Annotated[bool, typer.Option(help="Measure peak memory too, each in a process of its own.")] = True,
    output: Output = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw time against tokens, both logarithmic, to this .svg or .png file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Time, speed and peak memory of attention over patterns, beside torch's dense attention in the same process.

    Speed is GFLOP/s of attended blocks only, beside what torch.mm reaches in this process (sgemm). Samples are taken in
    turns, and again where the machine was busy: `quiet` counts those that were not. `ratio_to_dense` in JSON is time
    over the time of dense attention: below 1 is faster.

    Example: nip bench attention --attention hypercube,bigbird --seq-len 1024,2048,4096 --pass forward+backward
    """
    if threads is not None and threads < 1:
        raise ValueError(f"--threads must be an integer of at least 1. Got {threads} instead.")
    all_lengths = [*split(seq_len or ""), *(lengths or ())] or ["1024", "2048"]
    directions = ALL_PASSES if passes == "all" else tuple(split(passes))

    import torch
    from rich.console import Console
    from rich.progress import Progress

    from nip.bench import Case, bench_attention, to_markdown, to_table
    from nip.bench.peers import PEERS
    from nip.bench.plot import check_ending, save_plot

    if plot is not None:
        check_ending(plot)
    if threads is not None:
        torch.set_num_threads(threads)
    cases = [
        Case(name, integer(tokens, "A sequence length"), integer(block, "--block-size"), batch, heads, head_dim, kind)
        for kind in split(dtype)
        for block in split(block_size)
        for name in split(attention)
        for tokens in all_lengths
    ]
    rivals = list(PEERS) if peers == "all" else split(peers)
    measured = bench_attention(
        cases,
        split(backends),
        directions,
        rivals=rivals,
        dense_up_to=dense_up_to,
        repeats=repeats,
        memory=memory,
        left_out=lambda reason: print(f"nip: {reason}", file=sys.stderr),
    )
    rows = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        expected = len(cases) * len(directions) * (1 + len(split(backends)) + len(rivals))
        task = progress.add_task("measuring", total=expected)
        for row in measured:
            rows.append(row)
            progress.advance(task)
    if output is not None:
        emit(to_markdown(rows), output)
    if plot is not None:
        save_plot(rows, plot)
        print(f"wrote {plot}", file=sys.stderr)
    if as_json:
        emit(json.dumps([row.to_dict() for row in rows], allow_nan=False, indent=2), None)
    elif output is None:
        Console(width=None if sys.stdout.isatty() else 160).print(to_table(rows))


@bench.command("gpu")
def gpu_command(
    attention: Patterns = "hypercube,bigbird,longformer",
    seq_len: Annotated[
        str | None, typer.Option("--seq-len", help="Sequence lengths, comma-separated (1024 to 65536 unless given).")
    ] = None,
    block_size: Annotated[int, typer.Option("--block-size", help="Tokens of a block.")] = 16,
    batch: Annotated[int, typer.Option(help="Sequences.")] = 4,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = 8,
    head_dim: Annotated[int, typer.Option("--head-dim", help="Width of a head.")] = 64,
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32, comma-separated.")] = "bfloat16,float16",
    passes: Annotated[
        str, typer.Option("--pass", help="forward, forward+backward, comma-separated.")
    ] = "forward,forward+backward",
    repeats: Annotated[int, typer.Option(help="Samples of which medians are told.")] = 7,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """FlexAttention over patterns on a GPU: first whether it is right, then its time and peak memory.

    Beside it stand torch's dense attention, and FlexAttention with a sliding window of the pattern's width. If results
    or gradients are further from the reference in float64 than their precision allows, nothing is measured and the
    exit code is 1.

    Example: nip bench gpu --attention hypercube --seq-len 4096,16384 --output gpu.md
    """
    from nip.bench import Case
    from nip.bench.agreement import TOLERANCE, agreements
    from nip.bench.gpu import HEADER, LENGTHS, bench_gpu, caption, cells, missing
    from nip.bench.table import markdown_table

    lengths = [integer(x, "A sequence length") for x in split(seq_len)] if seq_len else LENGTHS
    dtypes = split(dtype)
    for name in dtypes:
        if name not in TOLERANCE:
            raise ValueError(f"--dtype must be among {', '.join(TOLERANCE)}. Got {name!r} instead.")
    cases = [
        Case(name, tokens, block_size, batch, heads, head_dim, kind)
        for kind in dtypes
        for name in split(attention)
        for tokens in lengths
    ]
    if not cases:
        raise ValueError("There is nothing to measure. Name a pattern and a sequence length.")
    measured = bench_gpu(cases, split(passes), repeats=repeats, skipped=lambda text: print(text, file=sys.stderr))
    reason = missing()
    if reason is not None:
        raise ValueError(reason)
    checks = list(agreements("flex", "cuda", dtypes))
    wrong = [check for check in checks if not check.holds]
    for check in wrong:
        print(f"nip: wrong on this GPU: {check}", file=sys.stderr)
    if wrong:
        raise typer.Exit(1)
    right = f"{len(checks)} problems agree with the reference in float64"
    print(right, file=sys.stderr)
    rows = []
    for row in measured:
        rows.append(row)
        print(" ".join(cells(row)), file=sys.stderr)
    heading = f"{caption(rows)}; {right}"
    show_rows(
        rows,
        HEADER,
        cells,
        heading,
        lambda: markdown_table(heading, HEADER, map(cells, rows)),
        out=output,
        as_json=as_json,
        width=wide(),
    )


@bench.command("scoring")
def scoring_command(
    attention: Patterns = EVERY,
    seq_len: Annotated[str, typer.Option("--seq-len", help="Sequence lengths, comma-separated.")] = "4096",
    block_size: Annotated[int, typer.Option("--block-size", help="Tokens of a block.")] = 16,
    repeats: Annotated[int, typer.Option(help="Calls of which medians are told.")] = 3,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Time of scoring patterns, beside scipy's distances between all vertices in the same process.

    Example: nip bench scoring --attention hypercube,local --seq-len 4096,65536
    """
    from nip.bench.scoring import HEADER, bench_scoring, caption, cells
    from nip.bench.table import markdown_table

    lengths = [integer(text, "A sequence length") for text in split(seq_len)]
    rows = list(bench_scoring(split(attention), lengths, block_size, repeats=repeats))
    if not rows:
        raise ValueError("There is nothing to measure. Name a pattern and a sequence length.")
    heading = caption(rows)
    show_rows(
        rows,
        HEADER,
        cells,
        heading,
        lambda: markdown_table(heading, HEADER, map(cells, rows)),
        out=output,
        as_json=as_json,
    )


@bench.command("step")
def step_command(
    backends: Annotated[str, typer.Option(help="Backends, comma-separated; auto is what attend takes.")] = "auto",
    attention: Annotated[str, typer.Option("--attention", "--model", help="The pattern.")] = "hypercube",
    ways: Annotated[
        str,
        typer.Option(
            help="How a batch is computed, comma-separated: full (padded to --seq-len), own (as trained: padded to "
            "each part's longest), plain (padded, at once, with torch's dropout, memory given back)."
        ),
    ] = "full,own",
    batch_size: Annotated[int, typer.Option("--batch-size", help="Examples of a step.")] = 32,
    seq_len: Annotated[int, typer.Option("--seq-len", help="Tokens an example is cut or padded to.")] = 2048,
    repeats: Annotated[int, typer.Option(help="Steps of which medians are told.")] = 7,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Time of a ListOps training step, with attention over a pattern and with dense attention, and its parts.

    Everything outside attention is the same code. The examples are drawn for the purpose.

    Example: nip bench step --backends native,gather --ways own
    """
    from nip.bench.step import HEADER, bench_step, caption, cells, to_markdown

    measured = bench_step(
        split(backends), split(ways), model=attention, batch_size=batch_size, seq_len=seq_len, repeats=repeats
    )
    rows = collect(measured, to_markdown, output)
    if not rows:
        raise ValueError("There is nothing to measure. Name a way to compute a batch.")
    show_rows(rows, HEADER, cells, caption(rows), lambda: to_markdown(rows), out=output, as_json=as_json)


@bench.command("encoder")
def encoder_command(
    attention: Patterns = "hypercube",
    seq_len: Annotated[str, typer.Option("--seq-len", help="Sequence lengths, comma-separated.")] = "512,2048,8192",
    block_size: Annotated[int, typer.Option("--block-size", help="Tokens of a block.")] = 16,
    batch: Annotated[int, typer.Option(help="Sequences.")] = 1,
    layers: Annotated[int | None, typer.Option(help="Layers.  [default: 6]")] = None,
    width: Annotated[int | None, typer.Option(help="Width of the model.  [default: 384]")] = None,
    heads: Annotated[int | None, typer.Option(help="Attention heads.  [default: 12]")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model-name-or-path", help="A saved model's encoder in place of one of random weights."),
    ] = None,
    dropout: Annotated[str, typer.Option(help="Attention dropout, comma-separated.")] = "0,0.1",
    hidden_dropout: Annotated[float, typer.Option("--hidden-dropout", help="Dropout elsewhere in the model.")] = 0.0,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    passes: Annotated[
        str, typer.Option("--pass", help="training (forward and backward), inference, comma-separated.")
    ] = "training,inference",
    optimizer: Annotated[bool, typer.Option("--optimizer", help="A training step ends with AdamW's.")] = False,
    backend: Annotated[str, typer.Option(help="The backend; auto is what attend takes.")] = "auto",
    dense_up_to: Annotated[
        int | None, typer.Option("--dense-up-to", help="Longest input on which the dense encoder is measured.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Calls of which medians are told.")] = 7,
    memory: Annotated[bool, typer.Option(help="Also measure peak memory, in processes of their own.")] = True,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Time and memory of a Hugging Face encoder, with attention over a pattern and with transformers' dense attention.

    Everything outside attention is the same code. Dropout counts in training only, so inference is measured once.

    Example: nip bench encoder --seq-len 2048 --dropout 0 --pass training
    """
    from nip.bench.huggingface import HEADER, Encoder, bench_encoder, caption, cells, to_markdown
    from nip.finetuning.datasets import disable_progress_bars

    disable_progress_bars()
    lengths = [integer(text, "A sequence length") for text in split(seq_len)]
    chances = [number(text, "Dropout") for text in split(dropout)]
    given = {"layers": layers, "width": width, "heads": heads}
    sizes: dict[str, Any] = {name: size for name, size in given.items() if size is not None}
    if model is not None and sizes:
        raise ValueError(
            f"--{next(iter(sizes))} is the model's own where --model-name-or-path names one. Leave it out."
        )
    more: dict[str, Any] = {
        "block_size": block_size,
        "hidden_dropout": hidden_dropout,
        "dtype": dtype,
        "optimizer": optimizer,
    }
    make = partial(Encoder, **sizes) if model is None else partial(Encoder.saved, model)
    encoders = [make(n, batch=batch, attention_dropout=chance, **more) for chance in chances for n in lengths]
    if not encoders:
        raise ValueError("There is nothing to measure. Name a sequence length and a dropout.")
    names, directions, rows = split(attention), split(passes), []
    measured = bench_encoder(
        encoders, names, directions, backend=backend, dense_up_to=dense_up_to, repeats=repeats, memory=memory
    )
    rows = collect(measured, to_markdown, output)
    show_rows(rows, HEADER, cells, caption(rows), lambda: to_markdown(rows), out=output, as_json=as_json, width=wide())
