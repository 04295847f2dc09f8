"""Progress of a run on standard error, as a bar on a terminal and as lines elsewhere; everything in ``run.log``."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from nip.formatting import format_clock, format_percent

SECONDS_BETWEEN_LINES = 30.0


class Console:
    """Writes to standard error and to the log file; silent where `path` is None, in all processes but the first.

    Parameters
    ----------
    path : Path or None
        The log file, to which is appended.
    total : int or None
        Steps of the run, if they are known.
    """

    def __init__(self, path: Path | None, total: int | None) -> None:
        self._total = total
        self._log = path.open("a", encoding="utf-8") if path else None
        self._last_line = time.monotonic()
        self._bar: Progress | None = None
        if path and sys.stderr.isatty():
            self._bar = Progress(
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                console=RichConsole(stderr=True),
                transient=True,
            )

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()
        if self._log:
            self._log.close()

    def say(self, text: str) -> None:
        """Print a line, and write it to the log."""
        self.note(text)
        if self._bar:
            self._bar.console.print(text, highlight=False, markup=False)
        elif self._log:
            print(text, file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Write a line to the log only."""
        if self._log:
            self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
            self._log.flush()

    def step(self, step: int, loss: float, accuracy: float, rate: float, left: float, best: float | None) -> None:
        """Show the progress after a step; without a terminal a line every 30 seconds.

        Parameters
        ----------
        step : int
        loss, accuracy : float
            Of the step's batch.
        rate : float
            Tokens per second.
        left : float
            Estimated seconds until the end.
        best : float or None
            The best development accuracy so far.
        """
        developed = "" if best is None else f"  best dev {format_percent(best)}"
        text = (
            f"loss {loss:.4f}  accuracy {format_percent(accuracy)}{developed}  {rate:,.0f} tokens/s  "
            f"{format_clock(left)} left"
        )
        if self._bar:
            if not self._bar.tasks:
                self._bar.start()
                self._bar.add_task(text, total=self._total)
            self._bar.update(self._bar.tasks[0].id, completed=step, description=text)
        elif self._log and time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            of = "" if self._total is None else f" of {self._total:,}"
            print(f"step {step:,}{of}  {text}", file=sys.stderr, flush=True)
