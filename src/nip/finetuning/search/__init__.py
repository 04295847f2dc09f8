"""Hyper-parameter search over the finetuning commands."""
