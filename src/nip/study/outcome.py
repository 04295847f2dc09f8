"""The outcome of a study: accuracy over the seeds for each pattern, and its correlation with the graphs' scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from nip.graphs import Pattern
from nip.lra.config import RunConfig
from nip.lra.graphs import run_pattern
from nip.runs.record import RunRecord, read_record
from nip.scoring.reach import Reach, reach
from nip.scoring.score import Score, score
from nip.study.finding import differing
from nip.study.panel import PlannedRun, finished
from nip.study.statistics import Correlation, Summary, correlation, summary

PREDICTORS = {
    "log10_nip_vertices": "log10 NIP, vertices",
    "log10_nip_tokens": "log10 NIP, tokens",
    "log10_bottleneck_nip_vertices": "log10 discounted NIP, vertices",
    "log10_bottleneck_nip_tokens": "log10 discounted NIP, tokens",
    "reach": "reach at depth",
    "even_reach": "even reach at depth",
    "log10_least_payload": "log10 least payload at depth",
}
"""What accuracy is correlated with, in the order of the tables."""
KINDS = ("pearson", "spearman")
OWN = ("task", "model", "parameters", "checksum", "layers", "repeats", "seq_len", "positions")
"""Settings in which the members of a panel may differ; every other difference between runs is noted."""


@dataclass(frozen=True)
class Graph:
    """The scores of a pattern, with NIP relative to the complete graph of its size, and its reach.

    Parameters
    ----------
    vertices, tokens : Score
        Scores of the graph of blocks and of the graph of tokens.
    at_depth : Reach
        Reach between tokens after one step for each attention layer of the model.
    native : int or None
        The family's own number of vertices nearest to this one, for families that do not exist at every size.
    """

    vertices: Score
    tokens: Score
    at_depth: Reach
    native: int | None

    @property
    def cut(self) -> bool:
        """Whether this size is not native to the family, so that the graph was cut or stretched to it."""
        return self.native is not None and self.native != self.vertices.n_vertices

    def predictors(self) -> dict[str, float]:
        """The values of `PREDICTORS`; −inf is the logarithm of zero, NaN means that there are no pairs of tokens."""
        values = {
            "log10_nip_vertices": self.vertices.log10_nip_relative,
            "log10_nip_tokens": self.tokens.log10_nip_relative,
            "log10_bottleneck_nip_vertices": self.vertices.log10_bottleneck_nip_relative,
            "log10_bottleneck_nip_tokens": self.tokens.log10_bottleneck_nip_relative,
            "reach": self.at_depth.reach,
            "even_reach": self.at_depth.even_reach,
            "log10_least_payload": self.at_depth.log10_least_payload,
        }
        return {name: math.nan if value is None else value for name, value in values.items()}


@dataclass(frozen=True)
class Cell:
    """One pattern at one depth.

    Parameters
    ----------
    label : str
        The pattern as it is written in the panel.
    layers, depth : int
        Layers of the model, and how often attention is applied: layers times repeats.
    accuracies : mapping of int to float
        Test accuracies of the finished runs by seed.
    missing : tuple of str
        Names of planned runs without a result.
    accuracy : Summary or None
        None if no run has finished.
    graph : Graph
    config : RunConfig
        Of the first run.
    baseline : float or None
        The best accuracy that needs no training.
    runs : tuple of RunRecord
        The finished runs.
    """

    label: str
    layers: int
    depth: int
    accuracies: dict[int, float]
    missing: tuple[str, ...]
    accuracy: Summary | None
    graph: Graph
    config: RunConfig
    baseline: float | None
    runs: tuple[RunRecord, ...] = ()


@dataclass(frozen=True)
class Found:
    """A correlation of accuracy with a predictor at one depth.

    Parameters
    ----------
    depth : int
        How often attention is applied in these runs.
    predictor : str
        A key of `PREDICTORS`.
    correlation : Correlation
        Of mean accuracies: one point for each pattern.
    """

    depth: int
    predictor: str
    correlation: Correlation


@dataclass(frozen=True)
class Panel:
    """The outcome of a study so far.

    Parameters
    ----------
    task : str
    cells : tuple of Cell
        By depth, best accuracy first.
    found : tuple of Found
    notes : tuple of str
        Sentences on what limits the comparison.
    """

    task: str
    cells: tuple[Cell, ...]
    found: tuple[Found, ...]
    notes: tuple[str, ...]

    def depths(self) -> list[int]:
        """The depths in ascending order."""
        return sorted({cell.depth for cell in self.cells})

    def to_dict(self) -> dict[str, Any]:
        """The outcome as JSON values; NaN and infinities become None."""
        return {
            "task": self.task,
            "notes": list(self.notes),
            "settings": _shared_settings([run.settings for cell in self.cells for run in cell.runs]),
            "cells": [_cell(cell) for cell in self.cells],
            "correlations": [
                {"depth": one.depth, "predictor": one.predictor, **asdict(one.correlation)} for one in self.found
            ],
            "runs": [_run(cell, run) for cell in self.cells for run in cell.runs],
        }


def evaluate(study: Path, runs: Sequence[PlannedRun]) -> Panel:
    """Read the finished runs in a study's folder, and correlate their accuracies with their graphs' scores.

    Parameters
    ----------
    study : Path
    runs : sequence of PlannedRun
        At least one.

    Raises
    ------
    ValueError
        If a run's folder is damaged or contains another run.
    """
    members: dict[tuple[str, int, int], list[PlannedRun]] = {}
    for run in runs:
        members.setdefault((run.label, run.config.layers, run.config.repeats), []).append(run)
    scores: dict[tuple[str, int], Score] = {}
    cells = [_cell_of(study, label, group, scores) for (label, *_), group in members.items()]
    cells.sort(key=lambda cell: (cell.depth, cell.layers, -cell.accuracy.mean if cell.accuracy else 1.0))
    tasks = sorted({run.config.task for run in runs})
    return Panel(", ".join(tasks), tuple(cells), tuple(_correlations(cells)), tuple(_notes(cells, tasks)))


def panels(study: Path, runs: Sequence[PlannedRun]) -> list[Panel]:
    """The outcome of a study by task, in the order of the plan; for several tasks also their average, as the last.

    Parameters
    ----------
    study : Path
    runs : sequence of PlannedRun
        At least one.

    Raises
    ------
    ValueError
        If a run's folder is damaged or contains another run.
    """
    by_task: dict[str, list[PlannedRun]] = {}
    for run in runs:
        by_task.setdefault(run.config.task, []).append(run)
    found = [evaluate(study, group) for group in by_task.values()]
    return found if len(found) == 1 else [*found, average(found)]


def average(of_tasks: Sequence[Panel]) -> Panel:
    """Accuracies averaged over tasks, as the paper's tables do, and their correlations with the graphs' scores.

    A seed counts where it has finished all tasks. A pattern that is not planned for every task, at the same number
    of depths, is left out. The scores and the depth are those of the task with the longest inputs, since the
    graphs of one name differ by length.

    Parameters
    ----------
    of_tasks : sequence of Panel
        At least two.
    """
    by_label: dict[str, list[list[Cell]]] = {}
    for panel in of_tasks:
        own: dict[str, list[Cell]] = {}
        for cell in sorted(panel.cells, key=lambda cell: (cell.layers, cell.depth)):
            own.setdefault(cell.label, []).append(cell)
        for label, there in own.items():
            by_label.setdefault(label, []).append(there)
    everywhere = {
        label: of
        for label, of in by_label.items()
        if len(of) == len(of_tasks) and len({len(there) for there in of}) == 1
    }
    complete = [group for of in everywhere.values() for group in zip(*of, strict=True)]
    cells = [_mean_of(group) for group in complete]
    cells.sort(key=lambda cell: (cell.depth, cell.layers, -cell.accuracy.mean if cell.accuracy else 1.0))
    notes = []
    if partial := sorted(set(by_label) - set(everywhere)):
        notes.append(f"Not planned for every task and depth, and left out of the average: {', '.join(partial)}.")
    if any(len({cell.depth for cell in group}) > 1 for group in complete):
        depths = ", ".join(f"{panel.task} {' or '.join(map(str, panel.depths()))}" for panel in of_tasks)
        notes.append(f"The tasks' recipes apply attention a different number of times: {depths}.")
    if cells:
        longest = max((cell.config for cell in cells), key=lambda config: config.seq_len)
        notes.append(
            "Scores and depth are those of the task with the longest inputs: "
            f"{longest.task}, {longest.seq_len:,} tokens."
        )
    if missing := sum(len(cell.missing) for cell in cells):
        notes.append(f"{missing} runs have no result yet; a seed counts where all its tasks have one.")
    title = f"the average of {', '.join(panel.task for panel in of_tasks)}"
    return Panel(title, tuple(cells), tuple(_correlations(cells)), tuple(notes))


def _mean_of(group: Sequence[Cell]) -> Cell:
    seeds = [seed for seed in group[0].accuracies if all(seed in cell.accuracies for cell in group)]
    accuracies = {seed: fmean(cell.accuracies[seed] for cell in group) for seed in seeds}
    bars = [cell.baseline for cell in group if cell.baseline is not None]
    longest = max(group, key=lambda cell: cell.config.seq_len)
    return replace(
        longest,
        accuracies=accuracies,
        missing=tuple(name for cell in group for name in cell.missing),
        accuracy=_accuracy(list(accuracies.values())) if accuracies else None,
        baseline=fmean(bars) if len(bars) == len(group) else None,
        runs=(),
    )


def to_dict(found: Sequence[Panel]) -> dict[str, Any]:
    """The outcome of `panels` as JSON values: the one task's, or those of ``tasks`` and their ``average``."""
    if len(found) == 1:
        return found[0].to_dict()
    *of_tasks, mean = found
    of_mean = {name: value for name, value in mean.to_dict().items() if name not in ("settings", "runs")}
    return {"tasks": {panel.task: panel.to_dict() for panel in of_tasks}, "average": of_mean}


def _cell_of(study: Path, label: str, group: Sequence[PlannedRun], scores: dict[tuple[str, int], Score]) -> Cell:
    config = group[0].config
    accuracies, missing, bars, runs = {}, [], [], []
    for run in group:
        there = read_record(study / run.name) if finished(study, run) else None
        result = None if there is None else there.result
        if there is None or result is None:
            missing.append(run.name)
            continue
        runs.append(there)
        accuracies[run.config.seed] = result.test_accuracy
        if result.bar:
            bars.append(result.bar[1])
    depth = config.layers * config.repeats
    return Cell(
        label,
        config.layers,
        depth,
        accuracies,
        tuple(missing),
        _accuracy(list(accuracies.values())) if accuracies else None,
        graph_facts(run_pattern(config, study / group[0].name), config.block_size, depth, scores),
        config,
        max(bars, default=None),
        tuple(runs),
    )


def _accuracy(values: Sequence[float]) -> Summary:
    found = summary(values)
    if found.interval is None:
        return found
    # Student's interval ignores that accuracies are between 0 and 1.
    return replace(found, interval=(max(found.interval[0], 0.0), min(found.interval[1], 1.0)))


def graph_facts(
    pattern: Pattern, block_size: int, depth: int, known: dict[tuple[str, int], Score] | None = None
) -> Graph:
    """The scores of a pattern and its reach.

    Parameters
    ----------
    pattern : Pattern
    block_size : int
    depth : int
        Steps of attention.
    known : dict, optional
        Scores by checksum and block size, which are reused; new ones are added.
    """
    known = {} if known is None else known
    for size in (1, block_size):
        if (pattern.checksum, size) not in known:
            known[pattern.checksum, size] = score(pattern, size)
    vertices, tokens = (known[pattern.checksum, size] for size in (1, block_size))
    return Graph(vertices, tokens, reach(pattern, depth, block_size), native_vertices(vertices))


def native_vertices(vertices: Score) -> int | None:
    """The family's own number of vertices: of the plane or quadrangle, for the hypercube a power of two; else None."""
    if vertices.pattern == "hypercube":
        n = vertices.n_vertices
        return n if n & (n - 1) == 0 else 1 << n.bit_length()
    return vertices.native_n_vertices


def _correlations(cells: Sequence[Cell]) -> list[Found]:
    found = []
    for depth in sorted({cell.depth for cell in cells}):
        there = [cell for cell in cells if cell.depth == depth and cell.accuracy]
        accuracy = [cell.accuracy.mean for cell in there if cell.accuracy]
        density = [cell.graph.tokens.density for cell in there]
        for predictor in PREDICTORS:
            values = [cell.graph.predictors()[predictor] for cell in there]
            if any(map(math.isnan, values)):
                continue  # graphs of a single token
            for kind in KINDS:
                found.append(Found(depth, predictor, correlation(values, accuracy, kind, given=density)))
    return found


def _notes(cells: Sequence[Cell], tasks: Sequence[str]) -> list[str]:
    notes = []
    if len(tasks) > 1:
        notes.append(f"The runs are of several tasks ({', '.join(tasks)}), whose accuracies are not comparable.")
    missing = sum(len(cell.missing) for cell in cells)
    if missing:
        notes.append(f"{missing} of {sum(len(c.missing) + len(c.accuracies) for c in cells)} runs have no result yet.")
    zero = sorted({cell.label for cell in cells if cell.graph.vertices.log10_nip_relative == -math.inf})
    if zero:
        notes.append(
            f"NIP 0, because not every vertex can reach every other: {', '.join(zero)}. Pearson's r leaves "
            f"{'it' if len(zero) == 1 else 'them'} out, Spearman's ranks {'it' if len(zero) == 1 else 'them'} last."
        )
    cut = {cell.label: cell.graph for cell in cells if cell.graph.cut}
    for label, graph in cut.items():
        notes.append(f"{label} is cut: it has {graph.vertices.n_vertices} vertices, its native size is {graph.native}.")
    there = [run for cell in cells for run in cell.runs]
    others = {name: values for name, values in differing(there).items() if name not in OWN} if there else {}
    if others:
        said = ["the data" if name == "data" else f"{name} ({' or '.join(values)})" for name, values in others.items()]
        notes.append(f"The runs differ in more than the pattern: {', '.join(said)}.")
    lengths = sorted({cell.config.seq_len for cell in cells})
    if len(lengths) > 1:
        notes.append(f"The inputs have {' or '.join(f'{length:,}' for length in lengths)} tokens.")
    return notes


def _cell(cell: Cell) -> dict[str, Any]:
    vertices, tokens = cell.graph.vertices, cell.graph.tokens
    values = {
        "pattern": cell.label,
        "layers": cell.layers,
        "depth": cell.depth,
        "accuracy": None if cell.accuracy is None else asdict(cell.accuracy),
        "seeds": {str(seed): accuracy for seed, accuracy in cell.accuracies.items()},
        "missing": list(cell.missing),
        "baseline": cell.baseline,
        "seq_len": cell.config.seq_len,
        "block_size": cell.config.block_size,
        "max_steps": cell.config.max_steps,
        "n_vertices": vertices.n_vertices,
        "native_n_vertices": cell.graph.native,
        "cut": cell.graph.cut,
        "degree": vertices.mean_degree,
        "diameter": vertices.diameter,
        "density": tokens.density,
        "nip_relative": vertices.nip_relative,
        **cell.graph.predictors(),
    }
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


PLACE = ("processor", "instructions", "device", "cores", "threads", "processes", "torch", "nip", "commit")
"""Entries of a run's environment.json that the outcome repeats."""


def _run(cell: Cell, run: RunRecord) -> dict[str, Any]:
    assert run.result is not None  # a cell's runs have finished
    return {
        "name": run.name,
        "pattern": cell.label,
        "depth": cell.depth,
        "seed": run.seed,
        "test_accuracy": run.result.test_accuracy,
        "steps": run.result.steps,
        "seconds": run.result.seconds,
        "tokens_per_second": run.result.tokens_per_second,
        **{key: run.environment.get(key) for key in PLACE},
    }


def _shared_settings(settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The settings in which all the finished runs agree."""
    first = settings[0] if settings else {}
    return {name: value for name, value in first.items() if all(each.get(name) == value for each in settings)}
