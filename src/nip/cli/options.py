"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nip import graphs
from nip.cli.output import warnings_to_stderr

if TYPE_CHECKING:
    from nip.graphs import Pattern


def option(
    says: str, *names: str, default: str | bool = True, panel: str | None = None, metavar: str | None = None
) -> Any:
    """An option with its help.

    Parameters
    ----------
    says : str
        What it does, in one sentence.
    *names : str
        With two hyphens; by default that of the parameter. Only the first is shown, the others are of earlier versions.
        Folders are ``--output-dir``, single files ``--output``; ``--out`` is either.
    default : str or bool, default=True
        Default to show where it is not the parameter's own; False shows none.
    panel : str, optional
        Group of options in the help.
    metavar : str, optional
        The value in the help, if not its type.
    """
    return typer.Option(*names, help=says, show_default=default, rich_help_panel=panel, metavar=metavar)


Attention = Annotated[str | None, option(f"Pattern, one of {', '.join(graphs.PATTERNS)}.", "--attention")]
NumVertices = Annotated[int | None, option("Number of vertices of the graph.", "--n-vertices")]
SeqLen = Annotated[
    int | None, option("Sequence length in tokens; the graph has ⌈sequence length / block size⌉ vertices.", "--seq-len")
]
BlockSize = Annotated[int, option("Tokens per vertex of the graph.", "--block-size")]
Param = Annotated[
    list[str] | None, option("Parameter of the pattern; repeat for several.", "--param", metavar="NAME=VALUE")
]
Causal = Annotated[bool, option("Keep only edges to earlier tokens.", "--causal")]
Depth = Annotated[
    int | None, option("Number of attention layers; also computes reach within that many steps.", "--depth")
]
Json = Annotated[bool, option("Print one JSON value on standard output.", "--json")]
_folder = partial(option, "Data folder with one subfolder per task.", default="$NIP_DATA, else data/")
OutputFolder = Annotated[Path | None, _folder("--output-dir", "--out", "--data")]
DataFolder = Annotated[Path | None, _folder("--data", "--out")]
TaskName = Annotated[str, typer.Argument(metavar="TASK", help="Task, such as listops.")]
Origin = Annotated[str | None, option("File or folder to read.", "--from")]
SourceName = Annotated[str | None, option("Format to read, or generator to draw from.", "--source")]
SplitRule = Annotated[str | None, option("Rule that splits what is read.", "--split-rule")]
Overwrite = Annotated[bool, option("Replace existing data with other settings.", "--overwrite")]


def number_of_vertices(n_vertices: int | None, seq_len: int | None, block_size: int) -> int | None:
    """The number of vertices of ``--n-vertices`` or ``--seq-len``; None if neither is given.

    Parameters
    ----------
    n_vertices, seq_len : int, optional
        Vertices, or tokens.
    block_size : int
        Tokens per vertex.

    Raises
    ------
    ValueError
        If both are given, or one is below 1.
    """
    if block_size < 1:
        raise ValueError(f"--block-size must be an integer of at least 1. Got {block_size} instead.")
    if n_vertices is not None and seq_len is not None:
        raise ValueError("--n-vertices and --seq-len say the same thing twice. Give one of them.")
    for option, value in (("--n-vertices", n_vertices), ("--seq-len", seq_len)):
        if value is not None and value < 1:
            raise ValueError(f"{option} must be an integer of at least 1. Got {value} instead.")
    return n_vertices if seq_len is None else -(-seq_len // block_size)


@dataclass(frozen=True)
class GraphReading:
    """How a graph file is read: the options of `nip.graphs.read_graph`."""

    first_vertex: int | None = None
    relabel: bool = False
    undirected: bool = False


FirstVertex = Annotated[int | None, option("Smallest id in an edge list of --graph.", "--first-vertex", default="0")]
Relabel = Annotated[
    bool, option("Number the vertices of --graph that have an edge, and leave out the others.", "--relabel")
]
Undirected = Annotated[bool, option("Read the arcs of --graph in both directions.", "--undirected")]


def check_depth(depth: int | None) -> None:
    """Raise ValueError unless --depth is a number of layers."""
    if depth is not None and depth < 1:
        raise ValueError(f"--depth must be an integer of at least 1. Got {depth} instead.")


def patterns_named(context: typer.Context, attention: str | None) -> list[str]:
    """The patterns of ``--attention``, comma-separated, then those given without an option, as in earlier versions."""
    return [*split(attention or ""), *context.args]


def read_pattern(
    names: Sequence[str],
    graph: Path | None,
    n: int | None,
    parameters: dict[str, Any],
    *,
    causal: bool,
    reading: GraphReading = GraphReading(),
) -> Pattern:
    """The one pattern of a command line: by name and size, or from a graph file.

    Parameters
    ----------
    names : sequence of str
        Of ``--attention``.
    graph : Path, optional
        Of ``--graph``.
    n : int, optional
        Number of vertices.
    parameters : dict
        Of ``--param``.
    causal : bool
    reading : GraphReading
        How a graph file is read.

    Raises
    ------
    ValueError
        If not exactly one pattern is named, or its size or a parameter is impossible.
    """
    if len(names) > 1:
        raise ValueError(f"--attention takes one pattern here. Got {', '.join(names)} instead.")
    name = names[0] if names else None
    if graph is not None:
        if name is not None:
            raise ValueError(f"Give --attention or --graph, not both. Got {name!r} and {graph}.")
        if parameters:
            raise ValueError(f"--param belongs to a pattern; the graph in {graph} has no parameters.")
        return read_graph_file(graph, n, causal=causal, reading=reading)
    check_reading(reading)
    if name is None:
        raise ValueError(f"Name a pattern with --attention ({', '.join(graphs.PATTERNS)}) or give --graph FILE.")
    graphs.pattern_parameters(name)  # an unknown name is reported before a missing size
    if n is None:
        raise ValueError("Say how large the graph is: --n-vertices N, or --seq-len L with --block-size B.")
    return graphs.pattern(name, n, causal=causal, **parameters)


def check_reading(reading: GraphReading) -> None:
    """Raise ValueError if an option on graph files is given without one."""
    if reading != GraphReading():
        raise ValueError("--first-vertex, --relabel and --undirected say how a graph file is read. Give --graph FILE.")


def read_graph_file(path: Path, n: int | None, *, causal: bool, reading: GraphReading = GraphReading()) -> Pattern:
    """Read a graph file, and print what was dropped, merged or interpreted on standard error.

    Parameters
    ----------
    path : Path
    n : int, optional
        Number of vertices.
    causal : bool
    reading : GraphReading

    Raises
    ------
    ValueError
        If the file is malformed, or has another number of vertices.
    """
    with warnings_to_stderr():
        read = graphs.read_graph(path, n=n, **dataclasses.asdict(reading))
    if n is not None and read.n != n:
        raise ValueError(f"{path} has {read.n} vertices, not the {n} asked for. Leave --n-vertices and --seq-len out.")
    return graphs.causal(read) if causal else read


def split(text: str) -> list[str]:
    """The items of a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def integer(text: str, name: str) -> int:
    """Parse an integer; `name` is how the error message calls it."""
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{name} must be an integer. Got {text!r} instead.") from None


def number(text: str, name: str) -> float:
    """Parse a number; `name` is how the error message calls it."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} must be a number. Got {text!r} instead.") from None


def with_options(command: Callable[..., None], more: Iterable[inspect.Parameter]) -> Callable[..., None]:
    """The command, which takes more options, each as a keyword argument, for typer to read."""
    own = inspect.signature(command, eval_str=True).parameters.values()
    named = [each for each in own if each.kind is not inspect.Parameter.VAR_KEYWORD]
    together = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*named, *more)]
    command.__signature__ = inspect.Signature(together)  # type: ignore[attr-defined]
    return command
