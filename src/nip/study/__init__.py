"""Panels of runs: their execution, the comparison of their results, and correlation with the graphs' scores."""

from __future__ import annotations

from nip.study.finding import Finding, find

__all__ = ["Finding", "find"]
