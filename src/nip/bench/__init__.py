"""Measurements of attention and scoring against their peers."""

from nip.bench.attention import Case, Row, bench_attention, to_markdown, to_table
from nip.bench.machine import Machine, this_machine

__all__ = ["Case", "Machine", "Row", "bench_attention", "this_machine", "to_markdown", "to_table"]
