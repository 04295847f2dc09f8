"""Checks of the settings against the corpus, the processes and the installation, before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType

from nip.data.corpus import open_corpus, read_manifest
from nip.pretraining.settings import Settings
from nip.pretraining.setup import graph_of, model_settings
from nip.pretraining.trackers import check_installed
from nip.processor import computes_bf16
from nip.runs.folder import file_sha256

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


def check_run(settings: Settings, dataset: Path, accelerator: Accelerator) -> None:
    """Check that a run is possible with its corpus, processes and installed packages.

    Parameters
    ----------
    settings : Settings
    dataset : Path
        The corpus.
    accelerator : Accelerator

    Raises
    ------
    ValueError
        If the run is not possible; the message says why.
    ImportError
        If an experiment tracker is not installed.
    """
    processes = accelerator.num_processes
    for samples in (settings.batch_size, settings.ramp_from):
        if samples is not None and samples % processes:
            raise ValueError(f"A batch of {samples} samples cannot be shared equally by {processes} processes.")
    if accelerator.distributed_type in SHARDED:
        if settings.optimizer not in ("adam", "adamw"):
            raise ValueError(f"With FSDP and DeepSpeed the optimizer must be adam or adamw, not {settings.optimizer}.")
        if settings.precision == "fp16":
            raise ValueError("With FSDP and DeepSpeed the precision must be fp32 or bf16, not fp16.")
    check_installed(settings)
    manifest = read_manifest(dataset)
    for length, _ in settings.lengths:
        for split in ("train", "test"):
            open_corpus(dataset, split, max_seq_length=length)
        graph_of(settings, length)
    if settings.next_sentence and not manifest["settings"]["next_sentence"]:
        raise ValueError(f"--next-sentence needs pairs of sentences; {dataset} was made without them.")
    folder = dataset.expanduser() / "tokenizer"
    for name, known in manifest["tokenizer"]["sha256"].items():
        if not (folder / name).is_file() or file_sha256(folder / name) != known:
            raise ValueError(f"{folder / name} is not the tokenizer that the shards of {dataset} were made with.")
    model_settings(settings, settings.max_length).rows(open_corpus(dataset).vocabulary)


def check_tokenizer(name: str, dataset: Path, *, option: str = "") -> None:
    """Check that a tokenizer is the corpus's.

    Parameters
    ----------
    name : str
        A folder, a ``vocab.txt``, or a name on the hub.
    dataset : Path
        The corpus.
    option : str, optional
        The command-line option that names the tokenizer, for the message.

    Raises
    ------
    ValueError
        If its vocabulary is different.
    """
    from nip.data.corpus.tokenizer import existing_tokenizer, load_tokenizer

    read_manifest(dataset)
    ours, _ = load_tokenizer(dataset.expanduser() / "tokenizer")
    lower_case = bool((json.loads(ours.to_str())["normalizer"] or {}).get("lowercase", True))
    named, _ = existing_tokenizer(name, lower_case=lower_case)
    if named.get_vocab(with_added_tokens=True) != ours.get_vocab(with_added_tokens=True):
        the = f"{option}: the" if option else "The"
        raise ValueError(f"{the} tokenizer {name} is not the one that the shards of {dataset} were made with.")


def slow_precision(settings: Settings, device: torch.device) -> str | None:
    """A warning if the processor emulates the precision in fp32, which is far slower; else None."""
    if device.type != "cpu" or settings.precision == "fp32" or (settings.precision == "bf16" and computes_bf16()):
        return None
    return f"This processor emulates {settings.precision} in fp32: --precision fp32 is many times faster here."
