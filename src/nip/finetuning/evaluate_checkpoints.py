"""``nip checkpoints``: the metrics of every checkpoint of a run; the charts of training and of checkpoints."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from nip.atomic import replacing
from nip.finetuning.commands import COMMANDS
from nip.finetuning.output_dir import checkpoints, is_complete
from nip.runs.folder import read_json, read_run_file, write_json

FILES = ("train_file", "validation_file", "test_file")
SOURCES = ("data_dir", "dataset_name")
HEADS = {
    "ForMaskedLM": "mlm",
    "ForPreTraining": "mlm",
    "BertLMHeadModel": "mlm",  # how the original saves them
    "ForSequenceClassification": "glue",
    "ForQuestionAnswering": "qa",
    "ForConditionalGeneration": "summarization",
}
MODEL_FILES = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model.bin.index.json")
# Flags of training, and those that the saved model's configuration replaces.
NOT_FOR_EVALUATION = (
    *("do_train", "do_eval", "do_predict", "output_dir", "overwrite_output_dir", "resume_from_checkpoint"),
    *("model_name_or_path", "model_type", "config_name", "config_overrides", "tokenizer_name"),
    *("ignore_mismatched_sizes", "attention", "attention_layers", "graph", "param", "block_size", "backend"),
    *("extend_positions", "eval_strategy", "evaluation_strategy", "eval_steps", "save_strategy", "save_steps"),
    *("load_best_model_at_end", "metric_for_best_model", "greater_is_better", "early_stopping_patience"),
    *("early_stopping_threshold", "evaluate_during_training", "train_file", "max_steps", "logging_dir"),
    *("tensorboard_dir", "fp16", "bf16", "gradient_checkpointing", "json"),
)


def evaluate_checkpoints(folder: Path, out: Path | None = None, more: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Evaluate every checkpoint of a run, and the final model; write one JSON file and a chart.

    The file is written after each evaluation, and the same call resumes. Incomplete checkpoints are skipped.

    Parameters
    ----------
    folder : Path
        The output folder of a finetuning command, or any folder of models called ``checkpoint-N``.
    out : Path, optional
        The JSON file, by default ``checkpoints.json`` in the folder; the chart is an SVG of the same name.
    more : sequence of str
        Flags that differ from the run's, such as another ``--validation_file``; of plain checkpoints, all flags.

    Returns
    -------
    list of dict
        ``checkpoint``, ``step``, ``flags`` (`more`) and the metrics, by step. The final model is included if there is
        no checkpoint of its step.

    Raises
    ------
    ValueError
        If the folder contains no run and no checkpoints, checkpoints are of different tasks, or `out` is another file.
    """
    run = read_run_file(folder) if folder.is_dir() else None
    if run is not None and run.get("kind") in COMMANDS:
        found = [(step, each) for step, each in checkpoints(folder) if is_complete(each, step)]
        last = (run.get("trained") or {}).get("best_step")
        if last is not None and last not in [step for step, _ in found] and (folder / "config.json").is_file():
            found = sorted([*found, (last, folder)])
        if not found:
            raise ValueError(f"{folder} has no checkpoints: train with --save_steps.")
        kind, argv = run["kind"], evaluation_argv(run, more)
        out = out or folder / "checkpoints.json"
    else:
        found = plain_checkpoints(folder)
        kind, argv = _command_for(found), plain_argv(found, more)
        out = out or folder / "checkpoints.json"
        for file in (out, out.with_suffix(".svg")):
            if file.exists() and not _is_table(out):
                raise ValueError(f"{file} exists and is not of nip checkpoints. Name another file with --output.")
        print(f"{len(found)} checkpoints are evaluated by nip {kind} {shlex.join(argv)}", file=sys.stderr)
    main = COMMANDS[kind].load().main
    rows = _read_unfinished(out, found, more)
    for step, checkpoint in found[len(rows) :]:
        with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
            command = [*argv, "--do_eval", "--model_name_or_path", str(checkpoint), "--output_dir", scratch]
            result = main(command, program=f"nip {kind}")
        rows.append({"checkpoint": str(checkpoint), "step": step, "flags": list(more), **result["metrics"]})
        write_json(out, rows)
    draw_checkpoints(rows, out.with_suffix(".svg"))
    return rows


def plain_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The models in the folders ``checkpoint-N`` of a folder that no run of ours has written, with their N.

    Raises
    ------
    ValueError
        If there are none.
    """
    there = checkpoints(folder) if folder.is_dir() else []
    found = [
        (step, each)
        for step, each in there
        if (each / "config.json").is_file() and any(next(each.glob(name), None) for name in MODEL_FILES)
    ]
    if not found:
        raise ValueError(
            f"{folder} holds no finetuning run (there is no run.json), and no folders checkpoint-N of models with "
            "config.json and weights."
        )
    return found


def _command_for(found: Sequence[tuple[int, Path]]) -> str:
    """The command that evaluates some checkpoints, by the class of model that their ``config.json`` names."""
    named = {each: (read_json(each / "config.json").get("architectures") or ["no class"])[0] for _, each in found}
    kinds = {each: next((kind for end, kind in HEADS.items() if str(name).endswith(end)), None)
             for each, name in named.items()}  # fmt: skip
    for each, kind in kinds.items():
        if kind is None:
            raise ValueError(f"{each} is a model of {named[each]}; checkpoints end in {', '.join(HEADS)}.")
        if kind != kinds[found[0][1]]:
            raise ValueError(f"{found[0][1]} is a model for nip {kinds[found[0][1]]}, {each} one for nip {kind}.")
    return str(kinds[found[0][1]])


def plain_argv(found: Sequence[tuple[int, Path]], more: Sequence[str]) -> list[str]:
    """The flags that evaluate plain checkpoints: dense where neither the flags nor the models name a graph."""
    from nip.models.huggingface.config import ENTRY

    over_graph = any(ENTRY in read_json(each / "config.json") for _, each in found)
    return list(more) if over_graph else dense_unless_named(more or ["--attention", "softmax"])


def _is_table(path: Path) -> bool:
    """Whether a file is the JSON table of an earlier evaluation."""
    try:
        rows = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(rows, list) and all(isinstance(row, dict) and {"checkpoint", "step"} <= set(row) for row in rows)


def _read_unfinished(out: Path, found: Sequence[tuple[int, Path]], more: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of an interrupted evaluation of the same checkpoints with the same flags."""
    try:
        rows = json.loads(out.read_text("utf-8"))
        done = [(row["step"], row["checkpoint"], row["flags"]) for row in rows]
    except (OSError, ValueError, TypeError, KeyError):
        return []
    same = done == [(step, str(each), list(more)) for step, each in found[: len(done)]]
    return rows if same and len(rows) < len(found) else []


def evaluation_argv(run: dict[str, Any], more: Sequence[str]) -> list[str]:
    """The flags that evaluate on a run's data: the run's own, then others, which may name another source.

    A validation set that the run split off its training file is split off again.
    """
    argv = list(run["command"])
    flags = argv[next((place for place, word in enumerate(argv) if word.startswith("--")), len(argv)) :]
    given = _names(more)
    if given & {*FILES, *SOURCES}:
        flags = without(flags, [*FILES, *SOURCES, "dataset_config_name", "validation_split_percentage"])
    if "dataset_name" in given:
        flags = without(flags, ["task_name"])
    split_off = "validation_file" not in _names(flags) | given
    dropped = [name for name in NOT_FOR_EVALUATION if not (name == "train_file" and split_off)]
    return [*without(flags, [*dropped, *given]), *more]


def prediction_argv(argv: Sequence[str]) -> list[str]:
    """The flags of ``nip glue`` that predict with a saved model; those that are missing are taken from the model's run.

    Predictions are written into the model's folder by default.

    Raises
    ------
    ValueError
        If no model is named.
    """
    parser = ArgumentParser(allow_abbrev=False, add_help=False)
    parser.add_argument("--model_name_or_path", "--model-name-or-path", dest="model")
    parser.add_argument("--output_dir", "--output-dir", "--out", dest="out")
    parser.error = _raise  # type: ignore[method-assign]
    named, _ = parser.parse_known_args(list(argv))
    if "do_train" in _names(argv):
        return training_argv(argv)
    if named.model is None:
        raise ValueError("Name the model: --model_name_or_path with the folder that nip glue wrote.")
    flags = list(argv)
    run = read_run_file(Path(named.model)) if Path(named.model).is_dir() else None
    if run is not None and run.get("kind") == "glue":
        source = (*SOURCES, "dataset_config_name")
        given = _names(argv)
        for name in ("task_name", *source, "max_seq_length", "pad_to_max_length"):
            value = run["settings"].get(name)
            if value is not None and name not in given and not ("test_file" in given and name in source):
                flags += [f"--{name}", str(value)]
    flags += [] if named.out is not None else ["--output_dir", named.model]
    return [*without(flags, ["do_predict", "do_train", "overwrite_output_dir"]), "--do_predict"]


def dense_unless_named(argv: Sequence[str]) -> list[str]:
    """A command line of finetuning, with dense attention unless it names a graph.

    Examples
    --------
    >>> dense_unless_named(["--seed", "1"]), dense_unless_named(["--graph=a.npz"])
    (['--seed', '1', '--attention', 'softmax'], ['--graph=a.npz'])
    """
    named = _names(argv) & {"attention", "graph", "attention_layers", "help"} or "-h" in argv
    return list(argv) if named or not argv else [*argv, "--attention", "softmax"]


def training_argv(argv: Sequence[str]) -> list[str]:
    """The flags of ``run_glue_predict.py --do_train``, which is ``run_glue.py``: it trains densely, then predicts.

    It predicts into ``predict_file/TASK``, a folder in the working directory, unless --output_dir is given.
    """
    given, flags = _names(argv), dense_unless_named(argv)
    if not given & {"output_dir", "out"}:
        task = next((value for name, value in pairwise(argv) if name.startswith("--task")), "files")
        flags += ["--output_dir", f"predict_file/{task}"]
    return flags if "do_predict" in given else [*flags, "--do_predict"]


def _raise(message: str) -> NoReturn:
    raise ValueError(f"{message[:1].upper()}{message[1:]}.")


def without(argv: Sequence[str], names: Sequence[str]) -> list[str]:
    """A command line without the flags of these names and their values.

    Examples
    --------
    >>> without(["--seed", "1", "--do_train", "--task-name=mrpc", "--param", "a=1", "b=2"], ["do_train", "param"])
    ['--seed', '1', '--task-name=mrpc']
    """
    kept: list[str] = []
    dropping = False
    for word in argv:
        if word.startswith("--"):
            dropping = bool(_names([word]) & set(names))
        if not dropping:
            kept.append(word)
    return kept


def _names(argv: Sequence[str]) -> set[str]:
    return {word[2:].partition("=")[0].replace("-", "_") for word in argv if word.startswith("--")}


def draw_curves(rows: Sequence[Mapping[str, Any]], metric: str, path: Path) -> None:
    """Draw the rows of ``metrics.jsonl`` as an SVG file.

    Parameters
    ----------
    rows : sequence of mapping
        Steps (``split`` "train") and evaluations ("dev").
    metric : str
        Drawn next to the loss, if evaluations have it.
    path : Path
        An older file is replaced.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6))
    left, right = figure.subplots(1, 2, gridspec_kw={"left": 0.08, "right": 0.98, "bottom": 0.14, "top": 0.96})
    for split, style in (("train", {"linewidth": 0.8, "alpha": 0.6}), ("dev", {"marker": "o", "markersize": 3})):
        _line(left, rows, split, "loss", style)
    _line(right, rows, "dev", metric, {"marker": "o", "markersize": 3})
    left.set(xlabel="step", ylabel="loss")
    right.set(xlabel="step", ylabel=metric)
    if left.lines:
        left.legend(frameon=False)
    _save_svg(figure, path)


def _line(axes: Any, rows: Sequence[Mapping[str, Any]], split: str, key: str, style: Mapping[str, Any]) -> None:
    points = [(row["step"], row[key]) for row in rows if row["split"] == split and row.get(key) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), label=split, **style)


def draw_checkpoints(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw every metric against the step of its checkpoint."""
    from matplotlib.figure import Figure

    names = [name for name in rows[0] if name not in ("checkpoint", "step", "flags")]
    figure = Figure(figsize=(3.6 * len(names), 3.2), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        axes.plot([row["step"] for row in rows], [row[name] for row in rows], marker="o", markersize=3)
        axes.set(xlabel="step", ylabel=name)
    _save_svg(figure, path)


def _save_svg(figure: Any, path: Path) -> None:
    """Write a figure, completely or not at all, with the same bytes each time."""
    import matplotlib

    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "nip"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    with replacing(path) as file:
        file.write(buffer.getvalue())
