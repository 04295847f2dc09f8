"""What trained runs amount to: reading their folders, comparing them, and the report page."""

from __future__ import annotations

from nip.study.finding import Finding, find
from nip.study.runs import Curve, Result, Run, find_runs, read_run

__all__ = ["Curve", "Finding", "Result", "Run", "find", "find_runs", "read_run"]
