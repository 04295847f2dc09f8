"""Evaluations on the held-out split: the same samples with the same masks every time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from nip.data.corpus import Corpus
from nip.pretraining.microbatches import held_out_micro_batches
from nip.pretraining.model import masked_sums
from nip.pretraining.settings import Settings
from nip.pretraining.setup import masking_of, micro_batch_size
from nip.runs.accuracy import AccuracyCounts
from nip.training.distributed import all_reduce_sum
from nip.training.trainer import Run

SEED = 0  # of the held-out samples and their masks


@dataclass(frozen=True)
class Measured:
    """What an evaluation found.

    Parameters
    ----------
    loss : float
        Mean cross-entropy of the masked tokens; its exponential is the perplexity.
    counts : AccuracyCounts
        Of the masked tokens.
    samples : int
    sentence_accuracy : float, optional
        Of next sentences, where they are asked.
    """

    loss: float
    counts: AccuracyCounts
    samples: int
    sentence_accuracy: float | None = None


def evaluate(run: Run, settings: Settings, held_out: Corpus, limit: int) -> Measured:
    """Evaluate on held-out samples, without dropout; whatever the run's seed, on the same masked tokens.

    Parameters
    ----------
    run : Run
    settings : Settings
    held_out : Corpus
    limit : int
        Samples, at most.
    """
    accelerator, length = run.accelerator, held_out.max_seq_length
    processes = accelerator.num_processes
    size = settings.eval_micro_batch or micro_batch_size(settings, length, accelerator.device, processes)
    micro_batches = held_out_micro_batches(
        held_out,
        size,
        masking_of(settings, length),
        seed=SEED,
        process=accelerator.process_index,
        processes=processes,
        limit=limit,
    )
    run.state.model.eval()
    loss, sentences, samples, found = 0.0, 0.0, 0, AccuracyCounts()
    with torch.no_grad():  # no inference mode: the next step may use weights that were gathered here
        for micro_batch in micro_batches:
            sums = masked_sums(run.state.model, accelerator, micro_batch, settings.precision)
            loss += sums.loss.item()
            sentences += sums.sentence_right.item()
            samples += micro_batch.samples
            ids, positions = micro_batch.inputs["input_ids"], micro_batch.inputs["positions"]
            asked = np.bincount(positions.numpy() // length, minlength=len(ids))
            found += AccuracyCounts.counted(sums.right.cpu().numpy(), asked)
    loss, sentences, seen, *counts = all_reduce_sum(accelerator, loss, sentences, samples, *found.sums)
    everywhere = AccuracyCounts(*(round(count) for count in counts))
    return Measured(
        loss / max(everywhere.asked, 1),
        everywhere,
        round(seen),
        sentences / max(seen, 1) if settings.next_sentence else None,
    )


def commonest_token(corpus: Corpus, held_out: Corpus, samples: int = 256) -> float:
    """The share of held-out tokens that are the token commonest in the training split: what needs no learning.

    Both are counted in their first `samples` samples.
    """

    def counted(which: Corpus) -> Counter[int]:
        ids = which.samples(np.arange(min(samples, len(which)))).input_ids.ravel()
        kept = ids[~np.isin(ids, np.array(which.vocabulary.special))]
        return Counter(kept.tolist())

    ((token, _),) = counted(corpus).most_common(1)
    there = counted(held_out)
    return there[token] / max(there.total(), 1)
