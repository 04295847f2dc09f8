"""What is done about losses that jump or are no numbers: such a step is skipped, and after several the run rolls back.

The samples of a skipped step are not seen again. Rolled back are weights and the optimizer's state, to what they were
at the last multiple of `rollback_every` steps; the count of steps, the schedule and the samples go on, so that what
made the loss jump lies behind. Everything that decides is in the checkpoint: a run that was stopped skips the same
steps.

References
----------
.. [1] A. Chowdhery et al., "PaLM", arXiv 2204.02311, section 5.1: rolled back, and the batches around a spike left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

KEPT = 0.98  # of the running averages, a step
SETTLED = 50  # steps before a jump can be told from the course of things
LEAST = 0.5  # nats above the average that are no jump in any case


@dataclass
class LossSpikeDetector:
    """The course of the loss so far, and what was done about it.

    Parameters
    ----------
    mean, variance : float
        Running averages over the steps that were taken; the variance is half of the squared difference of a step and
        the one before, which a falling loss does not widen.
    last : float
        The loss of the last one.
    seen : int
        Steps in the averages.
    bad : int
        Steps in a row that were skipped.
    skipped, rollbacks : int
        In the whole run.
    """

    mean: float = 0.0
    variance: float = 0.0
    last: float = 0.0
    seen: int = 0
    bad: int = 0
    skipped: int = 0
    rollbacks: int = 0

    def objection(self, loss: float, norm: float, spike: float) -> str | None:
        """Why a step with this loss and this norm of its gradient should be skipped; None where it is fine.

        Examples
        --------
        >>> LossSpikeDetector().objection(math.nan, 1.0, 10.0)
        'its loss is nan'
        >>> guard = LossSpikeDetector(mean=3.0, variance=0.01, seen=100)
        >>> guard.objection(3.6, 1.0, 10.0), guard.objection(4.5, 1.0, 10.0), guard.objection(4.5, 1.0, 0.0)
        (None, 'its loss is 4.5000 where 3.0000 was usual', None)
        """
        if not math.isfinite(loss):
            return f"its loss is {loss}"
        if not math.isfinite(norm):
            return f"the norm of its gradient is {norm}"
        jump = max(LEAST, spike * math.sqrt(self.variance))
        if spike and self.seen >= SETTLED and loss > self.mean + jump:
            return f"its loss is {loss:.4f} where {self.mean:.4f} was usual"
        return None

    def accept(self, loss: float) -> None:
        """Take note of a step that was taken."""
        self.bad = 0
        self.seen += 1
        self.mean += max(1 - KEPT, 1 / self.seen) * (loss - self.mean)  # plain averages at first
        if self.seen > 1:
            share = max(1 - KEPT, 1 / (self.seen - 1))
            self.variance += share * ((loss - self.last) ** 2 / 2 - self.variance)
        self.last = loss

    def skip(self) -> None:
        """Take note of a step that was skipped."""
        self.bad += 1
        self.skipped += 1

    def forget(self) -> None:
        """Begin to watch anew: what comes now is not to be held against what was."""
        self.mean = self.variance = self.last = 0.0
        self.seen = self.bad = 0
