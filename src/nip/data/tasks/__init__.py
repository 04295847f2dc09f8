"""Benchmark tasks: the registry, their storage, and one file for each source of examples."""
