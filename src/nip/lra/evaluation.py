"""Evaluation without dropout, and the test of the best weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator

from nip.data import Examples, baselines
from nip.lra.batches import IGNORED, Indices, indices_to_test, longest_first, own_share, token_parts
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
    """Mean loss and correct predictions on the examples `indices`, without dropout, in batches of similar length.

    Parameters
    ----------
    model : Module
    accelerator : Accelerator
    examples : Examples
    indices : ndarray of shape (n,), int64
    config : RunConfig
    objective : Objective, default=LABELS

    Raises
    ------
    ValueError
        If the examples, cut to the configuration's length, ask for nothing.
    """
    budget = EVALUATION_TOKENS[accelerator.device.type == "cpu"]
    together = token_parts(examples, longest_first(examples, indices), budget, config, accelerator.num_processes)
    own = [own_share(part, accelerator) for part in together]
    # Where the weights are sharded all must compute as often: a process with nothing to do repeats another's example.
    parts = [mine if len(mine) else part[:1] for mine, part in zip(own, together, strict=True)]
    model.eval()
    loss_sum, found = 0.0, AccuracyCounts()
    with torch.no_grad():  # no inference mode: the next step may use weights that were gathered here
        for mine, micro_batch in zip(own, objective.micro_batches(examples, parts, config), strict=True):
            loss, correct = forward(model, accelerator, micro_batch, config, objective)
            if len(mine):
                loss_sum += loss.item()
                found += AccuracyCounts.counted(
                    correct.cpu().numpy(), per_example(micro_batch.targets != IGNORED).numpy()
                )
    loss_sum, *counts = all_reduce_sum(accelerator, loss_sum, *found.sums)
    everywhere = AccuracyCounts(*(round(count) for count in counts))
    if everywhere.asked == 0:
        raise ValueError(f"The {examples.split} set asks for nothing: {config.seq_len} tokens are too few.")
    return loss_sum / everywhere.asked, everywhere


def final_test(run: Run, config: RunConfig, splits: Mapping[str, Examples], *, tested_only: bool) -> dict[str, Any]:
    """Test the best weights, report the result, and write it down unless nothing was trained.

    Parameters
    ----------
    run : Run
    config : RunConfig
    splits : mapping of str to Examples
    tested_only : bool
        Whether the weights come from an earlier run: the folder is left as it is.
    """
    folder, examples = run.folder, splits["test"]
    run.accelerator.wait_for_everyone()  # only the first process writes the best weights
    weights, header = read_tensors(folder.best)
    load_weights(run.accelerator, run.state.model, weights)
    indices = indices_to_test(len(examples), config.batch_size, config.seed, config.protocol)
    loss, counts = evaluate(run.state.model, run.accelerator, examples, indices, config)
    interval = counts.interval
    without_learning = baselines(splits["train"], examples)
    run.tick()
    progress = run.progress
    result = {
        "task": config.task,
        "model": config.model,
        "seed": config.seed,
        "protocol": config.protocol,
        "test_accuracy": counts.accuracy,
        "interval": list(interval),
        "test_loss": loss,
        "n_test": len(indices),
        **({"n_answers": counts.asked} if examples.task.targets else {}),
        "dev_accuracy": header["dev_accuracy"],
        "best_step": header["step"],
        "steps": progress.step,
        **({} if config.patience is None else {"planned_steps": config.max_steps}),
        "baselines": without_learning,
        "learnt": learned(interval, without_learning),
        "tokens": progress.tokens,
        "tokens_per_second": round(progress.tokens / max(progress.training_seconds, 1e-9), 1),
        "seconds": round(progress.seconds, 3),
        "training_seconds": round(progress.training_seconds, 3),
    }
    if run.main and not tested_only:
        run.metrics = Metrics(folder.metrics, progress.metrics_bytes)
        run.record("test", {"loss": loss, "accuracy": counts.accuracy, "learning_rate": None})
        run.metrics.secure()
        run.metrics.close()
        write_json(folder.result, result)
    run.console.note(format_result(result))
    return result
