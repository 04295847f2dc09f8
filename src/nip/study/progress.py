"""What the execution of a study says while it goes: a line for every run that has ended, with an estimate."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from nip.study.charts import percent_text
from nip.study.execute import Outcome
from nip.study.panel import PlannedRun
from nip.study.runs import read_run
from nip.study.sections import duration


class Progress:
    """Counts what has ended and guesses how long the rest takes.

    Parameters
    ----------
    study : Path
    waiting : sequence of PlannedRun
        What is executed now.
    total : int
        Runs of the plan, finished ones included.
    """

    def __init__(self, study: Path, waiting: Sequence[PlannedRun], total: int) -> None:
        self._study = study
        self._waiting = {run.name: run for run in waiting}
        self._total = total
        self._took: dict[tuple[str, int], list[float]] = {}
        self._began = time.monotonic()
        self._summed = 0.0

    def ended(self, outcome: Outcome) -> str:
        """One line about a run that has ended, and what is left."""
        run = self._waiting.pop(outcome.name)
        self._summed += outcome.seconds
        done = self._total - len(self._waiting)
        if outcome.error is None:
            self._took.setdefault((run.label, run.config.layers), []).append(outcome.seconds)
            result = read_run(self._study / run.name).result
            says = percent_text(result.test_accuracy) if result else "no result"
        else:
            says = f"failed: {outcome.error}"
        left = self.seconds_left()
        about = "" if left is None or not self._waiting else f"; about {duration(left)} to go"
        return f"{done} of {self._total}: {run.name} {says} ({duration(outcome.seconds)}){about}"

    def seconds_left(self) -> float | None:
        """Seconds that the rest takes if every run takes what its like took; None before the first has succeeded."""
        if not self._took:
            return None
        overall = fmean(fmean(took) for took in self._took.values())
        rest = 0.0
        for run in self._waiting.values():
            took = self._took.get((run.label, run.config.layers))
            rest += fmean(took) if took else overall
        elapsed = time.monotonic() - self._began
        at_a_time = max(1.0, self._summed / elapsed) if elapsed > 0 else 1.0
        return rest / at_a_time
