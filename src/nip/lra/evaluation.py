"""Evaluation, and the test of the best weights."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from nip.data import Examples, baselines
from nip.data.masking import IGNORED
from nip.lra.batches import Indices, indices_to_test, longest_first, process_share, split_by_tokens
from nip.lra.config import RunConfig
from nip.lra.objective import LABELS, Objective, forward, per_example
from nip.runs.accuracy import AccuracyCounts, format_result, learned
from nip.runs.folder import Metrics, write_json
from nip.training.checkpoint import read_tensors
from nip.training.distributed import all_reduce_sum, load_weights
from nip.training.trainer import Run

EVALUATION_TOKENS = {True: 2**14, False: 2**17}  # in one micro-batch, on a CPU and elsewhere


def evaluate(
    model: torch.nn.Module,
    accelerator: Accelerator,
    examples: Examples,
    indices: Indices,
    config: RunConfig,
    objective: Objective = LABELS,
) -> tuple[float, AccuracyCounts]:
    """Mean loss and correct predictions on some examples, without dropout, in micro-batches of similar lengths.

    Parameters
    ----------
    model : Module
    accelerator : Accelerator
    examples : Examples
    indices : ndarray of shape (n,), int64
        Numbers of the examples.
    config : RunConfig
    objective : Objective, default=LABELS

    Returns
    -------
    loss : float
        Mean over the targets.
    counts : AccuracyCounts

    Raises
    ------
    ValueError
        If the examples, cut to the configuration's length, have no targets.
    """
    budget = EVALUATION_TOKENS[accelerator.device.type == "cpu"]
    groups = split_by_tokens(examples, longest_first(examples, indices), budget, config, accelerator.num_processes)
    own = [process_share(group, accelerator) for group in groups]
    # With sharded weights all processes must compute together: one without an example repeats another's.
    computed = [mine if len(mine) else group[:1] for mine, group in zip(own, groups, strict=True)]
    model.eval()
    loss_sum, found = 0.0, AccuracyCounts()
    with torch.no_grad():  # not inference mode: the next step may use weights that were gathered here
        for mine, micro_batch in zip(own, objective.micro_batches(examples, computed, config), strict=True):
            loss, correct = forward(model, accelerator, micro_batch, config, objective)
            if len(mine):
                loss_sum += loss.item()
                found += AccuracyCounts.counted(
                    correct.cpu().numpy(), per_example(micro_batch.targets != IGNORED).numpy()
                )
    loss_sum, *counts = all_reduce_sum(accelerator, loss_sum, *found.sums)
    total = AccuracyCounts(*(round(count) for count in counts))
    if total.asked == 0:
        raise ValueError(f"The {examples.split} set has no targets within {config.seq_len} tokens.")
    return loss_sum / total.asked, total


def final_test(
    run: Run,
    config: RunConfig,
    splits: Mapping[str, Examples],
    *,
    record: bool,
    original: tuple[Path, Mapping[str, Tensor]] | None = None,
) -> dict[str, Any]:
    """Test the best weights, or those of a file of the original.

    Parameters
    ----------
    run : Run
    config : RunConfig
    splits : mapping of str to Examples
    record : bool
        Whether to write the result into the run folder.
    original : (Path, mapping of str to Tensor), optional
        A ``.model`` file and its weights, to test in the place of the best ones.

    Returns
    -------
    dict
        The contents of ``result.json``.
    """
    folder, examples = run.folder, splits["test"]
    run.accelerator.wait_for_everyone()  # only the first process writes the best weights
    if original is None:
        weights, header = read_tensors(folder.best)
        origin = {"dev_accuracy": header["dev_accuracy"], "best_step": header["step"]}
    else:
        weights = dict(original[1])
        origin = {"dev_accuracy": None, "best_step": None, "weights": str(original[0])}
    load_weights(run.accelerator, run.state.model, weights)
    indices = indices_to_test(len(examples), config.batch_size, config.seed, config.protocol)
    loss, counts = evaluate(run.state.model, run.accelerator, examples, indices, config)
    trivial = baselines(splits["train"], examples)
    run.tick()
    progress = run.progress
    result = {
        "task": config.task,
        "model": config.model,
        "seed": config.seed,
        "protocol": config.protocol,
        "test_accuracy": counts.accuracy,
        "interval": list(counts.interval),
        "test_loss": loss,
        "n_test": len(indices),
        **({"n_answers": counts.asked} if examples.task.targets else {}),
        **origin,
        "steps": progress.step,
        **({} if config.patience is None else {"planned_steps": config.max_steps}),
        "baselines": trivial,
        "learnt": learned(counts.interval, trivial),
        "tokens": progress.tokens,
        "tokens_per_second": round(progress.tokens / max(progress.training_seconds, 1e-9), 1),
        "seconds": round(progress.seconds, 3),
        "training_seconds": round(progress.training_seconds, 3),
    }
    if run.main and record:
        with closing(Metrics(folder.metrics, progress.metrics_bytes)) as run.metrics_file:
            run.record("test", {"loss": loss, "accuracy": counts.accuracy, "learning_rate": None})
            run.metrics_file.secure()
        write_json(folder.result, result)
    run.console.note(format_result(result))
    return result
