"""`nip pretrain --dry-run`: estimated memory and FLOPs of a run, and its time on this machine and on others."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import DistributedType

from nip.data.corpus import Corpus, open_corpus
from nip.formatting import format_count, format_percent
from nip.pretraining.checks import SHARDED, check_run, slow_precision
from nip.pretraining.cost import Memory, training_flops, training_memory
from nip.pretraining.microbatches import training_micro_batches
from nip.pretraining.model import MaskedLMObjective, total_loss
from nip.pretraining.settings import Settings
from nip.pretraining.setup import graph_of, masking_of, micro_batch_size, new_model, positions_in, resolve
from nip.pretraining.throughput import Forecast, forecast_run, masked_per_sample, peak_flops, time_step
from nip.training.distributed import new_accelerator
from nip.training.train_step import DTYPES

DEVICES = {"A100": 312e12, "H100": 989e12}
"""Peak FLOP/s in bf16, from the data sheets."""
UTILIZATION = 0.4  # of the peak, assumed on those devices
_SECONDS = 1.0  # of a measured micro-batch, about


@dataclass(frozen=True)
class StagePlan:
    """Estimates for a stage of a run.

    Parameters
    ----------
    length : int
        Tokens of a sample.
    micro_batch : int
        Samples of a micro-batch.
    density : float
        Of the graph.
    flops : float
        Of training on one token.
    memory : Memory
        Of a process.
    """

    length: int
    micro_batch: int
    density: float
    flops: float
    memory: Memory


@dataclass(frozen=True)
class Plan:
    """Estimates for a run.

    Parameters
    ----------
    weights : int
        Of the model.
    stages : tuple of StagePlan
    here : Forecast
        On this machine, from a measured step.
    peak : float
        Peak FLOP/s of all processes on this machine, measured.
    utilization : float
        Share of the peak that training reaches.
    elsewhere : dict of str to Forecast
        On one device of that name.
    slow : str or None
        A warning if this machine emulates the precision.
    """

    weights: int
    stages: tuple[StagePlan, ...]
    here: Forecast
    peak: float
    utilization: float
    elsewhere: dict[str, Forecast]
    slow: str | None = None

    @property
    def warnings(self) -> list[str]:
        """Reasons not to start the run as it is."""
        return [sentence for sentence in (self.slow, self.here.warning) if sentence]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "weights": self.weights,
            "stages": [{**dataclasses.asdict(each), "memory_bytes": each.memory.total} for each in self.stages],
            "peak_flops": self.peak,
            "flops_utilisation": self.utilization,
            "here": _forecast_values(self.here),
            "elsewhere": {name: _forecast_values(each) for name, each in self.elsewhere.items()},
            "warnings": self.warnings,
        }

    def __str__(self) -> str:
        lines = [f"{format_count(self.weights)} weights."]
        for each in self.stages:
            lines.append(
                f"Samples of {each.length} tokens: attention over {format_percent(each.density)} of the pairs, "
                f"{each.flops / 1e9:.3g} GFLOP per token; with micro-batches of {each.micro_batch} samples a process "
                f"needs about {each.memory}."
            )
        lines.append(
            f"Matrix products run at {self.peak / 1e9:,.0f} GFLOP/s here, training at "
            f"{format_percent(self.utilization, 0)} of that."
        )
        lines += self.here.sentences
        for name, there in self.elsewhere.items():
            lines.append(
                f"One {name} at {format_percent(UTILIZATION, 0)} of its {DEVICES[name] / 1e12:.0f} TFLOP/s: "
                f"{format_count(there.tokens)} tokens in {there.seconds / 3600:,.3g} h."
            )
        return "\n".join([*lines, *(f"Warning: {sentence}" for sentence in self.warnings)])


def plan(settings: Settings, dataset: Path) -> Plan:
    """Estimate a run, without writing anything.

    Parameters
    ----------
    settings : Settings
    dataset : Path
        The corpus.

    Raises
    ------
    ValueError
        If the run is not possible, as `pretrain` raises it.
    """
    accelerator = new_accelerator()
    device, processes = accelerator.device, accelerator.num_processes
    check_run(settings, dataset, accelerator)
    settings = resolve(settings, None, device)
    stages, weights = [], 0
    for number, (length, _) in enumerate(settings.lengths):
        corpus = open_corpus(dataset, "train", max_seq_length=length)
        with torch.device("meta"):
            model = new_model(settings, corpus.vocabulary, positions_in(settings, number))
        weights = sum(weight.numel() for weight in model.parameters())
        size = micro_batch_size(settings, length, device, processes)
        masked = masked_per_sample(settings, length, corpus.manifest["settings"])
        memory = training_memory(
            model,
            length,
            size,
            masked,
            optimizer=settings.optimizer,
            half=settings.precision != "fp32",
            checkpointing=settings.gradient_checkpointing,
            weight_shards=processes if accelerator.distributed_type == DistributedType.FSDP else 1,
            state_shards=processes if accelerator.distributed_type in SHARDED else 1,
        )
        flops = training_flops(model, length, masked).total
        stages.append(StagePlan(length, size, graph_of(settings, length).density, flops, memory))
    corpus = open_corpus(dataset, "train", max_seq_length=stages[0].length)
    peak = peak_flops(device, settings.precision)
    speed = measured_speed(settings, corpus, stages[0], peak, device) * processes
    by_stage = [stage.flops for stage in stages]
    first = corpus.samples(np.arange(min(64, len(corpus))))
    fill = float((first.segment_ids > 0).mean())

    def forecast(speed: float) -> Forecast:
        return forecast_run(settings, by_stage, speed * fill, 0, fill=fill, weights=weights, corpus=corpus.tokens)

    return Plan(
        weights,
        tuple(stages),
        forecast(speed),
        peak * processes,
        speed * by_stage[0] / (peak * processes),
        {name: forecast(UTILIZATION * device_peak / by_stage[0]) for name, device_peak in DEVICES.items()},
        slow_precision(settings, device),
    )


def measured_speed(settings: Settings, corpus: Corpus, stage: StagePlan, peak: float, device: torch.device) -> float:
    """Tokens per second of one process, padding included, measured on a micro-batch that takes about a second.

    Parameters
    ----------
    settings : Settings
    corpus : Corpus
    stage : StagePlan
        The first one.
    peak : float
        FLOP/s of the device.
    device : torch.device

    Returns
    -------
    float
        In tokens per second.
    """
    about = int(_SECONDS * UTILIZATION * peak / (stage.flops * stage.length))
    count = max(1, min(stage.micro_batch, about))
    (micro_batch,) = training_micro_batches(
        corpus, 0, count, count, masking_of(settings, stage.length), seed=settings.seed
    )
    objective = MaskedLMObjective(
        new_model(settings, corpus.vocabulary, positions_in(settings, 0)), next_sentence=settings.next_sentence
    )
    objective.to(device).train()
    micro_batch = micro_batch.to(device)
    half = settings.precision != "fp32"

    def step() -> None:
        with torch.autocast(device.type, DTYPES[settings.precision or "fp32"], enabled=half):
            sums = objective(**micro_batch.inputs, labels=micro_batch.targets)
        torch.autograd.backward(total_loss(sums, micro_batch.n_targets, count))
        objective.zero_grad(set_to_none=True)

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        return count * stage.length / time_step(step, device)


def _forecast_values(forecast: Forecast) -> dict[str, float]:
    return {"tokens": forecast.tokens, "steps": forecast.steps, "seconds": forecast.seconds}
