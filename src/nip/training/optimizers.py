"""Optimizers by name: torch's own, and LAMB. Biases and norms have no weight decay."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from nip.training import OPTIMIZERS


def make_optimizer(
    module: nn.Module,
    name: str,
    *,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-6,
    weight_decay: float = 0.01,
    bias_correction: bool = True,
    coefficients: tuple[float, float] = (0.01, 10.0),
) -> torch.optim.Optimizer:
    """An optimizer over a module's weights, in two groups: matrices, with weight decay, and biases and norms, without.

    Parameters
    ----------
    module : Module
    name : {"adam", "adamw", "lamb", "lamb-deepspeed", "adafactor", "adafactor-absolute"}
        ``adam`` adds the decay to the gradient, ``adamw`` decouples it. ``lamb-deepspeed`` also scales the updates of
        biases and norms. ``adafactor`` has no first moment and a factored second one; `betas`, `eps` and
        `bias_correction` do not apply to it. It is torch's, whose steps are relative to the size of a weight and at
        most 1/√t; those of ``adafactor-absolute``, transformers', are not.
    learning_rate : float
        Of the first step; set ``group["lr"]`` for later ones.
    betas : (float, float), default=(0.9, 0.98)
        Decay rates of the moment estimates.
    eps : float, default=1e-6
    weight_decay : float, default=0.01
    bias_correction : bool, default=True
        Correct the moments for their initial zeros.
    coefficients : (float, float), default=(0.01, 10.0)
        Of ``lamb``: bounds of its trust ratio, the norm of a matrix over that of its update.

    Returns
    -------
    Optimizer

    Raises
    ------
    ValueError
        If there is no optimizer of that name.

    Examples
    --------
    >>> optimizer = make_optimizer(nn.Linear(2, 3), "lamb", learning_rate=1e-3)
    >>> [(group["weight_decay"], len(group["params"])) for group in optimizer.param_groups]
    [(0.01, 1), (0.0, 1)]
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"There is no optimizer {name!r}. The optimizers are {', '.join(OPTIMIZERS)}.")
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": weight_decay},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if name == "adafactor":
        return torch.optim.Adafactor(groups, lr=learning_rate)
    if name == "adafactor-absolute":
        return _absolute_adafactor(groups, learning_rate)
    if name.startswith("lamb"):
        for group in groups:
            group["adapts"] = name == "lamb-deepspeed" or group["params"][0].ndim > 1
        return Lamb(
            groups,
            lr=learning_rate,
            betas=betas,
            eps=eps,
            bias_correction=bias_correction,
            coefficients=coefficients,
        )
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    optimizer = kind(groups, lr=learning_rate, betas=betas, eps=eps, fused=True)
    if not bias_correction:
        _disable_bias_correction(optimizer, decoupled=name == "adamw")
    return optimizer


def _absolute_adafactor(groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
    """transformers' Adafactor with absolute steps; its step count is kept as a tensor, which checkpoints store."""
    from transformers.optimization import Adafactor

    class AbsoluteAdafactor(Adafactor):  # type: ignore[misc]
        def step(self, closure: Callable[[], float] | None = None) -> Any:
            result = super().step(closure)
            for state in self.state.values():
                state["step"] = torch.as_tensor(state["step"], dtype=torch.float32, device="cpu")
            return result

    return AbsoluteAdafactor(groups, lr=learning_rate, relative_step=False, scale_parameter=False)


def _disable_bias_correction(optimizer: torch.optim.Optimizer, *, decoupled: bool) -> None:
    """Cancel torch's bias correction by changing rate, ε and decay during each step, so that its fused kernel is used.

    With c₁ = 1 − β₁ᵗ and c₂ = 1 − β₂ᵗ torch's step is lr/c₁ · m / (√v/√c₂ + ε). With lr · c₁/√c₂ in place of lr, and
    ε/√c₂ in place of ε, it is lr · m / (√v + ε).
    """
    own: list[tuple[float, float, float]] = []

    def before(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        own.clear()
        for group in optimizer.param_groups:
            own.append((group["lr"], group["eps"], group["weight_decay"]))
            state = next((optimizer.state[weight] for weight in group["params"] if optimizer.state[weight]), None)
            step = 1 if state is None else int(state["step"]) + 1
            first, second = (1 - beta**step for beta in group["betas"])
            factor = first / math.sqrt(second)
            group["lr"] *= factor
            group["eps"] /= math.sqrt(second)
            if decoupled:
                group["weight_decay"] /= factor

    def after(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        for group, (rate, eps, decay) in zip(optimizer.param_groups, own, strict=True):
            group.update(lr=rate, eps=eps, weight_decay=decay)

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)


class Lamb(torch.optim.Optimizer):
    """LAMB: Adam whose update of each matrix is scaled to the norm of the matrix, for large batches.

    Parameters
    ----------
    params : iterable
        Weights or groups. A group with ``adapts=False`` takes plain Adam steps: biases and norms do, as in the authors'
        code.
    lr : float
    betas : (float, float)
    eps : float
    weight_decay : float
    bias_correction : bool
    coefficients : (float, float)
        Bounds of the trust ratio, the norm of a matrix over that of its update; if either norm is 0, the ratio is 1.

    Notes
    -----
    At step t: m = β₁ m + (1 − β₁) g, v = β₂ v + (1 − β₂) g², r = m̂ / (√v̂ + ε) + λ w, w ← w − η · clamp(‖w‖ / ‖r‖) · r.

    References
    ----------
    .. [1] Y. You and others, *Large Batch Optimization for Deep Learning*, arXiv 1904.00962, algorithm 2.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        bias_correction: bool = True,
        coefficients: tuple[float, float] = (0.01, 10.0),
    ) -> None:
        low, high = coefficients
        if not 0 <= low <= high:
            raise ValueError(f"LAMB's smallest coefficient must be from 0 to the largest, {high}. Got {low} instead.")
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
            "coefficients": coefficients,
            "adapts": True,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update the weights by their gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._step(group, weights)
        return loss

    def _step(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        for weight in weights:
            if not self.state[weight]:
                self.state[weight] = {
                    "step": torch.zeros((), device="cpu"),
                    "exp_avg": torch.zeros_like(weight),
                    "exp_avg_sq": torch.zeros_like(weight),
                }
        states = [self.state[weight] for weight in weights]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        means, squares = ([state[key] for state in states] for key in ("exp_avg", "exp_avg_sq"))
        first, second = group["betas"]
        torch._foreach_add_([state["step"] for state in states], 1)
        torch._foreach_lerp_(means, gradients, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - second)
        step = int(states[0]["step"])
        corrections = (1 - first**step, 1 - second**step) if group["bias_correction"] else (1.0, 1.0)
        denominators = torch._foreach_sqrt(squares)
        torch._foreach_div_(denominators, math.sqrt(corrections[1]))
        torch._foreach_add_(denominators, group["eps"])
        updates = list(torch._foreach_div(means, denominators))
        torch._foreach_div_(updates, corrections[0])
        if group["weight_decay"]:
            torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
        if group["adapts"]:
            low, high = group["coefficients"]
            pairs = zip(torch._foreach_norm(weights), torch._foreach_norm(updates), strict=True)
            ratios = [
                torch.where((size > 0) & (change > 0), (size / change).clamp(low, high), 1.0) for size, change in pairs
            ]
            torch._foreach_mul_(updates, ratios)
        torch._foreach_add_(weights, updates, alpha=-group["lr"])
