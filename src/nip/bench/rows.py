"""What is measured and what came out: a case of attention, and one backend's row on it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nip import graphs
from nip.bench.machine import Machine
from nip.graphs import Pattern
from nip.graphs.pattern import check_int

DENSE = "torch-sdpa"
"""What every backend is compared with: `torch.nn.functional.scaled_dot_product_attention` without a mask."""

FORWARD_PASSES = {"forward": 1.0, "backward": 2.5, "forward+backward": 3.5}
"""The passes, and how many forward passes' arithmetic each is worth: two matrix products forward, five backward."""

DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Case:
    """One problem: self-attention of `batch` sequences over a pattern."""

    pattern: str
    n_tokens: int
    block_size: int = 16
    batch: int = 4
    heads: int = 4
    head_dim: int = 32
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("n_tokens", "block_size", "batch", "heads", "head_dim"):
            check_int(name, getattr(self, name), "bench attention", minimum=1)
        if self.dtype not in DTYPES:
            raise ValueError(
                f"The 'dtype' parameter of bench attention must be float16, bfloat16, float32 or float64. "
                f"Got {self.dtype!r} instead."
            )

    def graph(self) -> Pattern:
        """The pattern on the case's blocks."""
        return graphs.pattern(self.pattern, -(-self.n_tokens // self.block_size))

    def pairs(self) -> int:
        """Pairs of a query and a key that it attends to, in one head of one sequence; a short last block counts so."""
        graph = self.graph()
        sizes = np.full(graph.n, self.block_size, dtype=np.int64)
        sizes[-1] = self.n_tokens - (graph.n - 1) * self.block_size
        return int((sizes**2).sum() + (sizes[graph.edge_rows] * sizes[graph.indices]).sum())

    @property
    def density(self) -> float:
        """Attended pairs over all pairs of tokens."""
        return self.pairs() / self.n_tokens**2

    def flop(self, direction: str, density: float) -> float:
        """Floating-point operations of a pass, those of attended pairs only.

        A pair costs 4 · head_dim in each head of a forward pass (a multiplication and an addition in each of two
        products), 2.5 times as many in a backward pass, which has five products, and 3.5 times in both. Softmax and
        whatever a backend computes beside the attended pairs count for nothing.
        """
        pairs = density * self.n_tokens**2 * self.batch * self.heads
        return 4 * self.head_dim * pairs * FORWARD_PASSES[direction]


@dataclass(frozen=True)
class Row:
    """One backend on one case."""

    backend: str
    case: Case
    direction: str
    """A pass through attention, among `FORWARD_PASSES`."""
    ms: float
    """Median time of a call."""
    ratio_to_dense: float | None
    """Time / time of torch's dense attention: below 1 is faster. None where that was not measured."""
    repeats: int
    peak_mib: float | None
    """Memory beside the inputs; None where it was not measured."""
    machine: Machine
    density: float | None = None
    """Attended pairs over all; None where more than attention was timed, so that its speed is not known."""
    sgemm_gflops: float | None = None
    """The best that this process was seen to reach: torch.mm of 1,024 × 1,024 float32 matrices."""
    mm_gflops: float | None = None
    """The same in the case's own dtype; None where it was not measured."""
    kept: int | None = None
    """Calls that were made while the machine was quiet; 0 if none was, and all calls count."""

    @property
    def gflops(self) -> float | None:
        """10⁹ floating-point operations a second, those of attended pairs only."""
        if self.density is None:
            return None
        return self.case.flop(self.direction, self.density) / self.ms / 1e6

    @property
    def fraction_of_sgemm(self) -> float | None:
        """`gflops` over what torch.mm reaches in float32."""
        return None if self.gflops is None or self.sgemm_gflops is None else self.gflops / self.sgemm_gflops

    @property
    def speedup_over_dense(self) -> float | None:
        """How many times as fast as torch's dense attention."""
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
