"""Training and evaluation of masked language models."""
