"""Hugging Face models whose self-attention runs over a pattern."""
