"""The graph that a run trains on: a named pattern, one from a file, or the original's corner of a larger layout."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from nip.graphs import Pattern, causal, from_mask, pattern, pattern_parameters, read_graph, to_mask
from nip.lra.config import RunConfig

MASTER_LENGTH = 2048
PATTERN_FILE = "pattern.npz"


def run_pattern(config: RunConfig, folder: Path | None = None) -> Pattern:
    """The graph on ``config.n_blocks`` vertices that a configuration names.

    Parameters
    ----------
    config : RunConfig
    folder : Path, optional
        A run folder, whose copy of the graph is taken where the file that the command named is gone.

    Raises
    ------
    ValueError
        If there is no such pattern, the file's graph has another number of vertices, or parameters were given with a
        file.
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
    """A pattern with random rows as the original's sparse attention lays it out.

    One layout is drawn for 2,048 tokens, and shorter inputs get its top-left corner, so that at 1,024 tokens about half
    of the random blocks are lost. The draws may hit blocks that are attended already. (Longer inputs, which the
    original's layout has no room for, get one that is drawn for them.)
    """
    defaults = pattern_parameters(config.model)
    pattern(config.model, 1, **config.parameters)  # refuses parameters that the pattern does not have
    chosen = {**defaults, **config.parameters}
    is_causal = chosen.pop("causal", False)
    n = max(MASTER_LENGTH // config.block_size, config.n_blocks)
    settled = {**chosen, "num_random_blocks": 0}
    mask = to_mask(pattern(config.model, n, **settled))
    keys = np.random.PCG64(chosen["seed"]).random_raw(n * n).reshape(n, n)
    drawn = np.argsort(keys, axis=1, kind="stable")[:, : chosen["num_random_blocks"]]
    random = np.zeros_like(mask)
    np.put_along_axis(random, drawn, values=True, axis=1)
    if chosen.get("symmetric"):
        random |= random.T
    corner = from_mask((mask | random)[: config.n_blocks, : config.n_blocks], name=config.model)
    return causal(corner) if is_causal else corner


def named_exactly(graph: Pattern, config: RunConfig) -> bool:
    """Whether `nip.pattern` rebuilds the graph from the configuration's model and parameters."""
    if config.graph is not None:
        return False
    return graph == pattern(config.model, config.n_blocks, **config.parameters)


def graph_label(path: Path) -> str:
    """What a graph from a file is called: the name it carries, or the file's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the file holds is reported when it is read to be trained on
        carried = read_graph(path).name if path.suffix == ".npz" else "custom"
    return path.stem if carried == "custom" else carried
