"""What a run leaves: its record, the models that are kept on the way, the last evaluation, and the model, last of all.

The model is written file by file under other names, its ``config.json`` last; an older one's goes before, so that no
folder holds the weights of one model and the configuration of another.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from nip.training.outcome import learnt
from nip.training.pretraining.budget import ended
from nip.training.pretraining.folder import KIND, planned, writing
from nip.training.pretraining.opening import graph_of
from nip.training.pretraining.run import Run, new_model
from nip.training.pretraining.saving import save_model
from nip.training.pretraining.settings import Settings
from nip.training.pretraining.validation import commonest_token, evaluate
from nip.training.process import peak_mib
from nip.training.runs import Metrics, write_json
from nip.training.sharding import whole
from nip.training.steps import TrainingDivergedError

TASK = "masked language model"
TEST = 4  # the last evaluation takes so many times the samples of the others


def run_facts(settings: Settings, data: str, command: Sequence[str]) -> dict[str, Any]:
    """What ``run.json`` holds: the command, what decides the run's numbers, and the graph of its longest samples."""
    graph = graph_of(settings, settings.tokens_at_most)
    return {
        "kind": KIND,
        "task": TASK,
        "command": list(command),
        "settings": settings.to_dict(),
        "pattern": settings.model,
        "parameters": dict(settings.parameters),
        "block_size": settings.block_size,
        "seq_len": settings.tokens_at_most,
        "checksum": graph.checksum,
        "data": {"train": data},
    }


def keep_model(run: Run, hours: float) -> None:
    """Keep the model as it is in a folder of its own, to finetune; to be called by all processes."""
    folder = run.folder.path / f"finetune-{hours:g}h"
    weights = _weights(run)
    if run.main:
        if not (folder / "config.json").is_file():  # else a restart comes by here again
            unfinished = folder.with_name(f".unfinished-{folder.name}")
            shutil.rmtree(unfinished, ignore_errors=True)
            write_model(run, unfinished, weights)
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
        run.console.say(f"The model after {hours:g} hours, step {run.progress.step:,}, is kept in {folder}.")
    run.accelerator.wait_for_everyone()


def write_model(run: Run, folder: Path, weights: dict[str, Any]) -> None:
    """Write weights as a Hugging Face checkpoint with the corpus's tokenizer."""
    model = new_model(run.settings, run.corpus.vocabulary, run.learner.positions)
    save_model(model, run.corpus.tokenizer, folder, max_tokens=run.learner.positions, weights=weights)


def _weights(run: Run) -> dict[str, Any]:
    """The model's weights, whole, under the names of its own ``state_dict``."""
    weights = whole(run.objective.model.state_dict(), kept=run.main)
    return {name: weight.detach().cpu() for name, weight in weights.items()}


def finish(run: Run) -> dict[str, Any]:
    """Evaluate once more, on more samples, write the result and the model; what ``result.json`` holds."""
    settings, progress, folder = run.settings, run.progress, run.folder
    run.tick()
    measured = evaluate(run, TEST * settings.eval_samples)
    answers = measured.answers
    if not math.isfinite(measured.loss):
        raise TrainingDivergedError(
            f"The held-out loss is {measured.loss} after step {progress.step:,}. The state is kept in "
            f"{folder.checkpoint}."
        )
    baselines = {"commonest_token": commonest_token(run.corpus, run.held_out)}
    run.tick()
    reason = progress.stopped or ended(settings, progress)
    result = {
        "task": TASK,
        "model": settings.model,
        "seed": settings.seed,
        "metric": "accuracy",
        "score": answers.accuracy,
        "test_accuracy": answers.accuracy,
        "interval": list(answers.interval),
        "test_loss": measured.loss,
        "perplexity": math.exp(min(measured.loss, 700.0)),
        "n_test": measured.samples,
        "n_answers": answers.asked,
        **({} if measured.sentence_accuracy is None else {"sentence_accuracy": measured.sentence_accuracy}),
        "dev_accuracy": progress.dev_accuracy,
        "dev_loss": progress.dev_loss,
        "baselines": baselines,
        "learnt": learnt(answers.interval, baselines),
        "steps": progress.step,
        "planned_steps": settings.max_steps or progress.step,
        "best_step": progress.step,
        "planned": planned(settings),
        "ended": reason,
        "samples": progress.samples,
        "tokens": progress.tokens,
        "skipped_steps": progress.guard.skipped,
        "rollbacks": progress.guard.rollbacks,
        "kept_hours": progress.kept,
        "tokens_per_second": round(progress.tokens / max(progress.step_seconds, 1e-9), 1),
        "samples_per_second": round(progress.samples / max(progress.step_seconds, 1e-9), 2),
        "flops": progress.flops,
        "flops_utilisation": round(progress.flops / max(progress.step_seconds, 1e-9) / run.peak, 4),
        "seconds": round(progress.seconds, 3),
        "training_seconds": round(progress.step_seconds, 3),
        "saving_seconds": round(progress.save_seconds, 3),
        "peak_mib": peak_mib(run.accelerator.device),
    }
    weights = _weights(run)
    if run.main:
        row = {"loss": measured.loss, "accuracy": answers.accuracy, "learning_rate": None}
        counts = {"tokens": progress.tokens, "seconds": round(progress.seconds, 3)}
        with writing(folder, "the run's end"):
            with closing(Metrics(folder.metrics, progress.metrics_bytes)) as metrics:
                metrics.write({"step": progress.step, "split": "test", **row, **counts})
                metrics.secure()
            folder.config.unlink(missing_ok=True)
            write_json(folder.result, result)
            write_model(run, folder.path, weights)
    run.accelerator.wait_for_everyone()
    run.console.note(in_words(result))
    return result


def in_words(result: dict[str, Any]) -> str:
    """The result in three sentences.

    Examples
    --------
    >>> print(in_words({"steps": 1000, "tokens": 4_000_000, "ended": "1,000 steps are done", "test_loss": 3.25,
    ...     "perplexity": 25.79, "test_accuracy": 0.412, "interval": [0.405, 0.419], "baselines":
    ...     {"commonest_token": 0.05}, "n_answers": 20_000, "saving_seconds": 1.0, "seconds": 400.0,
    ...     "tokens_per_second": 12_345.6, "flops_utilisation": 0.5}))
    The run has ended after 1,000 steps and 4,000,000 tokens: 1,000 steps are done.
    Held-out loss 3.2500, perplexity 25.79; 41.2 % of 20,000 masked tokens guessed (95 % interval 40.5–41.9 %; always \
the commonest token: 5.0 %).
    12,346 tokens a second, 50.0 % of what the device multiplies; checkpoints took 0.2 % of the time.
    """
    low, high = result["interval"]
    saving = result["saving_seconds"] / max(result["seconds"], 1e-9)
    common = 100 * result["baselines"]["commonest_token"]
    return (
        f"The run has ended after {result['steps']:,} steps and {result['tokens']:,} tokens: {result['ended']}.\n"
        f"Held-out loss {result['test_loss']:.4f}, perplexity {result['perplexity']:.2f}; "
        f"{100 * result['test_accuracy']:.1f} % of {result['n_answers']:,} masked tokens guessed (95 % interval "
        f"{100 * low:.1f}–{100 * high:.1f} %; always the commonest token: {common:.1f} %).\n"
        f"{result['tokens_per_second']:,.0f} tokens a second, {100 * result['flops_utilisation']:.1f} % of what the "
        f"device multiplies; checkpoints took {100 * saving:.1f} % of the time."
    )
