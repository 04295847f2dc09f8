"""Tables of measurements for a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(caption: str, header: Sequence[str], rule: str, cells: Iterable[Sequence[str]]) -> str:
    """A caption and a Markdown table; `rule` is the line that says on which side columns stand."""
    lines = (header, *cells)
    first, *others = (f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([caption, "", first, rule, *others]) + "\n"
