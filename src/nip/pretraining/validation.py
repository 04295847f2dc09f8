"""Evaluations on the held-out split: the same samples with the same masks every time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from nip.data.corpus import Corpus
from nip.pretraining.microbatches import Part, held_out_parts
from nip.pretraining.setup import Run, micro_batch
from nip.pretraining.step import compute
from nip.runs.accuracy import Answers
from nip.training.distributed import summed

SEED = 0  # of the held-out samples and their masks


@dataclass(frozen=True)
class Measured:
    """What an evaluation found.

    Parameters
    ----------
    loss : float
        Mean cross-entropy of the masked tokens; its exponential is the perplexity.
    answers : Answers
        Right and asked ones, of every sample.
    samples : int
    sentence_accuracy : float, optional
        Of next sentences, where they are asked.
    """

    loss: float
    answers: Answers
    samples: int
    sentence_accuracy: float | None = None


def evaluate(run: Run, limit: int) -> Measured:
    """Evaluate on at most `limit` held-out samples, without dropout."""
    settings, accelerator = run.settings, run.accelerator
    size = settings.eval_micro_batch or micro_batch(settings, run.length, accelerator.device, accelerator.num_processes)
    run.learner.model.eval()
    loss, sentences, samples, found = 0.0, 0.0, 0, Answers()
    with torch.no_grad():  # no inference mode: the next step may use weights that were gathered here
        for part in parts(run, size, limit):
            sums = compute(run, part)
            loss += sums.loss.item()
            sentences += sums.sentence_right.item()
            samples += part.samples
            asked = np.bincount(part.positions.numpy() // run.length, minlength=len(part.input_ids))
            found += Answers.counted(sums.right.cpu().numpy(), asked)
    loss, sentences, seen, *counts = summed(accelerator, loss, sentences, samples, *found.sums)
    everywhere = Answers(*(round(count) for count in counts))
    return Measured(
        loss / max(everywhere.asked, 1),
        everywhere,
        round(seen),
        sentences / max(seen, 1) if settings.next_sentence else None,
    )


def parts(run: Run, size: int, limit: int) -> Iterator[Part]:
    """This process's parts of an evaluation: whatever the run's seed, the same questions."""
    accelerator = run.accelerator
    return held_out_parts(
        run.held_out,
        size,
        run.masking,
        seed=SEED,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
        limit=limit,
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
