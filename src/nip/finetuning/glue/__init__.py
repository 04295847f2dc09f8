"""Finetuning and evaluation on GLUE."""
