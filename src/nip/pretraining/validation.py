"""Evaluation on the held-out split: the same samples with the same masks every time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from nip.data.corpus import Corpus
from nip.pretraining.microbatches import held_out_micro_batches
from nip.pretraining.model import masked_lm_sums
from nip.pretraining.settings import Settings
from nip.pretraining.setup import masking_of, micro_batch_size
from nip.runs.accuracy import AccuracyCounts
from nip.training.distributed import all_reduce_sum
from nip.training.trainer import Run

SEED = 0  # of the held-out samples and their masks


@dataclass(frozen=True)
class EvaluationResult:
    """The result of an evaluation.

    Parameters
    ----------
    loss : float
        Mean cross-entropy of the masked tokens; its exponential is the perplexity.
    counts : AccuracyCounts
        Of the masked tokens.
    samples : int
    sentence_accuracy : float, optional
        Of next-sentence prediction, if the model has it.
    """

    loss: float
    counts: AccuracyCounts
    samples: int
    sentence_accuracy: float | None = None


def evaluate(run: Run, settings: Settings, held_out: Corpus, limit: int) -> EvaluationResult:
    """Evaluate on held-out samples, without dropout; the masks do not depend on the run's seed.

    Parameters
    ----------
    run : Run
    settings : Settings
    held_out : Corpus
    limit : int
        Samples, at most.

    Returns
    -------
    EvaluationResult
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
    with torch.no_grad():  # not inference mode: the next step may use weights that were gathered here
        for micro_batch in micro_batches:
            sums = masked_lm_sums(run.state.model, accelerator, micro_batch, settings.precision)
            loss += sums.loss.item()
            sentences += sums.sentence_correct.item()
            samples += micro_batch.samples
            ids, positions = micro_batch.inputs["input_ids"], micro_batch.inputs["positions"]
            n_masked = np.bincount(positions.numpy() // length, minlength=len(ids))
            found += AccuracyCounts.counted(sums.correct.cpu().numpy(), n_masked)
    loss, sentences, seen, *counts = all_reduce_sum(accelerator, loss, sentences, samples, *found.sums)
    total = AccuracyCounts(*(round(count) for count in counts))
    return EvaluationResult(
        loss / max(total.asked, 1),
        total,
        round(seen),
        sentences / max(seen, 1) if settings.next_sentence else None,
    )


def commonest_token(corpus: Corpus, held_out: Corpus, samples: int = 256) -> float:
    """Accuracy of always predicting the most common token of the training split, on the held-out split.

    Parameters
    ----------
    corpus, held_out : Corpus
    samples : int, default=256
        Number of samples of each in which tokens are counted.

    Returns
    -------
    float
        In [0, 1].
    """

    def counts(split: Corpus) -> Counter[int]:
        ids = split.samples(np.arange(min(samples, len(split)))).input_ids.ravel()
        return Counter(ids[~np.isin(ids, np.array(split.vocabulary.special))].tolist())

    ((token, _),) = counts(corpus).most_common(1)
    found = counts(held_out)
    return found[token] / max(found.total(), 1)
