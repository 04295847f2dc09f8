"""What follows from the settings for a stage of a run: masking, positions, the model, the size of a micro-batch."""

from __future__ import annotations

import math

import torch
from transformers import PreTrainedModel

from nip.data.corpus import Masking, Vocabulary
from nip.pretraining.checks import model_settings
from nip.pretraining.model import build_model
from nip.pretraining.settings import Settings

MICRO_BATCH_TOKENS = {True: 2**13, False: 2**15}  # on a CPU and elsewhere


def masking_of(settings: Settings, length: int) -> Masking:
    """How tokens of samples of that length are chosen and replaced.

    Examples
    --------
    >>> masking_of(Settings(max_steps=1), 128).max_predictions
    20
    """
    most = settings.max_predictions or math.ceil(length * settings.mask_probability)
    return Masking(settings.mask_probability, most, settings.mask_share, settings.random_share)


def positions_in(settings: Settings, stage: int) -> int:
    """Positions of the model in a stage: as many as its samples have tokens, or as many as were asked for."""
    return settings.positions or settings.lengths[stage][0]


def new_model(settings: Settings, vocabulary: Vocabulary, positions: int) -> PreTrainedModel:
    """The model with its first weights."""
    return build_model(
        model_settings(settings, positions),
        vocabulary,
        settings.model,
        block_size=settings.block_size,
        backend=settings.backend,
        seed=settings.seed,
        **settings.parameters,
    )


def micro_batch_size(settings: Settings, length: int, device: torch.device, processes: int) -> int:
    """Samples of that length that a process computes at once: as asked for, or as suits the device.

    What is asked for is meant for the first stage; longer samples are fewer, of as many tokens.
    """
    share = max(1, settings.batch_size // processes)
    if settings.micro_batch is not None:
        return max(1, settings.micro_batch * settings.lengths[0][0] // length)
    return max(1, min(share, MICRO_BATCH_TOKENS[device.type == "cpu"] // length))
