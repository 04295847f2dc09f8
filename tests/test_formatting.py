"""Counts, sizes, durations and shares as text."""

import math

import pytest

from nip.formatting import format_bytes, format_clock, format_count, format_duration


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (999_999, "999,999"),
        (1e6, "1 million"),
        (999e6, "999 million"),
        (1e9, "1 billion"),
        (12_345e9, "12,345 billion"),
    ],
)
def test_counts_change_their_unit_at_a_million_and_a_billion(number, text):
    assert format_count(number) == text


def test_bytes_change_their_unit_at_a_gibibyte():
    assert [format_bytes(2**30 - 2**24), format_bytes(2**30)] == ["1.01e+03 MiB", "1 GiB"]


@pytest.mark.parametrize(
    ("seconds", "words", "clock"),
    [
        (0.4, "0 s", "0:00"),
        (59.6, "1 min 0 s", "1:00"),
        (3599.4, "59 min 59 s", "59:59"),
        (3600, "1 h 0 min", "1:00:00"),
    ],
)
def test_durations_are_rounded_to_seconds_before_they_are_split(seconds, words, clock):
    assert (format_duration(seconds), format_clock(seconds)) == (words, clock)


def test_an_infinite_duration_is_a_dash():
    assert {format_duration(math.inf), format_duration(math.nan), format_duration(None)} == {"–"}
