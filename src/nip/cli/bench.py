"""`nip bench …`: measure attention, scoring, training steps and corpus building on this machine."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from nip import graphs
from nip.atomic import replacing
from nip.cli.options import Json, integer, number, option, split
from nip.cli.output import emit, print_json
from nip.graphs.pattern import check_int

ALL_PASSES = ("forward", "backward", "forward+backward")
ALL_PATTERNS = ",".join(graphs.PATTERNS)

Patterns = Annotated[str, option("Patterns, comma-separated.", "--attention", "--patterns")]
SeqLens = Annotated[str, option("Sequence lengths in tokens, comma-separated.", "--seq-len")]
BlockSize = Annotated[int, option("Tokens per block.", "--block-size")]
Batch = Annotated[int, option("Sequences per batch.", "--batch")]
Heads = Annotated[int, option("Number of attention heads.", "--heads")]
HeadDim = Annotated[int, option("Dimension of a head.", "--head-dim")]
Backend = Annotated[str, option("Attention backend; auto selects as attend does.", "--backend")]
Backends = Annotated[str, option("Attention backends, comma-separated; auto selects as attend does.", "--backends")]
Repeats = Annotated[int, option("Repetitions; their median is reported.", "--repeats")]
Memory = Annotated[bool, option("Also measure peak memory, each in its own process.", "--memory/--no-memory")]
Output = Annotated[Path | None, option("Write the table as Markdown to this file.", "--output", "--out")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    group = typer.Typer(no_args_is_help=True, callback=bench_command)
    group.command("attention", rich_help_panel="Operations")(attention_command)
    group.command("gpu", rich_help_panel="Operations")(gpu_command)
    group.command("scoring", rich_help_panel="Operations")(scoring_command)
    group.command("step", rich_help_panel="Training")(step_command)
    group.command("encoder", rich_help_panel="Training")(encoder_command)
    group.command("pretrain", rich_help_panel="Training")(pretrain_command)
    group.command("corpus", rich_help_panel="Data")(corpus_command)
    app.add_typer(group, name="bench", rich_help_panel="Tools")


def bench_command() -> None:
    """Measure attention, scoring, training steps and corpus building on this machine."""
    from nip.runs.process import spin_briefly

    spin_briefly(30_000)  # before a command imports torch


def collect(measured: Iterable[Any], measure: Any, output: Path | None) -> list[Any]:
    """All rows; the file is rewritten after each, so that an interrupted benchmark keeps those measured so far.

    Parameters
    ----------
    measured : iterable
        Rows, measured as they are taken.
    measure : module
        Of `nip.bench`, with ``to_markdown``.
    output : Path, optional
    """
    from rich.console import Console

    rows: list[Any] = []
    with Console(stderr=True).status("measuring"):
        for row in measured:
            rows.append(row)
            if output is not None:
                with replacing(output) as file:
                    file.write(measure.to_markdown(rows).encode())
    return rows


def show_rows(
    measure: Any,
    rows: Sequence[Any],
    output: Path | None,
    *,
    as_json: bool,
    heading: str | None = None,
    width: int | None = None,
) -> None:
    """Write the rows as Markdown to a file, and print them as JSON, or as a table if there is no file.

    Parameters
    ----------
    measure : module
        Of `nip.bench`, with ``HEADER``, ``cells`` and ``caption``, and ``to_markdown`` if a page has several tables.
    rows : sequence
        Measurements with a method ``to_dict``.
    output : Path, optional
    as_json : bool
    heading : str, optional
        Instead of the module's caption.
    width : int, optional
        Of the terminal, in characters; None detects it.
    """
    from nip.bench.table import TEXT_COLUMNS, markdown_table

    heading = heading or measure.caption(rows)
    if output is not None:
        page = getattr(
            measure, "to_markdown", lambda rows: markdown_table(heading, measure.HEADER, map(measure.cells, rows))
        )
        emit(page(rows), output)
    if as_json:
        print_json([row.to_dict() for row in rows])
    elif output is None:
        from rich.console import Console
        from rich.table import Table

        table = Table(title=heading, title_justify="left")
        for name in measure.HEADER:
            table.add_column(name, justify="left" if name in TEXT_COLUMNS else "right")
        for row in rows:
            table.add_row(*measure.cells(row))
        Console(width=width).print(table)


def terminal_width() -> int | None:
    """The width for a table of many columns: None detects that of a terminal; 160 elsewhere."""
    return None if sys.stdout.isatty() else 160


def lengths(text: str) -> list[int]:
    """Parse comma-separated sequence lengths."""
    return [integer(each, "A sequence length") for each in split(text)]


def check_sizes(command: str, patterns: Sequence[str] = (), **sizes: int | Sequence[int] | None) -> None:
    """Check options before torch is imported, which takes seconds.

    Parameters
    ----------
    command : str
        For the message.
    patterns : sequence of str, default=()
        Names of patterns.
    **sizes : int or sequence of int or None
        Numbers that must be at least 1, by the names of parameters; None is not given.

    Raises
    ------
    ValueError
        If there is no such pattern, or a number is below 1.
    """
    for name in patterns:
        graphs.pattern_parameters(name)
    for name, value in sizes.items():
        for each in [value] if isinstance(value, int) else value or ():
            check_int(name, each, command, minimum=1)


def attention_command(
    more_lengths: Annotated[
        list[str] | None, typer.Argument(metavar="TOKENS", help="Sequence lengths, in addition to --seq-len.")
    ] = None,
    attention: Patterns = "hypercube,bigbird",
    seq_len: Annotated[str | None, option("Sequence lengths in tokens, comma-separated.", default="1024,2048")] = None,
    backends: Backends = "auto",
    peers: Annotated[
        str,
        option(
            "Other implementations, comma-separated, or all: flex-window, torch-sparse, hf-longformer, "
            "hf-bigbird, and nip-module, which has projections as the previous two do."
        ),
    ] = "",
    block_size: Annotated[str, option("Tokens per block, comma-separated.")] = "16",
    batch: Batch = 4,
    heads: Heads = 4,
    head_dim: HeadDim = 32,
    dtype: Annotated[str, option("Data types, comma-separated: float32, bfloat16, float16, float64.")] = "float32",
    passes: Annotated[
        str, option("Passes, comma-separated, or all: forward, backward, forward+backward.", "--pass")
    ] = "forward,forward+backward",
    dense_up_to: Annotated[int, option("Longest sequence to measure dense attention on, in tokens.")] = 16384,
    repeats: Repeats = 7,
    threads: Annotated[int | None, option("Number of threads.", default="torch's default")] = None,
    memory: Memory = True,
    output: Output = None,
    plot: Annotated[
        Path | None, option("Plot time against sequence length, log-log, to this .svg or .png file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure time, speed and peak memory of attention over patterns, and of torch's dense attention.

    Speed is GFLOP/s over attended blocks only; sgemm is that of torch.mm in the same process. Repetitions alternate
    between implementations and are repeated if the machine was busy: `quiet` counts those that were not. In JSON,
    `ratio_to_dense` is the time over that of dense attention: below 1 is faster.

    Example: nip bench attention --attention hypercube,bigbird --seq-len 1024,2048,4096 --pass forward+backward
    """
    if threads is not None and threads < 1:
        raise ValueError(f"--threads must be an integer of at least 1. Got {threads} instead.")
    all_lengths = lengths(",".join([*split(seq_len or ""), *(more_lengths or ())]) or "1024,2048")
    directions = ALL_PASSES if passes == "all" else tuple(split(passes))
    blocks = [integer(block, "--block-size") for block in split(block_size)]
    sizes = {"batch": batch, "heads": heads, "head_dim": head_dim, "repeats": repeats}
    check_sizes("bench attention", split(attention), n_tokens=all_lengths, block_size=blocks, **sizes)

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
        Case(name, tokens, block, batch, heads, head_dim, kind)
        for kind in split(dtype)
        for block in blocks
        for name in split(attention)
        for tokens in all_lengths
    ]
    others = list(PEERS) if peers == "all" else split(peers)
    measured = bench_attention(
        cases,
        split(backends),
        directions,
        rivals=others,
        dense_up_to=dense_up_to,
        repeats=repeats,
        memory=memory,
        left_out=lambda reason: print(f"nip: {reason}", file=sys.stderr),
    )
    rows = []
    with Progress(console=Console(stderr=True), transient=True) as progress:
        expected = len(cases) * len(directions) * (1 + len(split(backends)) + len(others))
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
        print_json([row.to_dict() for row in rows])
    elif output is None:
        Console(width=terminal_width()).print(to_table(rows))


def gpu_command(
    attention: Patterns = "hypercube,bigbird,longformer",
    seq_len: Annotated[
        str | None, option("Sequence lengths in tokens, comma-separated.", default="1024 to 65536")
    ] = None,
    block_size: BlockSize = 16,
    batch: Batch = 4,
    heads: Heads = 8,
    head_dim: HeadDim = 64,
    dtype: Annotated[str, option("Data types, comma-separated: bfloat16, float16, float32.")] = "bfloat16,float16",
    passes: Annotated[
        str, option("Passes, comma-separated: forward, forward+backward.", "--pass")
    ] = "forward,forward+backward",
    repeats: Repeats = 7,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Verify FlexAttention over patterns on a GPU, then measure its time and peak memory.

    Compared with torch's dense attention, and FlexAttention with a sliding window of the pattern's width. If results or
    gradients differ from the reference in float64 by more than their precision allows, nothing is measured and the exit
    code is 1.

    Example: nip bench gpu --attention hypercube --seq-len 4096,16384 --output gpu.md
    """
    n_tokens = lengths(seq_len) if seq_len else None
    sizes = {"block_size": block_size, "batch": batch, "heads": heads, "head_dim": head_dim}
    check_sizes("bench attention", split(attention), n_tokens=n_tokens, **sizes)
    check_sizes("bench gpu", repeats=repeats)

    from nip.bench import Case, gpu
    from nip.bench.agreement import TOLERANCE, agreements

    dtypes = split(dtype)
    for name in dtypes:
        if name not in TOLERANCE:
            raise ValueError(f"--dtype must be among {', '.join(TOLERANCE)}. Got {name!r} instead.")
    cases = [
        Case(name, tokens, block_size, batch, heads, head_dim, kind)
        for kind in dtypes
        for name in split(attention)
        for tokens in n_tokens or gpu.LENGTHS
    ]
    if not cases:
        raise ValueError("There is nothing to measure. Name a pattern and a sequence length.")
    measured = gpu.bench_gpu(cases, split(passes), repeats=repeats, skipped=lambda text: print(text, file=sys.stderr))
    reason = gpu.missing()
    if reason is not None:
        raise ValueError(reason)
    checks = list(agreements("flex", "cuda", dtypes))
    wrong = [check for check in checks if not check.holds]
    for check in wrong:
        print(f"nip: wrong on this GPU: {check}", file=sys.stderr)
    if wrong:
        raise typer.Exit(1)
    verified = f"{len(checks)} problems agree with the reference in float64"
    print(verified, file=sys.stderr)
    rows = []
    for row in measured:
        rows.append(row)
        print(" ".join(gpu.cells(row)), file=sys.stderr)
    heading = f"{gpu.caption(rows)}; {verified}"
    show_rows(gpu, rows, output, as_json=as_json, heading=heading, width=terminal_width())


def scoring_command(
    attention: Patterns = ALL_PATTERNS,
    seq_len: SeqLens = "4096",
    block_size: BlockSize = 16,
    repeats: Repeats = 3,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Measure the time of scoring patterns, and of scipy's all-pairs distances.

    Example: nip bench scoring --attention hypercube,local --seq-len 4096,65536
    """
    check_sizes("bench scoring", split(attention), seq_len=lengths(seq_len), block_size=block_size, repeats=repeats)

    from nip.bench import scoring

    rows = list(scoring.bench_scoring(split(attention), lengths(seq_len), block_size, repeats=repeats))
    if not rows:
        raise ValueError("There is nothing to measure. Name a pattern and a sequence length.")
    show_rows(scoring, rows, output, as_json=as_json)


def step_command(
    backends: Backends = "auto",
    attention: Annotated[str, option("Pattern.", "--attention", "--model")] = "hypercube",
    ways: Annotated[
        str,
        option(
            "How to compute a batch, comma-separated: full (padded to --seq-len), own (as in training: "
            "micro-batches padded to their longest example), plain (one padded batch, torch's dropout)."
        ),
    ] = "full,own",
    batch_size: Annotated[int, option("Examples per step.")] = 32,
    seq_len: Annotated[int, option("Sequence length to truncate or pad to, in tokens.")] = 2048,
    repeats: Repeats = 7,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Measure a ListOps training step and its operations, over a pattern and with dense attention.

    Only attention differs. The examples are drawn for the benchmark.

    Example: nip bench step --backends native,gather --ways own
    """
    check_sizes("a run", [attention], batch_size=batch_size, seq_len=seq_len)
    check_sizes("bench step", repeats=repeats)

    from nip.bench import step

    settings: dict[str, Any] = {"batch_size": batch_size, "seq_len": seq_len, "repeats": repeats}
    rows = collect(step.bench_step(split(backends), split(ways), model=attention, **settings), step, output)
    if not rows:
        raise ValueError("There is nothing to measure. Name a way to compute a batch.")
    show_rows(step, rows, output, as_json=as_json)


def encoder_command(
    attention: Patterns = "hypercube",
    seq_len: SeqLens = "512,2048,8192",
    block_size: BlockSize = 16,
    batch: Batch = 1,
    layers: Annotated[int | None, option("Number of layers.", default="6")] = None,
    width: Annotated[int | None, option("Hidden size.", default="384")] = None,
    heads: Annotated[int | None, option("Number of attention heads.", default="12")] = None,
    model: Annotated[
        str | None, option("Saved model to measure instead of one with random weights.", "--model-name-or-path")
    ] = None,
    dropout: Annotated[str, option("Dropout probabilities on attention weights, comma-separated.")] = "0,0.1",
    hidden_dropout: Annotated[float, option("Dropout probability on activations.")] = 0.0,
    dtype: Annotated[str, option("Data type: float32 or bfloat16.")] = "float32",
    passes: Annotated[
        str, option("Passes, comma-separated: training (forward and backward), inference.", "--pass")
    ] = "training,inference",
    optimizer: Annotated[bool, option("Include AdamW's update in a training pass.", "--optimizer")] = False,
    backend: Backend = "auto",
    dense_up_to: Annotated[int | None, option("Longest sequence to measure dense attention on, in tokens.")] = None,
    repeats: Repeats = 7,
    memory: Memory = True,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Measure time and memory of a Hugging Face encoder, over patterns and with transformers' dense attention.

    Only attention differs. Dropout applies to training only, so inference is measured once.

    Example: nip bench encoder --seq-len 2048 --dropout 0 --pass training
    """
    n_tokens, probabilities = lengths(seq_len), [number(text, "Dropout") for text in split(dropout)]
    sizes = {"layers": layers, "width": width, "heads": heads, "batch": batch, "block_size": block_size}
    check_sizes("bench encoder", split(attention), n_tokens=n_tokens, repeats=repeats, **sizes)
    for name, values in (("attention_dropout", probabilities), ("hidden_dropout", [hidden_dropout])):
        if not all(0 <= value < 1 for value in values):
            raise ValueError(f"The '{name}' parameter of bench encoder must be in [0, 1).")

    from nip.bench import huggingface
    from nip.finetuning.datasets import disable_progress_bars

    disable_progress_bars()
    given = {"layers": layers, "width": width, "heads": heads}
    own: dict[str, Any] = {name: size for name, size in given.items() if size is not None}
    if model is not None and own:
        raise ValueError(f"--{next(iter(own))} is given by --model-name-or-path. Leave it out.")
    make = partial(huggingface.Encoder, **own) if model is None else partial(huggingface.Encoder.saved, model)
    more: dict[str, Any] = {"hidden_dropout": hidden_dropout, "dtype": dtype, "optimizer": optimizer}
    encoders = [
        make(n, batch=batch, block_size=block_size, attention_dropout=probability, **more)
        for probability in probabilities
        for n in n_tokens
    ]
    if not encoders:
        raise ValueError("There is nothing to measure. Name a sequence length and a dropout.")
    how: dict[str, Any] = {"backend": backend, "dense_up_to": dense_up_to, "repeats": repeats, "memory": memory}
    measured = huggingface.bench_encoder(encoders, split(attention), split(passes), **how)
    rows = collect(measured, huggingface, output)
    show_rows(huggingface, rows, output, as_json=as_json, width=terminal_width())


def pretrain_command(
    attention: Patterns = "hypercube",
    seq_len: SeqLens = "512,2048,8192",
    tokens: Annotated[int, option("Tokens per batch; a batch has at least one sample.")] = 8192,
    layers: Annotated[int, option("Number of layers.")] = 6,
    width: Annotated[int, option("Hidden size.")] = 384,
    heads: Heads = 12,
    vocab_size: Annotated[int, option("Vocabulary size.")] = 8192,
    block_size: BlockSize = 16,
    family: Annotated[str, option("Architecture: bert, roberta-prelayernorm or modernbert.")] = "bert",
    masked: Annotated[float, option("Fraction of tokens to predict.")] = 0.15,
    outputs: Annotated[
        str, option("Positions that the output layer computes, comma-separated: masked, all.")
    ] = "masked",
    bf16: Annotated[bool, option("Compute in bfloat16 under autocast.", "--bf16")] = False,
    backend: Backend = "auto",
    repeats: Repeats = 7,
    memory: Memory = True,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Measure time and memory of a pretraining step, over patterns and with transformers' dense attention.

    Only attention differs; the optimizer is AdamW. Repetitions alternate between patterns and are repeated if the
    machine was busy.

    Example: nip bench pretrain --seq-len 2048 --attention hypercube,bigbird
    """
    if tokens < 1:
        raise ValueError(f"--tokens must be an integer of at least 1. Got {tokens} instead.")
    sizes = {"layers": layers, "width": width, "heads": heads, "vocab_size": vocab_size, "block_size": block_size}
    check_sizes("bench pretrain", split(attention), n_tokens=lengths(seq_len), repeats=repeats, **sizes)
    if not 0 < masked <= 1:
        raise ValueError(f"The share of masked tokens must be above 0, at most 1. Got {masked} instead.")

    from nip.bench import pretrain

    model = (layers, width, heads, vocab_size, block_size, family, masked, bf16)
    problems = [pretrain.Problem(n, max(1, tokens // max(n, 1)), *model) for n in lengths(seq_len)]
    if not problems or not split(outputs):
        raise ValueError("There is nothing to measure. Name a sequence length and an output.")
    how: dict[str, Any] = {"backend": backend, "repeats": repeats, "memory": memory}
    rows = collect(pretrain.bench_pretraining(problems, split(attention), split(outputs), **how), pretrain, output)
    show_rows(pretrain, rows, output, as_json=as_json, width=terminal_width())


def corpus_command(
    origin: Annotated[Path, option("Text file, or folder of them, whose word frequencies are sampled.", "--from")],
    tokenizer: Annotated[str, option("Tokenizer: a folder, a vocab.txt, or a name on the Hugging Face Hub.")],
    megabytes: Annotated[int, option("Megabytes of text to draw.")] = 100,
    jobs: Annotated[int, option("Processes; −1 is one per core.")] = -1,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Measure the rate and memory of corpus building, and the rate of `tokenizers` alone.

    The text is drawn for the benchmark, in the folder for temporary files.

    Example: nip bench corpus --from texts --tokenizer bert-base-uncased --megabytes 1000
    """
    check_sizes("bench corpus", megabytes=megabytes, jobs=None if jobs == -1 else jobs)

    from rich.console import Console

    from nip.bench import corpus
    from nip.processor import usable_cores

    with Console(stderr=True).status("measuring"):
        rows = corpus.bench_corpus(origin, tokenizer, megabytes, jobs=usable_cores() if jobs == -1 else jobs)
    show_rows(corpus, rows, output, as_json=as_json)
