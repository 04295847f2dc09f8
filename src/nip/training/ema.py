"""An exponential moving average of the weights, which is less noisy than the weights and often generalizes better.

References
----------
.. [1] B. T. Polyak, A. B. Juditsky, "Acceleration of stochastic approximation by averaging", SIAM J. Control Optim. 30
   (1992), 838.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from nip.training.distributed import Weights


def update(average: Weights, weights: Weights, decay: float, step: int) -> None:
    """Update the average in place, after an optimizer step.

    The decay rate is ``min(decay, (1 + step) / (10 + step))``: smaller in the first steps, to forget the initial
    weights.

    Parameters
    ----------
    average, weights : dict of str to Tensor
    decay : float
        In [0, 1].
    step : int
        The number of the finished step, from 1.
    """
    share = 1 - min(decay, (1 + step) / (10 + step))
    for name, mean in average.items():
        mean.lerp_(weights[name], share)


@contextmanager
def swapped_in(model: torch.nn.Module, average: Weights) -> Iterator[None]:
    """Use the average as the model's weights inside the block; an empty average changes nothing."""
    own = {name: weight.clone() for name, weight in model.state_dict().items()} if average else {}
    if average:
        model.load_state_dict(average)
    try:
        yield
    finally:
        if average:
            model.load_state_dict(own)
