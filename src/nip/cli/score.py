"""`nip score`, `nip compare`, `nip show`, `nip search`: graphs, before any training."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from nip import graphs
from nip.cli.options import (
    Attention,
    BlockSize,
    Causal,
    Depth,
    FirstVertex,
    GraphReading,
    Json,
    NumVertices,
    Param,
    Relabel,
    SeqLen,
    Undirected,
    check_depth,
    check_reading,
    integer,
    number_of_vertices,
    option,
    patterns_named,
    read_graph_file,
    read_pattern,
    split,
)
from nip.cli.output import emit, print_json
from nip.graphs.pattern import read_parameters

GraphFile = Annotated[
    Path | None,
    option("Graph file instead of a pattern: edge list, .npz, .npy, .mtx, .graphml and others.", "--graph"),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    patterns_without_option = {"allow_extra_args": True}
    for name, command in (("score", score_command), ("compare", compare_command), ("show", show_command)):
        app.command(name, context_settings=patterns_without_option, rich_help_panel="Graphs")(command)
    app.command("search", rich_help_panel="Graphs")(search_command)


def score_command(
    context: typer.Context,
    attention: Attention = None,
    n_vertices: NumVertices = None,
    seq_len: SeqLen = None,
    block_size: BlockSize = 1,
    graph: GraphFile = None,
    first_vertex: FirstVertex = None,
    relabel: Relabel = False,
    undirected: Undirected = False,
    param: Param = None,
    causal: Causal = False,
    depth: Depth = None,
    as_json: Json = False,
    output: Annotated[
        Path | None,
        option("Also write the graph to this .npz file, for --graph of any command.", "--output", "--out"),
    ] = None,
) -> None:
    """Score one graph: Normalized Information Payload, with and without bottlenecks.

    Example: nip score --attention hypercube --n-vertices 2048

    Example: nip score --attention hypercube --seq-len 2048 --block-size 16 --depth 4

    Example: nip score --graph edges.txt --first-vertex 1 --output graph.npz
    """
    from nip.scoring import reach, score

    check_depth(depth)
    n = number_of_vertices(n_vertices, seq_len, block_size)
    names = patterns_named(context, attention)
    reading = GraphReading(first_vertex, relabel, undirected)
    chosen = read_pattern(names, graph, n, read_parameters(param or []), causal=causal, reading=reading)
    if output is not None:
        if output.suffix != ".npz":
            raise ValueError(f"--output must end in .npz. Got {str(output)!r} instead.")
        print(f"wrote {chosen.save(output)}", file=sys.stderr)
    result = score(chosen, block_size).to_dict()
    if depth is not None:
        result |= reach(chosen, depth, block_size).to_dict()
    if as_json:
        print_json(result)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    for field, value in result.items():
        table.add_row(f"[bold]{field}[/bold]", escape(_text(field, value)))
    Console().print(table)


def _text(field: str, value: object) -> str:
    if value is None:
        return {"diameter": "∞", "cost": "∞", "log10_least_payload": "−∞"}.get(field, "undefined")
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items()) or "none"
    if isinstance(value, list | tuple):
        shown = [str(v) for v in value]
        return " → ".join(shown if len(shown) <= 16 else [*shown[:8], "…", *shown[-7:]])
    return str(value)


def compare_command(
    context: typer.Context,
    attention: Annotated[
        str | None, option("Patterns, comma-separated.", default="all that exist at this size")
    ] = None,
    n_vertices: Annotated[
        str | None,
        option(
            "Number of vertices; several, comma-separated, give a score over the size.", "--n-vertices", metavar="N,…"
        ),
    ] = None,
    seq_len: SeqLen = None,
    block_size: BlockSize = 1,
    graph: Annotated[list[Path] | None, option("Graph file to add at its own size; repeat for several.")] = None,
    first_vertex: FirstVertex = None,
    relabel: Relabel = False,
    undirected: Undirected = False,
    param: Param = None,
    causal: Causal = False,
    depth: Depth = None,
    sort: Annotated[
        str | None,
        option(
            "Sort by bottleneck_nip_relative, nip_relative, vertex_nip_relative, diameter, cost, density or "
            "mean_degree; with --depth also by reach or even_reach.",
            default="bottleneck_nip_relative; even_reach with --depth",
        ),
    ] = None,
    jobs: Annotated[int, option("Patterns scored in parallel; −1 is one per core (needs joblib).")] = 1,
    as_json: Json = False,
    as_csv: Annotated[bool, option("Print CSV instead of a table.", "--csv")] = False,
    as_markdown: Annotated[bool, option("Print a Markdown table.", "--markdown")] = False,
    as_html: Annotated[bool, option("Print a self-contained HTML page.", "--html")] = False,
    output: Annotated[
        Path | None,
        option(
            "Write to this file instead of standard output; with several sizes also .png or .svg, the curve.",
            "--output",
            "--out",
        ),
    ] = None,
) -> None:
    """Score many graphs and rank them.

    With several sizes, a table and a figure show one score (--sort, default nip_relative) over the number of vertices.

    Example: nip compare --seq-len 2048 --block-size 16

    Example: nip compare --attention hypercube,bigbird --seq-len 2048 --block-size 16 --depth 4

    Example: nip compare --n-vertices 256,512,1024,2048 --output curve.svg
    """
    from nip.scoring import curve, draw, table

    if sum((as_json, as_csv, as_markdown, as_html)) > 1:
        raise ValueError("--json, --csv, --markdown and --html exclude each other. Give one of them.")
    given = [integer(part, "--n-vertices") for part in split(n_vertices)] if n_vertices is not None else [None]
    if len(set(given)) < max(1, len(given)):
        raise ValueError(f"--n-vertices names each size once, comma-separated. Got {n_vertices!r} instead.")
    sizes = [number_of_vertices(size, seq_len, block_size) for size in given]
    picture = output is not None and len(sizes) > 1 and output.suffix.lower() in draw.ENDINGS and not as_html
    if output is not None and not (picture or as_json or as_csv or as_markdown or as_html):
        raise ValueError(f"Say in which form to write {output}: --json, --csv, --markdown or --html.")
    if picture and (as_json or as_csv or as_markdown):
        raise ValueError(f"{output} is a figure; leave the other form out, or name another --output.")
    check_depth(depth)
    n = sizes[0]
    parameters = read_parameters(param or [])
    reading = GraphReading(first_vertex, relabel, undirected)
    if not graph:
        check_reading(reading)
    chosen = [read_graph_file(file, None, causal=causal, reading=reading) for file in graph or ()]
    named = patterns_named(context, attention)
    at_size = {size: list(named or _every(size, alone=not graph)) for size in sizes}
    names = list(dict.fromkeys(name for members in at_size.values() for name in members))
    for name in names:
        if Path(name).suffix in {".csv", ".html", ".md", ".json"}:
            raise ValueError(f"There is no pattern {name!r}. To write a file use --output {name}.")
    known = {name: graphs.pattern_parameters(name) for name in names}
    for parameter in parameters:
        if not any(parameter in takes for takes in known.values()):
            raise ValueError(f"None of the patterns {', '.join(names)} has a parameter {parameter!r}.")
    if names and n is None:
        raise ValueError("Say how large the graphs are: --n-vertices N, or --seq-len L with --block-size B.")
    for size, members in at_size.items():
        for name in members:
            own = {key: value for key, value in parameters.items() if key in known[name]}
            try:
                chosen.append(graphs.pattern(name, size or 1, causal=causal, **own))
            except ImportError as error:
                if named:
                    raise
                print(f"nip: {name} is left out. {error}", file=sys.stderr)
    if len(sizes) > 1 and sort is None:
        sort = curve.DEFAULT_SCORE if depth is None else table.default_sort(depth)
    if jobs == 0:
        raise ValueError("--jobs must be an integer of at least 1, or −1 for one process per core. Got 0 instead.")
    rows = table.compare(chosen, block_size, sort=sort, depth=depth, jobs=jobs)
    sort = sort or table.default_sort(depth)
    shown = ", ".join(str(size) for size in sorted({row.score.n_vertices for row in rows}))
    title = (
        f"{shown} vertices of {block_size} token{'s' * (block_size > 1)}; "
        f"NIP relative to the complete graph; {'sorted by' if len(sizes) == 1 else 'shown is'} {sort}"
        + (f"; reach within {depth} step{'s' * (depth > 1)}" if depth is not None else "")
    )
    records = [table.cells(row) for row in rows] if len(sizes) == 1 else curve.curve_rows(rows, sort)
    if as_json:
        emit(table.to_json(rows), output)
    elif as_csv:
        emit(table.to_csv(rows), output)
    elif as_markdown:
        emit(table.markdown_table(records), output)
    elif as_html:
        drawn = "" if len(sizes) == 1 else draw.image(curve.curve_figure(rows, sort, block_size), title)
        emit(table.html_page(records, title, drawn), output)
    else:
        from rich.console import Console

        Console().print(table.console_table(records, title))
        if picture and output is not None:
            print(f"wrote {curve.save_curve(rows, output, sort, block_size)}", file=sys.stderr)


def _every(n: int | None, *, alone: bool) -> Sequence[str]:
    """The patterns to compare where none is named: all that exist at that size; without a size only for the message."""
    if n is None:
        return list(graphs.PATTERNS) if alone else []
    return graphs.names_at(n)


def show_command(
    context: typer.Context,
    attention: Attention = None,
    n_vertices: NumVertices = None,
    seq_len: SeqLen = None,
    block_size: BlockSize = 1,
    graph: GraphFile = None,
    first_vertex: FirstVertex = None,
    relabel: Relabel = False,
    undirected: Undirected = False,
    param: Param = None,
    causal: Causal = False,
    output: Annotated[
        Path | None,
        option(
            "Figure to write, .png, .svg or .html.",
            "--output",
            "--out",
            default="PATTERN-N.png in the working directory",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw a graph: its attention mask, and the payload by distance.

    Example: nip show --attention hypercube --n-vertices 64 --output hypercube.svg
    """
    import dataclasses

    from nip.scoring import payload_by_distance, save_figure

    n = number_of_vertices(n_vertices, seq_len, block_size)
    names = patterns_named(context, attention)
    reading = GraphReading(first_vertex, relabel, undirected)
    chosen = read_pattern(names, graph, n, read_parameters(param or []), causal=causal, reading=reading)
    path = save_figure(chosen, output or Path(f"{chosen.name}-{chosen.n}.png"), block_size)
    if as_json:
        rows = [dataclasses.asdict(row) for row in payload_by_distance(chosen, block_size)]
        print_json({"picture": str(path), "payload_by_distance": rows})
    else:
        print(f"wrote {path}", file=sys.stderr)


def search_command(
    degree: Annotated[int, option("Largest degree of a vertex, self-loop excluded.")],
    n_vertices: NumVertices = None,
    seq_len: SeqLen = None,
    block_size: BlockSize = 1,
    seed: Annotated[int, option("Seed of random graphs and of the local search.")] = 0,
    steps: Annotated[int, option("Edge exchanges to try from each of two starting graphs.")] = 2000,
    seconds: Annotated[
        float | None, option("Time limit in seconds; results then depend on the machine.", "--time")
    ] = None,
    objective: Annotated[str, option("Score to maximize: nip_relative or bottleneck_nip_relative.")] = "nip_relative",
    output: Annotated[
        Path | None, option("Write the best graph to this .npz file, for --graph.", "--output", "--out")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the best graph for a degree budget: all families, then local search by edge exchanges.

    Example: nip search --n-vertices 64 --degree 6 --output best.npz
    """
    from nip.scoring import Row, search, table

    if output is not None and output.suffix != ".npz":
        raise ValueError(f"--output must end in .npz. Got {str(output)!r} instead.")
    n = number_of_vertices(n_vertices, seq_len, block_size)
    if n is None:
        raise ValueError("Say how large the graph is: --n-vertices N, or --seq-len L with --block-size B.")
    options = {"seed": seed, "steps": steps, "seconds": seconds, "objective": objective, "block_size": block_size}
    found = search(n, degree, **options)  # type: ignore[arg-type]
    if output is not None:
        print(f"wrote {found[0].pattern.save(output)}", file=sys.stderr)
    if as_json:
        print_json([one.score.to_dict() for one in found])
        return
    from rich.console import Console

    from nip.scoring import score

    rows = [Row(one.score, one.score if block_size == 1 else score(one.pattern)) for one in found]
    title = (
        f"{n} vertices of {block_size} token{'s' * (block_size > 1)}, degree at most {degree}; sorted by {objective}"
    )
    Console().print(table.to_console(rows, title))
