"""Options that several commands share, and how a pattern is read from them.

Options that the commands of `nip data` share.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nip import graphs

if TYPE_CHECKING:
    from nip.graphs import Pattern


NumVertices = Annotated[int | None, typer.Option("--n-vertices", help="Number of vertices (blocks) of the graph.")]
SeqLen = Annotated[int | None, typer.Option("--seq-len", help="Tokens instead: ⌈tokens / block size⌉ vertices.")]
BlockSize = Annotated[int, typer.Option("--block-size", help="Tokens per vertex; 1 scores the vertices themselves.")]
Attention = Annotated[
    str | None, typer.Option("--attention", help=f"The pattern: {', '.join(graphs.PATTERNS)}.", show_default=False)
]
Param = Annotated[
    list[str] | None, typer.Option("--param", help="A parameter of the pattern, name=value; may be repeated.")
]
Causal = Annotated[bool, typer.Option("--causal", help="Attend to earlier tokens only.")]
Depth = Annotated[
    int | None,
    typer.Option("--depth", help="Layers of attention: also say what arrives within them.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on standard output.")]


def number_of_vertices(n_vertices: int | None, seq_len: int | None, block_size: int) -> int | None:
    """The n that --n-vertices or --seq-len ask for; None where neither was given."""
    if block_size < 1:
        raise ValueError(f"--block-size must be an integer of at least 1. Got {block_size} instead.")
    if n_vertices is not None and seq_len is not None:
        raise ValueError("--n-vertices and --seq-len say the same thing twice. Give one of them.")
    for option, value in (("--n-vertices", n_vertices), ("--seq-len", seq_len)):
        if value is not None and value < 1:
            raise ValueError(f"{option} must be an integer of at least 1. Got {value} instead.")
    return n_vertices if seq_len is None else -(-seq_len // block_size)


def check_depth(depth: int | None) -> None:
    """Refuse a --depth that is no number of layers."""
    if depth is not None and depth < 1:
        raise ValueError(f"--depth must be an integer of at least 1. Got {depth} instead.")


def patterns_named(context: typer.Context, attention: str | None) -> list[str]:
    """The patterns of ``--attention``, comma-separated, and those that are named without an option, as once."""
    return [*split(attention or ""), *context.args]


def read_pattern(
    names: Sequence[str], graph: Path | None, n: int | None, parameters: dict[str, Any], *, causal: bool
) -> Pattern:
    """The one pattern that a command line means: by name and size, or from a graph file."""
    if len(names) > 1:
        raise ValueError(f"--attention takes one pattern here. Got {', '.join(names)} instead.")
    name = names[0] if names else None
    if graph is not None:
        if name is not None:
            raise ValueError(f"Give --attention or --graph, not both. Got {name!r} and {graph}.")
        if parameters:
            raise ValueError(f"--param belongs to a pattern; the graph in {graph} has no parameters.")
        return read_graph_file(graph, n, causal=causal)
    if name is None:
        raise ValueError(f"Name a pattern with --attention ({', '.join(graphs.PATTERNS)}) or give --graph FILE.")
    graphs.pattern_parameters(name)  # an unknown name is the first thing to say
    if n is None:
        raise ValueError("Say how large the graph is: --n-vertices N, or --seq-len L with --block-size B.")
    return graphs.pattern(name, n, causal=causal, **parameters)


def read_graph_file(path: Path, n: int | None, *, causal: bool) -> Pattern:
    """A graph file, with what was dropped or merged told on standard error."""
    with warnings_to_stderr():
        read = graphs.read_graph(path, n=n)
    if n is not None and read.n != n:
        raise ValueError(f"{path} has {read.n} vertices, not the {n} asked for. Leave --n-vertices and --seq-len out.")
    return graphs.causal(read) if causal else read


@contextmanager
def warnings_to_stderr() -> Iterator[None]:
    """Print warnings as plain sentences on standard error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", graphs.GraphFileWarning)
        yield
    for warning in caught:
        print(f"nip: {warning.message}", file=sys.stderr)


def emit(text: str, out: Path | None) -> None:
    """Print the text, or write it to a file, complete or not at all."""
    from nip.atomic import replacing

    if out is None:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        return
    with replacing(out) as file:
        file.write(text.encode() if text.endswith("\n") else f"{text}\n".encode())
    print(f"wrote {out}", file=sys.stderr)


def split(text: str) -> list[str]:
    """The parts of a list with commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def integer(text: str, name: str) -> int:
    """The integer that a text says; `name` is what it is called where it says none."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name} must be an integer. Got {text!r} instead.") from None


def number(text: str, name: str) -> float:
    """Likewise a number."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number. Got {text!r} instead.") from None


_FOLDER = "The data folder, which holds a folder per task (default: $NIP_DATA, else data/)."
OutputFolder = Annotated[Path | None, typer.Option("--output-dir", "--out", "--data", help=_FOLDER)]
DataFolder = Annotated[Path | None, typer.Option("--data", "--out", help=_FOLDER)]
TaskName = Annotated[str, typer.Argument(metavar="TASK", help="The task, such as listops.")]
Origin = Annotated[str | None, typer.Option("--from", help="The file or folder to read.")]
SourceName = Annotated[str | None, typer.Option("--source", help="The form of what is read, or how to draw.")]
SplitRule = Annotated[str | None, typer.Option("--split-rule", help="How to split what is read.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a set that is there.")]
