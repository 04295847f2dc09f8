"""A case of attention to be measured, and the measurement of a backend on it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nip import graphs
from nip.bench.machine import Machine
from nip.graphs import Pattern
from nip.graphs.pattern import check_int

DENSE = "torch-sdpa"
"""The baseline of every backend: `torch.nn.functional.scaled_dot_product_attention` without a mask."""

FORWARD_PASSES = {"forward": 1.0, "backward": 2.5, "forward+backward": 3.5}
"""The passes, and their FLOP relative to a forward pass: two matrix products forward, five backward."""

DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Case:
    """Self-attention of `batch` sequences over a pattern."""

    pattern: str
    n_tokens: int
    block_size: int = 16
    batch: int = 4
    heads: int = 4
    head_dim: int = 32
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("n_tokens", "block_size", "batch", "heads", "head_dim"):
            object.__setattr__(self, name, check_int(name, getattr(self, name), "bench attention", minimum=1))
        if self.dtype not in DTYPES:
            raise ValueError(
                f"The 'dtype' parameter of bench attention must be float16, bfloat16, float32 or float64. "
                f"Got {self.dtype!r} instead."
            )

    def graph(self) -> Pattern:
        """The pattern on the case's blocks."""
        return graphs.pattern(self.pattern, -(-self.n_tokens // self.block_size))

    def pairs(self) -> int:
        """Number of attended (query, key) pairs in one head of one sequence, with the actual size of the last block."""
        graph = self.graph()
        sizes = np.full(graph.n, self.block_size, dtype=np.int64)
        sizes[-1] = self.n_tokens - (graph.n - 1) * self.block_size
        return int((sizes**2).sum() + (sizes[graph.edge_rows] * sizes[graph.indices]).sum())

    @property
    def density(self) -> float:
        """Attended pairs over all pairs of tokens."""
        return self.pairs() / self.n_tokens**2

    def flop(self, direction: str, density: float) -> float:
        """Floating-point operations of a pass, on attended pairs only.

        A pair costs 4 · head_dim in each head of a forward pass (a multiplication and an addition in each of two
        products), 2.5 times that in a backward pass, which has five products, and 3.5 times that in both. Softmax and
        the pairs that a backend computes in addition to the attended ones are not counted.
        """
        pairs = density * self.n_tokens**2 * self.batch * self.heads
        return 4 * self.head_dim * pairs * FORWARD_PASSES[direction]


@dataclass(frozen=True)
class Row:
    """A measurement of a backend on a case."""

    backend: str
    case: Case
    direction: str
    """A pass through attention, from `FORWARD_PASSES`."""
    ms: float
    """Median time of a call."""
    ratio_to_dense: float | None
    """Time / time of torch's dense attention: below 1 is faster. None if that was not measured."""
    repeats: int
    peak_mib: float | None
    """Memory in addition to the inputs; None if it was not measured."""
    machine: Machine
    density: float | None = None
    """Attended pairs over all; None if more than attention was timed, so that its speed is unknown."""
    sgemm_gflops: float | None = None
    """The best speed in this process of torch.mm on 1,024 × 1,024 float32 matrices."""
    mm_gflops: float | None = None
    """The same in the case's dtype; None if it was not measured."""
    kept: int | None = None
    """Calls made while the machine was quiet; if 0, all calls are used."""

    @property
    def gflops(self) -> float | None:
        """Speed in GFLOP/s, on attended pairs only."""
        if self.density is None:
            return None
        return self.case.flop(self.direction, self.density) / self.ms / 1e6

    @property
    def fraction_of_sgemm(self) -> float | None:
        """`gflops` over the speed of torch.mm in float32."""
        return None if self.gflops is None or self.sgemm_gflops is None else self.gflops / self.sgemm_gflops

    @property
    def speedup_over_dense(self) -> float | None:
        """Speed relative to torch's dense attention: above 1 is faster."""
        return None if self.ratio_to_dense is None else 1 / self.ratio_to_dense

    def to_dict(self) -> dict[str, Any]:
        """JSON values, flat."""
        return {
            "backend": self.backend,
            **asdict(self.case),
            "pass": self.direction,
            "ms": self.ms,
            "ratio_to_dense": self.ratio_to_dense,
            "speedup_over_dense": self.speedup_over_dense,
            "density": self.density,
            "gflops": self.gflops,
            "sgemm_gflops": self.sgemm_gflops,
            "fraction_of_sgemm": self.fraction_of_sgemm,
            "mm_gflops": self.mm_gflops,
            "repeats": self.repeats,
            "kept": self.kept,
            "peak_mib": self.peak_mib,
            **asdict(self.machine),
        }
