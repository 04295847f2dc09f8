"""A run's parts in one of its stages: corpus, model, optimizer, and where they stand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from nip.data.corpus import Corpus, Masking, Vocabulary, open_corpus
from nip.pretraining.checks import model_settings
from nip.pretraining.init_from import first_weights
from nip.pretraining.model import MaskedObjective, build_model
from nip.pretraining.settings import Settings
from nip.pretraining.state import Learner, Progress, load_state
from nip.runs.console import Console
from nip.runs.folder import RunFolder
from nip.training.distributed import bare, shared_out, summed, uses_deepspeed
from nip.training.optimizers import make_optimizer

PART_TOKENS = {True: 2**13, False: 2**15}  # that are computed at once, on a CPU and elsewhere


@dataclass
class Run:
    """All that a run works with, in one stage of lengths."""

    settings: Settings
    folder: RunFolder
    learner: Learner
    corpus: Corpus
    held_out: Corpus
    console: Console
    progress: Progress
    log: Callable[[dict[str, float], int], None]
    """Tells the trackers figures of a step."""
    flops: list[float] = field(default_factory=list)
    """Of training on a token, stage by stage."""
    peak: float = 1.0
    """FLOPs a second of all devices together, measured."""
    foreseen: bool = False
    """Whether it was told what the run will have seen."""
    looked: float = 0.0
    """When `tick` last looked at the clock."""

    def tick(self) -> float:
        """Count the seconds since the last look at the clock; all that were counted so far.

        To be called by all processes: the first one's clock is that of all, so that they decide alike.
        """
        now = perf_counter()
        (since,) = summed(self.accelerator, (now - self.looked) * self.main)
        self.looked = now
        self.progress.seconds += since
        return self.progress.seconds

    @property
    def accelerator(self) -> Accelerator:
        """Of what it runs on."""
        return self.learner.accelerator

    @property
    def main(self) -> bool:
        """Whether this process writes."""
        return bool(self.accelerator.is_main_process)

    @property
    def objective(self) -> MaskedObjective:
        """The model and its objective without what an engine wraps them in."""
        inner = bare(self.learner.model)
        assert isinstance(inner, MaskedObjective)
        return inner

    @property
    def length(self) -> int:
        """Tokens of a sample."""
        return self.corpus.max_seq_length

    @property
    def masking(self) -> Masking:
        """How tokens are chosen and replaced."""
        return masking_of(self.settings, self.length)


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


def micro_batch(settings: Settings, length: int, device: torch.device, processes: int) -> int:
    """Samples of that length that a process computes at once: as asked for, or as suits the device.

    What is asked for is meant for the first stage; longer samples are fewer, of as many tokens.
    """
    share = max(1, settings.batch_size // processes)
    if settings.micro_batch is not None:
        return max(1, settings.micro_batch * settings.lengths[0][0] // length)
    return max(1, min(share, PART_TOKENS[device.type == "cpu"] // length))


def set_up(
    settings: Settings,
    dataset: Path,
    folder: RunFolder,
    accelerator: Accelerator,
    console: Console,
    progress: Progress,
    log: Callable[[dict[str, float], int], None],
) -> Run:
    """The parts of the stage in which the run is, new or as its checkpoint has them."""
    length = settings.lengths[progress.stage][0]
    corpus = open_corpus(dataset, "train", max_seq_length=length)
    held_out = open_corpus(dataset, "test", max_seq_length=length)
    positions = positions_in(settings, progress.stage)
    model = new_model(settings, corpus.vocabulary, positions)
    if settings.init_from is not None and not folder.checkpoint.is_file():
        new = first_weights(model, settings.init_from, dataset, corpus.vocabulary, positions)
        if new:
            console.say(f"{settings.init_from} has no weights for next sentences: {', '.join(new)} begin anew.")
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    objective: Any = MaskedObjective(model, next_sentence=settings.next_sentence, seed=settings.seed)
    objective.to(accelerator.device)
    optimizer = make_optimizer(
        objective,
        settings.optimizer,
        learning_rate=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        bias_correction=settings.bias_correction,
        coefficients=(settings.min_coeff, settings.max_coeff),
    )
    if uses_deepspeed(accelerator):
        accelerator.state.deepspeed_plugin.deepspeed_config["gradient_clipping"] = settings.clip
    wrapped, optimizer = shared_out(accelerator, objective, optimizer, settings.precision)
    scaler = torch.amp.GradScaler(accelerator.device.type) if settings.precision == "fp16" else None
    learner = Learner(accelerator, wrapped, optimizer, scaler, positions)
    if folder.checkpoint.is_file():
        progress = load_state(folder.checkpoint, learner)
    return Run(settings, folder, learner, corpus, held_out, console, progress, log, looked=perf_counter())
