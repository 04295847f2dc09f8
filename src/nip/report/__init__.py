"""The HTML report of trained runs: a page with charts, tables and masks."""

from __future__ import annotations

from nip.report.page import write_report

__all__ = ["write_report"]
