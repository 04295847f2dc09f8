"""Comparing runs: reports people can look at."""
