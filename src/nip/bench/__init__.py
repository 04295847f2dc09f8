"""Benchmarks of attention, scoring, training steps and corpus building."""

from nip.bench.attention import bench_attention
from nip.bench.machine import Machine, this_machine
from nip.bench.rows import Case, Row
from nip.bench.table import to_markdown, to_table

__all__ = ["Case", "Machine", "Row", "bench_attention", "this_machine", "to_markdown", "to_table"]
