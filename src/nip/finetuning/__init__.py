"""Finetuning Hugging Face models that attend over a pattern."""
