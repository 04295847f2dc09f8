"""What the extras of the package bring: `pip install 'nip[…]'`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Extra:
    """One of the package's extras.

    Parameters
    ----------
    purpose : str
        What one can do with it.
    packages : tuple of str
        What is imported from what it brings; the first shows whether it is there.
    """

    purpose: str
    packages: tuple[str, ...]


EXTRAS = {
    "attention": Extra("attend over patterns", ("torch",)),
    "fast": Extra("score with compiled loops, some ten times faster", ("numba", "galois")),
    "train": Extra("generate data, train, evaluate and report", ("accelerate", "filelock", "safetensors")),
    "data": Extra("read data sets in parquet files and from the Hub", ("datasets", "pyarrow")),
    "finetune": Extra(
        "finetune Hugging Face's models on graphs",
        ("optuna", "plotly", "rouge_score", "sklearn", "tensorboard", "torchmetrics", "transformers"),
    ),
    "pretrain": Extra("make corpora for pretraining", ("rensa", "mwparserfromhell", "tokenizers", "yaml")),
    "postgresql": Extra("keep searches in PostgreSQL", ("psycopg",)),
    "peers": Extra("measure Hugging Face's sparse attention beside ours", ("transformers",)),
    "cluster": Extra(
        "score many patterns at once, on one machine or many", ("dask", "distributed", "joblib", "submitit")
    ),
}


def bringing(package: str | None) -> str | None:
    """The extra that brings a package, by the name that is imported; None where none does.

    Examples
    --------
    >>> bringing("sklearn"), bringing("torch"), bringing("abacus")
    ('finetune', 'attention', None)
    """
    return next((name for name, extra in EXTRAS.items() if package in extra.packages), None)
