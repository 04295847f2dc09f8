"""The graph of a run: a named pattern, one from a file, or the original's layout with random blocks."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from nip.graphs import Pattern, causal, from_mask, pattern, pattern_parameters, read_graph, to_mask
from nip.lra.config import RunConfig

LAYOUT_LENGTH = 2048  # tokens for which the original draws its layouts
PATTERN_FILE = "pattern.npz"


def run_pattern(config: RunConfig, folder: Path | None = None) -> Pattern:
    """The graph of a configuration, on ``config.n_blocks`` vertices.

    Parameters
    ----------
    config : RunConfig
    folder : Path, optional
        A run folder, whose copy of the graph is used if the graph file no longer exists.

    Raises
    ------
    ValueError
        If there is no such pattern, the file's graph has a different number of vertices, or parameters were given with
        a file.
    """
    if config.graph is None:
        if config.protocol == "original" and "num_random_blocks" in pattern_parameters(config.model):
            return original_layout(config)
        return pattern(config.model, config.n_blocks, **config.parameters)
    if config.parameters:
        raise ValueError(f"A graph from a file takes no parameters. Got {', '.join(config.parameters)}.")
    path = Path(config.graph)
    if not path.is_file() and folder is not None and (folder / PATTERN_FILE).is_file():
        path = folder / PATTERN_FILE
    graph = read_graph(path, n=config.n_blocks)
    if graph.n != config.n_blocks:
        raise ValueError(
            f"{path} is a graph on {graph.n} vertices; {config.seq_len} tokens in blocks of {config.block_size} need "
            f"{config.n_blocks}."
        )
    return graph


def original_layout(config: RunConfig) -> Pattern:
    """A pattern with random blocks as the original's sparse attention draws it.

    One layout is drawn for 2,048 tokens, and shorter inputs use its top-left corner, so that at 1,024 tokens about half
    of the random blocks are lost. Draws may hit blocks that are attended anyway. Longer inputs, which the original does
    not support, use a layout of their own length.
    """
    pattern(config.model, 1, **config.parameters)  # raises on parameters that the pattern does not have
    chosen = {**pattern_parameters(config.model), **config.parameters}
    is_causal = chosen.pop("causal", False)
    n = max(LAYOUT_LENGTH // config.block_size, config.n_blocks)
    mask = to_mask(pattern(config.model, n, **{**chosen, "num_random_blocks": 0}))
    keys = np.random.PCG64(chosen["seed"]).random_raw(n * n).reshape(n, n)
    drawn = np.argsort(keys, axis=1, kind="stable")[:, : chosen["num_random_blocks"]]
    random = np.zeros_like(mask)
    np.put_along_axis(random, drawn, values=True, axis=1)
    if chosen.get("symmetric"):
        random |= random.T
    corner = from_mask((mask | random)[: config.n_blocks, : config.n_blocks], name=config.model)
    return causal(corner) if is_causal else corner


def is_named_pattern(graph: Pattern, config: RunConfig) -> bool:
    """Whether `nip.pattern` builds the graph from the configuration's model and parameters."""
    if config.graph is not None:
        return False
    return graph == pattern(config.model, config.n_blocks, **config.parameters)


def graph_label(path: Path) -> str:
    """The name of a graph from a file: the one stored in it, or the file's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `run_pattern` reads the file again and warns
        stored = read_graph(path).name if path.suffix == ".npz" else "custom"
    return path.stem if stored == "custom" else stored
