"""The optional dependencies of the package: `pip install 'nip[…]'`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Extra:
    """An extra of the package.

    Parameters
    ----------
    purpose : str
        What it is for.
    packages : tuple of str
        Import names of the packages it installs; the first one shows whether it is installed.
    """

    purpose: str
    packages: tuple[str, ...]


EXTRAS = {
    "attention": Extra("attend over patterns", ("torch",)),
    "fast": Extra("score with compiled loops, some ten times faster", ("numba", "galois")),
    "train": Extra("generate data, train, evaluate and report", ("accelerate", "filelock", "safetensors")),
    "data": Extra("read data sets from parquet files and the Hub", ("datasets", "pyarrow")),
    "finetune": Extra(
        "finetune Hugging Face models on graphs",
        ("optuna", "plotly", "rouge_score", "sklearn", "tensorboard", "torchmetrics", "transformers"),
    ),
    "pretrain": Extra("build corpora for pretraining", ("rensa", "mwparserfromhell", "tokenizers", "yaml")),
    "postgresql": Extra("keep searches in PostgreSQL", ("psycopg",)),
    "peers": Extra("benchmark Hugging Face's sparse attention against nip's", ("transformers",)),
    "cluster": Extra(
        "score many patterns at once, on one machine or many", ("dask", "distributed", "joblib", "submitit")
    ),
}


def extra_of(package: str | None) -> str | None:
    """The extra that installs a package, by its import name; None if none does.

    Examples
    --------
    >>> extra_of("sklearn"), extra_of("torch"), extra_of("abacus")
    ('finetune', 'attention', None)
    """
    return next((name for name, extra in EXTRAS.items() if package in extra.packages), None)
