"""Running on a graph: block-sparse attention over a pattern."""
