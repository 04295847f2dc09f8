"""Skip steps whose loss is NaN, infinite or a spike; the training loop rolls back after several in a row.

The samples of a skipped step are not used again. A rollback restores weights and optimizer state; the step count, the
schedule and the order of samples continue, so that the samples around the spike are left behind. The detector's state
is in the checkpoint: a resumed run skips the same steps.

References
----------
.. [1] A. Chowdhery et al., "PaLM", arXiv 2204.02311, section 5.1: roll back, and leave out the batches around a spike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

DECAY = 0.98  # of the running averages
MIN_STEPS = 50  # in the averages before a finite loss can be a spike
MIN_JUMP = 0.5  # nats above the running mean that are never a spike


@dataclass(frozen=True)
class SpikeRule:
    """When to skip a step, and when to roll back to an earlier checkpoint.

    Parameters
    ----------
    deviations : float
        Standard deviations above the running mean at which a loss is a spike; 0: only NaN and Inf are skipped.
    bad_steps : int
        Skipped steps in a row at which the run rolls back.
    rollback_every : int
        Steps between the checkpoints to roll back to.
    max_rollbacks : int
        Rollbacks after which the next one ends the run with an error.
    overflow_limit : int
        With fp16: number of steps with a loss scale of 1 or less at which the run stops.
    """

    deviations: float
    bad_steps: int
    rollback_every: int
    max_rollbacks: int
    overflow_limit: int


@dataclass
class LossSpikeDetector:
    """Running statistics of the loss, and counts of skipped steps and rollbacks.

    Parameters
    ----------
    mean, variance : float
        Running averages over the steps that were taken, in nats. The variance is that of half the squared difference of
        consecutive losses, which a falling loss does not increase.
    last : float
        The loss of the last step that was taken.
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

    def skip_reason(self, loss: float, grad_norm: float, deviations: float) -> str | None:
        """Why to skip a step; None if it is fine.

        Parameters
        ----------
        loss, grad_norm : float
            Mean loss of the batch in nats, and the norm of its gradient.
        deviations : float
            Standard deviations above the running mean at which a loss is a spike; 0: only NaN and Inf are skipped.

        Returns
        -------
        str or None
            None if the step is fine.

        Examples
        --------
        >>> LossSpikeDetector().skip_reason(math.nan, 1.0, 10.0)
        'its loss is nan'
        >>> detector = LossSpikeDetector(mean=3.0, variance=0.01, seen=100)
        >>> detector.skip_reason(4.5, 1.0, 10.0)
        'its loss is 4.5000, the running mean 3.0000'
        >>> detector.skip_reason(3.6, 1.0, 10.0) is detector.skip_reason(4.5, 1.0, 0.0) is None
        True
        """
        if not math.isfinite(loss):
            return f"its loss is {loss}"
        if not math.isfinite(grad_norm):
            return f"the norm of its gradient is {grad_norm}"
        jump = max(MIN_JUMP, deviations * math.sqrt(self.variance))
        if deviations and self.seen >= MIN_STEPS and loss > self.mean + jump:
            return f"its loss is {loss:.4f}, the running mean {self.mean:.4f}"
        return None

    def accept(self, loss: float) -> None:
        """Update the averages with the loss of a step that was taken."""
        self.bad = 0
        self.seen += 1
        self.mean += max(1 - DECAY, 1 / self.seen) * (loss - self.mean)  # a plain average at first
        if self.seen > 1:
            share = max(1 - DECAY, 1 / (self.seen - 1))
            self.variance += share * ((loss - self.last) ** 2 / 2 - self.variance)
        self.last = loss

    def skip(self) -> None:
        """Count a step that was skipped."""
        self.bad += 1
        self.skipped += 1

    def reset(self) -> None:
        """Start the averages anew, as after a rollback or with samples of another length."""
        self.mean = self.variance = self.last = 0.0
        self.seen = self.bad = 0
