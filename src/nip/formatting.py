"""Counts, sizes, durations and shares as text for a reader."""

from __future__ import annotations

import math

DASH = "–"  # what is not known


def format_count(number: float) -> str:
    """A count, rounded to three digits from a million on.

    Examples
    --------
    >>> format_count(12_100_000_000), format_count(335_174_458), format_count(5_000)
    ('12.1 billion', '335 million', '5,000')
    """
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:,.3g} {word}" if number < 1000 * size else f"{number / size:,.0f} {word}"
    return f"{number:,.0f}"


def format_bytes(size: float) -> str:
    """A number of bytes in MiB or GiB, rounded to three digits.

    Examples
    --------
    >>> format_bytes(3 * 2**29), format_bytes(2**20)
    ('1.5 GiB', '1 MiB')
    """
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"


def format_duration(seconds: float | None) -> str:
    """A duration in its two largest units; a dash if it is unknown or infinite.

    Examples
    --------
    >>> format_duration(42.4), format_duration(754), format_duration(3 * 3600 + 125), format_duration(None)
    ('42 s', '12 min 34 s', '3 h 2 min', '–')
    """
    if seconds is None or not math.isfinite(seconds):
        return DASH
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def format_clock(seconds: float) -> str:
    """A duration as a clock shows it.

    Examples
    --------
    >>> format_clock(754), format_clock(3 * 3600 + 125)
    ('12:34', '3:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_percent(share: float, decimals: int = 1) -> str:
    """A share of 1 in percent.

    Examples
    --------
    >>> format_percent(0.3634), format_percent(0.3634, 2)
    ('36.3 %', '36.34 %')
    """
    return f"{100 * share:.{decimals}f} %"
