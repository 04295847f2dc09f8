"""What a run would need, told before it begins: memory, work, and time on this machine and on others."""

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
from nip.pretraining.checks import SHARDED, graph_of, refuse_impossible, settled, slow_precision
from nip.pretraining.cost import Memory, memory_of, work_of
from nip.pretraining.microbatches import training_micro_batches
from nip.pretraining.model import MaskedObjective, total_loss
from nip.pretraining.settings import Settings
from nip.pretraining.setup import masking_of, micro_batch_size, new_model, positions_in
from nip.pretraining.throughput import DTYPES, Forecast, forecast_run, masked_in, peak_of, time_step
from nip.training.distributed import new_accelerator

DEVICES = {"A100": 312e12, "H100": 989e12}
"""FLOPs a second in bf16, as their maker states them."""
REACHED = 0.4  # of it, as well-made runs do
_SECONDS = 1.0  # that a measured part may take, about


@dataclass(frozen=True)
class StagePlan:
    """A stage of a run.

    Parameters
    ----------
    length : int
        Tokens of a sample.
    micro_batch : int
        Samples that a process computes at once.
    density : float
        Of the graph.
    flops : float
        Of a token.
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
    """What a run would need.

    Parameters
    ----------
    weights : int
    stages : tuple of StagePlan
    here : Forecast
        On this machine, as measured.
    peak : float
        FLOPs a second of this machine's processes together, measured.
    reached : float
        Share of it that training reaches.
    elsewhere : dict
        Forecasts by the device's name, of one device each.
    slow : str or None
        A sentence where the precision is a slow one on this machine.
    """

    weights: int
    stages: tuple[StagePlan, ...]
    here: Forecast
    peak: float
    reached: float
    elsewhere: dict[str, Forecast]
    slow: str | None = None

    @property
    def warnings(self) -> list[str]:
        """Sentences on what speaks against the run."""
        return [sentence for sentence in (self.slow, self.here.warning) if sentence]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "weights": self.weights,
            "stages": [{**dataclasses.asdict(each), "memory_bytes": each.memory.total} for each in self.stages],
            "peak_flops": self.peak,
            "flops_utilisation": self.reached,
            "here": _figures(self.here),
            "elsewhere": {name: _figures(each) for name, each in self.elsewhere.items()},
            "warnings": self.warnings,
        }

    def in_words(self) -> str:
        """For a reader."""
        lines = [f"{format_count(self.weights)} weights."]
        for each in self.stages:
            lines.append(
                f"{each.length} tokens: attention over {format_percent(each.density)} of the pairs, "
                f"{each.flops / 1e9:.3g} GFLOP a token; a process that computes {each.micro_batch} samples at once "
                f"takes about {each.memory}."
            )
        lines.append(
            f"Products of matrices run at {self.peak / 1e9:,.0f} GFLOP/s here, training at "
            f"{format_percent(self.reached, 0)} of that."
        )
        lines += self.here.sentences
        for name, there in self.elsewhere.items():
            lines.append(
                f"One {name} at {format_percent(REACHED, 0)} of its {DEVICES[name] / 1e12:.0f} TFLOP/s: "
                f"{format_count(there.tokens)} tokens in {there.seconds / 3600:,.3g} h."
            )
        return "\n".join([*lines, *(f"Warning: {sentence}" for sentence in self.warnings)])


def plan(settings: Settings, dataset: Path) -> Plan:
    """Estimate a run; nothing is written.

    Parameters
    ----------
    settings : Settings
    dataset : Path
        The corpus.

    Raises
    ------
    ValueError
        If the run is not possible; the same sentences as when it begins.
    """
    accelerator = new_accelerator()
    device, processes = accelerator.device, accelerator.num_processes
    refuse_impossible(settings, dataset, accelerator)
    settings = settled(settings, None, device)
    stages, weights = [], 0
    for number, (length, _) in enumerate(settings.lengths):
        corpus = open_corpus(dataset, "train", max_seq_length=length)
        with torch.device("meta"):
            model = new_model(settings, corpus.vocabulary, positions_in(settings, number))
        weights = sum(weight.numel() for weight in model.parameters())
        size = micro_batch_size(settings, length, device, processes)
        masked = masked_in(settings, length, corpus.manifest["settings"])
        memory = memory_of(
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
        graph = graph_of(settings, length)
        work = work_of(model, length, masked)
        stages.append(StagePlan(length, size, graph.density, work.total, memory))
    corpus = open_corpus(dataset, "train", max_seq_length=stages[0].length)
    peak = peak_of(device, settings.precision)
    speed = measured(settings, corpus, stages[0], peak, device) * processes
    flops = [stage.flops for stage in stages]
    first = corpus.samples(np.arange(min(64, len(corpus))))
    fill = float((first.segment_ids > 0).mean())
    seen = corpus.tokens
    here = forecast_run(settings, flops, speed * fill, 0, fill=fill, weights=weights, corpus=seen)
    elsewhere = {
        name: forecast_run(
            settings, flops, REACHED * each / flops[0] * fill, 0, fill=fill, weights=weights, corpus=seen
        )
        for name, each in DEVICES.items()
    }
    together = peak * processes
    reached = speed * flops[0] / together
    return Plan(weights, tuple(stages), here, together, reached, elsewhere, slow_precision(settings, device))


def measured(settings: Settings, corpus: Corpus, stage: StagePlan, peak: float, device: torch.device) -> float:
    """Tokens a second of one process, padding counted: forward and backward over as many samples as take a second."""
    about = int(_SECONDS * REACHED * peak / (stage.flops * stage.length))
    count = max(1, min(stage.micro_batch, about))
    (micro_batch,) = training_micro_batches(
        corpus, 0, count, count, masking_of(settings, stage.length), seed=settings.seed
    )
    objective = MaskedObjective(
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


def _figures(forecast: Forecast) -> dict[str, float]:
    return {"tokens": forecast.tokens, "steps": forecast.steps, "seconds": forecast.seconds}
