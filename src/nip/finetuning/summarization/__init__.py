"""Summarization with encoder-decoder models."""
