"""How good a graph is, before training."""
