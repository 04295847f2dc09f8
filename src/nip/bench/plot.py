"""Log-log plot of measured times against tokens: the slope of a line is the exponent of growth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from nip.atomic import replacing
from nip.bench.rows import DENSE, Row
from nip.bench.table import caption, growths, line_names

ENDINGS = (".svg", ".png")


def save_plot(rows: Sequence[Row], path: Path) -> None:
    """Write a plot with a panel for each pass and a line for each backend, with its fitted exponent.

    Raises
    ------
    ValueError
        If the file name does not end in .svg or .png.
    """
    check_ending(path)
    import matplotlib
    from matplotlib.figure import Figure

    exponents = {growth.name: growth.exponent for growth in growths(rows)}
    panels: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for name, row in zip(line_names(rows), rows, strict=True):
        panels[row.direction][name].append(row)
    figure = Figure(figsize=(5.2 * len(panels), 4.6), layout="constrained")
    figure.suptitle(caption(rows), fontsize=7)
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (direction, lines) in zip(all_axes, panels.items(), strict=True):
        for name, line in lines.items():
            best = {n: min(row.ms for row in line if row.case.n_tokens == n) for n in {r.case.n_tokens for r in line}}
            label = name.removesuffix(f", {direction}")
            if name in exponents:
                label += f" ({exponents[name]:.2f})"
            dense = line[0].backend == DENSE
            lengths = sorted(best)
            axes.plot(
                lengths, [best[n] for n in lengths], marker="o", ms=3.5, ls="--" if dense else "-", lw=1.4, label=label
            )
        ticks = sorted({row.case.n_tokens for line in lines.values() for row in line})
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(ticks, [f"{n:,}" for n in ticks], fontsize=7)
        axes.set_xlabel("tokens")
        axes.set_title(direction, fontsize=9)
        axes.grid(True, which="major", lw=0.4, alpha=0.5)
        axes.legend(fontsize=7, title="growth from 2,048 tokens" if exponents else None, title_fontsize=7)
    all_axes[0].set_ylabel("ms")
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "nip"}), replacing(path) as file:
        figure.savefig(file, format=path.suffix[1:], dpi=150, metadata={"Date": None} if path.suffix == ".svg" else {})


def check_ending(path: Path) -> None:
    """Raise ValueError if the format of the plot is not supported, before anything is measured."""
    if path.suffix not in ENDINGS:
        raise ValueError(f"--plot writes {' or '.join(ENDINGS)}. Got {path.name} instead.")
