"""Models that attend over a pattern."""
