"""An exponential moving average of the weights, which is steadier than they are and often better.

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


def update(average: Weights, weights: Weights, keep: float, step: int) -> None:
    """Move the average, in place, towards the weights after the finished step of that number, counted from 1.

    Of itself it keeps `keep`, in the first steps less, ``(1 + step) / (10 + step)``: so it forgets the first weights.
    """
    share = 1 - min(keep, (1 + step) / (10 + step))
    for name, mean in average.items():
        mean.lerp_(weights[name], share)


@contextmanager
def swapped_in(model: torch.nn.Module, average: Weights) -> Iterator[None]:
    """Let the average take the place of the model's weights for a while; an empty one changes nothing."""
    own = {name: weight.clone() for name, weight in model.state_dict().items()} if average else {}
    if average:
        model.load_state_dict(average)
    try:
        yield
    finally:
        if average:
            model.load_state_dict(own)
