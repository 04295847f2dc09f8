"""Tasks and their data."""
