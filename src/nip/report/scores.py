"""Scores of the graphs that the runs attended over, and of the named patterns of the same size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nip.graphs import Pattern, names_at, pattern
from nip.graphs.compose import rename
from nip.runs.folder import RunFolder
from nip.runs.record import RunRecord
from nip.scoring.table import Row, compare


@dataclass(frozen=True)
class Setting:
    """The graphs of one size, each under a name of its own, and for each the runs (by number) that attended over it."""

    seq_len: int
    block_size: int
    graphs: tuple[Pattern, ...]
    used: tuple[tuple[int, ...], ...]

    def rows(self) -> list[Row]:
        """The graphs' scores at this block size, best first."""
        return compare(self.graphs, self.block_size)


def graph_settings(runs: Sequence[RunRecord]) -> list[Setting]:
    """For every size among the runs: the named patterns there, and the runs' own graphs where they are others.

    Graphs are told apart by checksum; one that is no default pattern is labelled by what makes it different.
    """
    sizes = dict.fromkeys((run.seq_len, run.block_size) for run in runs)
    return [_setting(seq_len, block_size, runs) for seq_len, block_size in sizes]


def run_graph(run: RunRecord) -> Pattern:
    """The graph that a run attended over: the one saved in its folder, else built from its name and parameters.

    Raises
    ------
    ValueError
        If the file is damaged, the configuration names a pattern or parameter that does not exist, or the graph is not
        the one whose checksum the run recorded.
    """
    saved = RunFolder(run.folder).pattern
    try:
        graph = Pattern.load(saved) if saved.exists() else pattern(run.pattern, run.n_blocks, **run.parameters)
    except ValueError as error:
        raise ValueError(f"{run.folder}: {error}") from error
    if run.checksum not in (None, graph.checksum):
        raise ValueError(
            f"{run.folder} was trained on another graph than its configuration names now: its checksum is "
            f"{run.checksum}, the named graph's {graph.checksum}."
        )
    return graph


def _setting(seq_len: int, block_size: int, runs: Sequence[RunRecord]) -> Setting:
    n = -(-seq_len // block_size)
    graphs: dict[str, Pattern] = {}
    for name in names_at(n):  # on a few vertices several are the same graph: the first keeps its name
        graph = pattern(name, n)
        graphs.setdefault(graph.checksum, rename(graph, name))
    used: dict[str, list[int]] = {}
    for number, run in enumerate(runs):
        if (run.seq_len, run.block_size) != (seq_len, block_size):
            continue
        graph = run_graph(run)
        if graph.checksum not in graphs:
            taken = {known.name for known in graphs.values()}
            label = run.pattern_label if run.pattern_label not in taken else f"{run.pattern_label} of {run.name}"
            graphs[graph.checksum] = rename(graph, label)
        used.setdefault(graph.checksum, []).append(number)
    return Setting(
        seq_len, block_size, tuple(graphs.values()), tuple(tuple(used.get(checksum, ())) for checksum in graphs)
    )
