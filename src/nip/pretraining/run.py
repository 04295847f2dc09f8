"""A pretraining run from its settings to its model.

What a run leaves: its record, the models that are kept on the way, the last evaluation, and the model, last of all.

The model is written file by file under other names, its ``config.json`` last; an older one's goes before, so that no
folder holds the weights of one model and the configuration of another.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch

from nip.data.corpus import verify
from nip.pretraining.budget import ended
from nip.pretraining.checks import (
    attention_choice,
    corpus_checksum,
    graph_of,
    refuse_impossible,
    reopened,
    settled,
    slow_precision,
)
from nip.pretraining.export import _weights, write_model
from nip.pretraining.loop import keep_good, secure, train_stage
from nip.pretraining.output_dir import (
    KIND,
    OWNED,
    check_same_settings,
    claimed_run,
    finished,
    planned,
    settings_of,
    writing,
)
from nip.pretraining.settings import Settings
from nip.pretraining.setup import Run, micro_batch, set_up
from nip.pretraining.state import Progress, progress_in
from nip.pretraining.throughput import peak_of, works
from nip.pretraining.trackers import tracked
from nip.pretraining.validation import commonest_token, evaluate
from nip.runs.accuracy import learnt
from nip.runs.console import Console
from nip.runs.environment import changes, environment
from nip.runs.folder import RUN_FILE, Metrics, RunFolder, read_run_file, write_json, write_manifest
from nip.runs.process import keep_freed_memory, peak_mib
from nip.runs.record import RunRecord, write_record
from nip.training.distributed import new_accelerator
from nip.training.train_step import TrainingDivergedError

TASK = "masked language model"
TEST = 4  # the last evaluation takes so many times the samples of the others


def record_of(settings: Settings, data: str, command: Sequence[str]) -> RunRecord:
    """The record of a run, with the graph of its longest samples.

    Parameters
    ----------
    settings : Settings
    data : str
        The checksum of the corpus.
    command : sequence of str
        What was typed.
    """
    return RunRecord(
        kind=KIND,
        task=TASK,
        pattern=settings.model,
        parameters=settings.parameters,
        block_size=settings.block_size,
        seq_len=settings.tokens_at_most,
        checksum=graph_of(settings, settings.tokens_at_most).checksum,
        data={"train": data},
        batch_size=settings.batch_size,
        seed=settings.seed,
        settings=settings.to_dict(),
        planned_steps=settings.max_steps,
        command=list(command),
    )


def finish(run: Run, record: RunRecord) -> dict[str, Any]:
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
            write_manifest(folder.path, record.command, OWNED, finished=True)
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


def pretrain(settings: Settings, dataset: Path, out: Path, *, command: Sequence[str] = ()) -> dict[str, Any]:
    """Pretrain as the settings say, and return what ``result.json`` holds.

    A run that was stopped, by whatever means, goes on where its last checkpoint is; with budgets of steps and tokens it
    ends with the bits it would have ended with. A finished one only has its result returned. A larger budget continues
    a run.

    Parameters
    ----------
    settings : Settings
    dataset : Path
        A corpus that ``nip data corpus`` made.
    out : Path
        The run's folder; made where it is missing.
    command : sequence of str
        What was typed, for the record.

    Raises
    ------
    TrainingDivergedError
        If the loss stays no number, or jumps again and again; the last good state stays.
    ValueError
        If the folder holds another run, or a setting is not possible.
    FileNotFoundError
        If there is no corpus.
    """
    accelerator = new_accelerator()
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    folder = RunFolder(out)
    data = corpus_checksum(dataset)
    refuse_impossible(settings, dataset, accelerator)
    with claimed_run(folder) if accelerator.is_main_process else nullcontext():
        accelerator.wait_for_everyone()
        facts = read_run_file(folder.path)
        there = settings_of(facts, folder.path) if facts is not None else None
        settings = settled(settings, there, accelerator.device)
        record = record_of(settings, data, command)
        if facts is not None:
            check_same_settings(folder, facts, record)
        elif accelerator.is_main_process:
            verify(dataset)  # every byte, once: hours follow
        result = finished(folder, settings)
        with Console(folder.log if accelerator.is_main_process else None, settings.max_steps) as console:
            if result is not None:
                console.say(f"{out} is finished: {result['ended']}.")
                return result
            progress = progress_in(folder.checkpoint) if folder.checkpoint.is_file() else Progress()
            accelerator.wait_for_everyone()  # all know where the run stands before the first writes
            # dropout is seeded step by step; the caller's generators come back as they were
            devices = [accelerator.device] if accelerator.device.type == "cuda" else []
            fork = torch.random.fork_rng(devices=devices)
            with fork, tracked(settings, accelerator, folder, progress.step) as log:
                begun = foreseen = False
                while True:
                    run = set_up(settings, dataset, folder, accelerator, console, progress, log)
                    if not begun:
                        begin(run, record, again=reopened(settings, there))
                        flops = works(settings, run)
                        peak = peak_of(accelerator.device, settings.precision) * accelerator.num_processes
                    begun = True
                    run.flops, run.peak, run.foreseen = flops, peak, foreseen
                    say_stage(run)
                    over = train_stage(run)
                    progress, foreseen = run.progress, run.foreseen
                    if over:
                        return finish(run, record)
                    del run
                    accelerator.free_memory()


def begin(run: Run, record: RunRecord, *, again: bool) -> None:
    """Secure the run as it is, so that what cannot be written is known before the first step, and say what is there.

    Parameters
    ----------
    record : RunRecord
    again : bool
        Whether the run goes on past what stopped it.
    """
    folder, console, accelerator = run.folder, run.console, run.accelerator
    if again:
        run.progress.stopped = None
    if run.main and not (folder.path / RUN_FILE).is_file():
        write_record(folder, record)  # first: what follows must not be there without an owner
        write_manifest(folder.path, record.command, OWNED, finished=False)
    if again or not folder.checkpoint.is_file():
        secure(run, None)
    else:
        keep_good(run)  # a kill may have come between the two
    if run.progress.step:
        console.say(f"Going on after step {run.progress.step:,}.")
    slow = slow_precision(run.settings, accelerator.device)
    if slow is not None:
        console.say(f"Warning: {slow}")
    here = environment(accelerator.device, accelerator.num_processes)
    here["distribution"] = accelerator.distributed_type.value.lower()
    if folder.environment.is_file():
        changed = changes(json.loads(folder.environment.read_text("utf-8")), here)
        if changed:
            console.say(f"Warning: {'; '.join(changed)}. The run goes on, but its last bits may come out otherwise.")
    accelerator.wait_for_everyone()
    if run.main:
        write_record(folder, record)  # new budgets, once the state has them
        write_manifest(folder.path, record.command, OWNED, finished=False)
        write_json(folder.environment, here)


def say_stage(run: Run) -> None:
    """Say what the samples of the stage are, and what computes their attention."""
    accelerator = run.accelerator
    size = micro_batch(run.settings, run.length, accelerator.device, accelerator.num_processes)
    choice = attention_choice(run.settings, run.length, size, accelerator.device)
    run.console.note(f"Attention over {run.length} tokens is computed by {choice}.")
    if run.progress.step and not run.progress.stage_samples:
        run.console.say(f"From step {run.progress.step:,} on samples have {run.length} tokens.")
