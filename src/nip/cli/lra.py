"""`nip lra`: train and test on a task of the Long Range Arena; `old_arguments` reads the original's command line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nip import graphs
from nip.cli.options import Json, Param, warnings_to_stderr
from nip.graphs.pattern import read_parameters

if TYPE_CHECKING:
    from nip.lra import RunConfig


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("lra")(lra_command)


def _option(says: str, *flags: str, default: str | None = None) -> Any:
    # no defaults of their own: what is given is told from what the recipe has
    return typer.Option(*flags, help=says, show_default=default or False)


def lra_command(
    attention: Annotated[
        str | None,
        _option(f"The pattern: {', '.join(graphs.PATTERNS)}.", "--attention", "--model", default="hypercube"),
    ] = None,
    task: Annotated[str | None, _option("The task.", default="listops")] = None,
    seed: Annotated[int | None, _option("Decides first weights, order of examples, dropout.", default="42")] = None,
    param: Param = None,
    graph: Annotated[Path | None, _option("A graph file in place of a named pattern.")] = None,
    recipe: Annotated[
        str | None, _option("original or modern: model and settings that are not given.", default="original")
    ] = None,
    max_steps: Annotated[int | None, _option("Steps; a larger number continues a run.")] = None,
    seq_len: Annotated[int | None, _option("Tokens of an input; what is longer is cut.")] = None,
    cut: Annotated[int | None, _option("Tokens kept of an input before it is padded to --seq-len.")] = None,
    positions: Annotated[int | None, _option("Rows of the position table, at least --seq-len.")] = None,
    block_size: Annotated[int | None, _option("Tokens a vertex of the graph stands for.")] = None,
    layers: Annotated[int | None, _option("Layers of the encoder.", default="2")] = None,
    repeats: Annotated[int | None, _option("How often the layers are applied, one after the other.")] = None,
    batch_size: Annotated[int | None, _option("Examples a step.")] = None,
    learning_rate: Annotated[float | None, _option("The schedule's peak.")] = None,
    warmup: Annotated[float | None, _option("Share of the steps in which the rate rises.")] = None,
    schedule: Annotated[
        str | None, _option("Course of the rate: original, modern or constant.", default="the recipe's")
    ] = None,
    weight_decay: Annotated[float | None, _option("Of AdamW.")] = None,
    dropout: Annotated[float | None, _option("Share of activations dropped.")] = None,
    attention_dropout: Annotated[float | None, _option("Share of attention's weights dropped.")] = None,
    eval_every: Annotated[int | None, _option("Steps between evaluations on the development set.")] = None,
    eval_steps: Annotated[int | None, _option("Batches of an evaluation; clean runs take all by default.")] = None,
    gradient_accumulation: Annotated[int | None, _option("Parts that a batch is computed in; same gradient.")] = None,
    pretrain_steps: Annotated[int | None, _option("Steps of denoising before, in the modern recipe; 0: none.")] = None,
    pretrain_learning_rate: Annotated[float | None, _option("The peak of their schedule.")] = None,
    mask_share: Annotated[float | None, _option("Share of the tokens that they mask.")] = None,
    ema: Annotated[float | None, _option("Evaluate a moving average of the weights: what it keeps a step.")] = None,
    patience: Annotated[int | None, _option("Stop after so many evaluations without a better one.")] = None,
    gradient_checkpointing: Annotated[
        bool, _option("Compute layers again for their gradients: less memory.", "--gradient-checkpointing")
    ] = False,
    precision: Annotated[str | None, _option("fp32 or bf16.", default="bf16 on a GPU, else fp32")] = None,
    backend: Annotated[str | None, _option("Backend of attention, as nip doctor lists them.", default="auto")] = None,
    protocol: Annotated[
        str | None, _option("clean: real tokens and whole sets; original: as the paper's code.", default="clean")
    ] = None,
    config: Annotated[Path | None, _option("Settings from a JSON file, such as a run's config.json.")] = None,
    data: Annotated[Path | None, _option("The data folder.", default="$NIP_DATA, or data/")] = None,
    output_dir: Annotated[
        Path | None, _option("The run folder.", "--output-dir", "--out", default="runs/TASK-PATTERN-seedSEED")
    ] = None,
    skip_train: Annotated[bool, _option("Only test the best weights there are.", "--skip-train")] = False,
    original_log: Annotated[
        bool, _option("Also write the original's log, TASK_MODEL_output.log, in the run folder.", "--original-log")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train on a task, then test the weights of the best evaluation. Stopped, the same command goes on.

    What is not given is as in the paper's runs: docs/training.md.

    Example: nip lra --attention hypercube --task listops --seed 42 --max-steps 200 --seq-len 512
    """
    given = {
        "model": attention,
        "task": task,
        "seed": seed,
        "parameters": read_parameters(param) if param else None,
        "graph": None if graph is None else str(graph),
        "recipe": recipe,
        "max_steps": max_steps,
        "seq_len": seq_len,
        "cut": cut,
        "positions": positions,
        "block_size": block_size,
        "layers": layers,
        "repeats": repeats,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "warmup": warmup,
        "schedule": schedule,
        "weight_decay": weight_decay,
        "dropout": dropout,
        "attention_dropout": attention_dropout,
        "eval_every": eval_every,
        "eval_steps": eval_steps,
        "gradient_accumulation": gradient_accumulation,
        "pretrain_steps": pretrain_steps,
        "pretrain_learning_rate": pretrain_learning_rate,
        "mask_share": mask_share,
        "ema": ema,
        "patience": patience,
        "gradient_checkpointing": gradient_checkpointing or None,
        "precision": precision,
        "backend": backend,
        "protocol": protocol,
    }
    chosen = resolve({name: value for name, value in given.items() if value is not None}, config)
    from nip.runs.process import spin_briefly

    spin_briefly()
    from nip.data import runs_folder
    from nip.lra import train
    from nip.runs.accuracy import format_result

    folder = output_dir if output_dir is not None else runs_folder() / chosen.name
    with warnings_to_stderr():
        result = train(chosen, folder, data=data, skip_train=skip_train, original_log=original_log)
    from accelerate import PartialState

    if PartialState().is_main_process:
        print(json.dumps(result, allow_nan=False, indent=2) if as_json else f"{format_result(result)}\n{folder}")


def resolve(given: dict[str, Any], file: Path | None = None) -> RunConfig:
    """The configuration that options and a file ask for: options come first, then the file, then the recipe.

    Raises
    ------
    ValueError
        If the task or pattern is unknown, a setting is impossible, or options contradict each other.
    """
    from nip.lra import recipe
    from nip.lra.config import FOUND, read_settings
    from nip.lra.graphs import PATTERN_FILE, graph_label

    stored: dict[str, Any] = {}
    if file is not None:
        stored = {name: value for name, value in read_settings(file).items() if value is not None}
        if stored.get("graph") is not None and not Path(stored["graph"]).is_file():
            beside = file.parent / PATTERN_FILE
            if beside.is_file():
                stored["graph"] = str(beside)
    if "graph" in given:
        if "model" in given:
            raise ValueError(f"Give --attention or --graph, not both. Got {given['model']!r} and {given['graph']}.")
        given = {**given, "model": graph_label(Path(given["graph"])), "parameters": given.get("parameters", {})}
    elif "model" in given:
        stored = {name: value for name, value in stored.items() if name not in ("graph", "parameters")}
    settings = {name: value for name, value in {**stored, **given}.items() if name not in FOUND}
    config = recipe(
        settings.get("task", "listops"), settings.get("protocol", "clean"), settings.get("recipe", "original")
    )
    if config.recipe == "modern" and "positions" not in given:  # it has no position table
        settings["positions"] = settings.get("seq_len", config.seq_len)
    config = dataclasses.replace(config, **settings)
    if config.graph is None:
        graphs.pattern(
            config.model, config.n_blocks, **config.parameters
        )  # says what is wrong with a name before data is opened
    return config


def old_arguments(arguments: Sequence[str]) -> list[str]:
    """The arguments of ``nip lra`` for those of the original's ``run_tasks.py``.

    Options may be written with underscores, ``--skip_train`` takes 0 or 1, the protocol is the original's unless one is
    named, and its log is written.

    Examples
    --------
    >>> old_arguments(["--model", "hypercube", "--task=listops", "--skip_train", "1"])
    ['--protocol', 'original', '--original-log', '--model', 'hypercube', '--task=listops', '--skip-train']
    """
    translated: list[str] = []
    words = list(arguments)
    while words:
        name, equals, value = words.pop(0).partition("=")
        if name.startswith("--"):
            name = name.replace("_", "-")
        if name == "--skip-train":
            if not equals and words and not words[0].startswith("-"):
                value = words.pop(0)
            if value not in ("", "0", "1"):
                raise ValueError(f"--skip_train takes 0 or 1. Got {value!r} instead.")
            translated += [name] if value != "0" else []
        else:
            translated.append(f"{name}{equals}{value}")
    defaults = [] if any(word.split("=")[0] == "--protocol" for word in translated) else ["--protocol", "original"]
    return [*defaults, "--original-log", *translated]
