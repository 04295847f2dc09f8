"""A small model and data for all tests of finetuning; nothing is downloaded."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetuning_files import write_model, write_mrpc, write_text


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a BERT and its tokenizer."""
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def mrpc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder above MRPC's."""
    folder = tmp_path_factory.mktemp("glue")
    write_mrpc(folder / "MRPC")
    return folder


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file."""
    return write_text(tmp_path_factory.mktemp("text") / "train.txt")


@pytest.fixture
def bars() -> re.Pattern[str]:
    """How a bar of progress looks; those of the libraries are on, as in a fresh process."""
    import datasets
    from transformers.utils import logging

    datasets.enable_progress_bars()
    logging.enable_progress_bar()
    return re.compile(r"\d(it|s| examples)/(s|it)\b")


@pytest.fixture(scope="session", autouse=True)
def frozen() -> Iterator[None]:
    """What has been imported is not looked through again: the Trainer collects garbage at every start."""
    import datasets  # noqa: F401
    import transformers.trainer  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No network, caches in a folder of the tests, and one thread: the machine is shared."""
    import datasets
    import huggingface_hub.constants as hub
    import torch

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
