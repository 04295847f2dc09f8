"""What is settled and refused before a run begins, and what it says first."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType

from nip.attention import Choice, explain
from nip.data.corpus import open_corpus, read_manifest
from nip.graphs import Pattern, pattern
from nip.pretraining.model import ModelSettings
from nip.pretraining.output_dir import STOPS
from nip.pretraining.settings import Settings, size_of
from nip.pretraining.trackers import check_installed
from nip.processor import computes_bf16
from nip.runs.folder import file_sha256

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


def model_settings(settings: Settings, positions: int) -> ModelSettings:
    """The model that is asked for."""
    size = size_of(settings.size)
    return ModelSettings(
        num_hidden_layers=settings.layers or size.num_hidden_layers,
        hidden_size=settings.width or size.hidden_size,
        num_attention_heads=settings.heads or size.num_attention_heads,
        intermediate_size=settings.inner_width or size.intermediate_size,
        family=settings.architecture,
        norm=settings.norm,
        hidden_act=settings.activation,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.attention_dropout,
        max_position_embeddings=positions,
        type_vocab_size=settings.token_types,
        initializer_range=settings.initializer_range,
        scaled_init=settings.scaled_init,
        layer_norm_eps=settings.norm_eps,
        tie_word_embeddings=settings.tied,
        vocab_size=settings.vocab_size,
        next_sentence=settings.next_sentence,
    )


def graph_of(settings: Settings, length: int) -> Pattern:
    """The graph that samples of that length attend over.

    Raises
    ------
    ValueError
        If there is no such pattern, or it has no such parameters.
    """
    return pattern(settings.model, -(-length // settings.block_size), **settings.parameters)


def settled(settings: Settings, there: Settings | None, device: torch.device) -> Settings:
    """The settings with what they leave to the machine decided: as the folder's run has it, else for the device."""
    if settings.precision is None:
        chosen = there.precision if there is not None else ("bf16" if device.type == "cuda" else "fp32")
        settings = replace(settings, precision=chosen)
    return settings


def slow_precision(settings: Settings, device: torch.device) -> str | None:
    """A sentence where this processor computes in that precision only by way of 32 bits, which takes far longer."""
    if device.type != "cpu" or settings.precision == "fp32" or (settings.precision == "bf16" and computes_bf16()):
        return None
    return f"This processor does not compute {settings.precision} itself: --precision fp32 is many times as fast here."


def reopened(settings: Settings, there: Settings | None) -> bool:
    """Whether what may have stopped a run is another than it was: then it is to go on."""
    return there is not None and any(getattr(settings, name) != getattr(there, name) for name in STOPS)


def refuse_impossible(settings: Settings, dataset: Path, accelerator: Accelerator) -> None:
    """Refuse what cannot work with this corpus, these processes or this installation, before anything is written.

    Raises
    ------
    ValueError
        The message says why.
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


def refuse_other_tokenizer(name: str, dataset: Path, *, of: str = "") -> None:
    """Refuse a tokenizer that is not the corpus's.

    Parameters
    ----------
    name : str
        A folder, a ``vocab.txt``, or a name on the hub.
    of : str, optional
        The option that it came by, for the message.

    Raises
    ------
    ValueError
        If it gives other tokens other numbers.
    """
    from nip.data.corpus.tokenizer import existing_tokenizer, load_tokenizer

    read_manifest(dataset)
    ours, _ = load_tokenizer(dataset.expanduser() / "tokenizer")
    lower_case = bool((json.loads(ours.to_str())["normalizer"] or {}).get("lowercase", True))
    named, _ = existing_tokenizer(name, lower_case=lower_case)
    if named.get_vocab(with_added_tokens=True) != ours.get_vocab(with_added_tokens=True):
        said = f"{of}: the" if of else "The"
        raise ValueError(f"{said} tokenizer {name} is not the one that the shards of {dataset} were made with.")


def corpus_checksum(dataset: Path) -> str:
    """One checksum of all shards and of the tokenizer, from the manifest."""
    manifest = read_manifest(dataset.expanduser())
    sums = [
        {entry["name"]: entry["files"] for entry in split["shards"]} for _, split in sorted(manifest["splits"].items())
    ]
    described = {"shards": sums, "tokenizer": manifest["tokenizer"]["sha256"]}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def attention_choice(settings: Settings, length: int, size: int, device: torch.device) -> Choice:
    """Which backend attends over a part of `size` samples; a ValueError where the one asked for cannot."""
    model = model_settings(settings, length)
    heads = model.num_attention_heads
    q = torch.empty(size, heads, length, model.hidden_size // heads, device=device)
    return explain(
        q,
        q,
        q,
        graph_of(settings, length),
        settings.block_size,
        dropout_p=settings.attention_dropout,
        backend=settings.backend,
    )
