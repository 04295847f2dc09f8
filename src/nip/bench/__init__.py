"""Measurements of attention and scoring against their peers."""
