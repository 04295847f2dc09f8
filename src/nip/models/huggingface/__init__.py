"""Hugging Face models with their self-attention replaced by attention over a pattern."""
