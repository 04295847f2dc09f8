"""The original's flags of pretraining, translated to the options of `nip pretrain`.

A command line may have both kinds; a notice is printed for each flag that changed more than its name.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from nip.processor import computes_bf16

Pairs = list[tuple[str, str | None]]
OFF = ("false", "0", "no")

RENAMED = {
    "train_batch_size": "batch_size",
    "train_micro_batch_size_per_gpu": "micro_batch",
    "lr": "learning_rate",
    "lr_schedule": "schedule",
    "warmup_proportion": "warmup",
    "num_warmup_steps": "warmup_steps",
    "adam_beta1": "beta1",
    "adam_beta2": "beta2",
    "adam_eps": "eps",
    "gradient_clipping": "clip",
    "total_training_time": "hours",
    "early_exit_time_marker": "early_exit_hours",
    "scale_cnt_limit": "overflow_limit",
    "early_stop_time": "early_stop_minutes",
    "early_stop_eval_loss": "early_stop_loss",
    "validation_micro_batch": "eval_micro_batch",
    "validation_begin_proportion": "eval_begin_share",
    "validation_end_proportion": "eval_end_share",
    "dataset_path": "dataset",
    "output_dir": "out",
    "project_name": "project",
    "tokenizer_name": "tokenizer",
    "hidden_act": "activation",
    "hidden_size": "width",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "inner_width",
    "hidden_dropout_prob": "dropout",
    "attention_probs_dropout_prob": "attention_dropout",
    "max_position_embeddings": "positions",
    "type_vocab_size": "token_types",
    "max_predictions_per_seq": "max_predictions",
    "masked_lm_prob": "mask_probability",
    "max_seq_length": "lengths",
    "log_throughput_every": "log_every",
    "load_training_checkpoint": "init_from",
}
EPOCHS = {
    "validation_epochs": "eval_every",
    "validation_epochs_begin": "eval_every_begin",
    "validation_epochs_end": "eval_every_end",
}
DEAD = "it belonged to a kernel that no longer exists"
NOTHING = {
    "do_validation": "every run is evaluated",
    "sparse_mask_prediction": "the output layer always computes only masked positions",
    "finetune_checkpoint_at_end": "every run ends by saving a model to finetune",
    "hyperextension": "positions are extended by reflection when samples get longer",
    "print_steps": "progress is printed every half minute",
    "steps_per_print": "progress is printed every half minute",
    "num_epochs_between_checkpoints": "checkpoints are written every --checkpoint-minutes",
    "data_loader_type": "each process reads its share of every batch",
    "num_workers": "the next batch is prefetched",
    "async_worker": "the next batch is prefetched",
    "wall_clock_breakdown": "steps, evaluations and checkpoints are always timed",
    "local_rank": "the launcher sets the rank of each process",
    "deepspeed": "accelerate launch enables DeepSpeed",
    "fp16_backend": "mixed precision is torch's own",
    "fp16_opt": "it was a setting of apex; mixed precision is torch's own",
    "prescale_gradients": "gradients of several processes are averaged by the engine",
    "gradient_predivide_factor": "gradients of several processes are averaged by the engine",
    "fused_linear_layer": DEAD,
    "deepspeed_transformer_kernel": DEAD,
    "stochastic_mode": DEAD,
    "gelu_checkpoint": DEAD,
    "normalize_invertible": DEAD,
    "attention_dropout_checkpoint": DEAD,
}
ALWAYS = ("do_validation", "sparse_mask_prediction", "finetune_checkpoint_at_end", "hyperextension")  # even if off
OWN = (
    *("finetune_time_markers", "optimizer_type", "group_name", "model_name_or_path", "config_name", "cache_dir"),
    *("pretrain_run_args", "fp16", "add_nsp", "encoder_ln_mode", "layer_norm_type", "model_type", "use_early_stopping"),
    *("gradient_accumulation_steps", "max_steps_per_epoch", "num_epochs", "current_run_id", "load_checkpoint_id"),
)
KNOWN = (*RENAMED, *EPOCHS, *NOTHING, *OWN)
OPTIMIZERS = {"adam": "adam", "adamw": "adamw", "lamb": "lamb-deepspeed", "adafactor": "adafactor-absolute"}
MODEL_TYPES = ("bert-mlm", "bert-mlm-roberta", "bert-mlm-nsp")
EARLY_STOP = {"early_stop_time": "720", "early_stop_eval_loss": "2.1"}  # minutes and loss where they are not given
UNUSED = {
    "group_name": "trackers name the run by --job_name",
    "model_name_or_path": "--load_training_checkpoint names initial weights",
    "config_name": "the model's sizes are options",
    "cache_dir": "nothing is downloaded",
    "pretrain_run_args": "a run's own run.json contains its command",
}
DEFAULTS = {
    "encoder_ln_mode": "pre-ln",
    "num_hidden_layers": "24",
    "hidden_size": "1024",
    "num_attention_heads": "16",
    "intermediate_size": "4096",
    "max_position_embeddings": "512",
    "train_batch_size": "65536",
    "train_micro_batch_size_per_gpu": "32",
    "lr": "0.011",
    "lr_schedule": "time",
    "adam_beta2": "0.999",
    "bias_correction": "false",
    "max_coeff": "0.3",
    "max_predictions_per_seq": "20",
    "total_training_time": "24",
    "early_exit_time_marker": "24",
    "validation_begin_proportion": "0.1",
    "validation_end_proportion": "0.1",
    "validation_micro_batch": "16",
    "log_throughput_every": "20",
}
"""Of the original's commands, where `nip pretrain` has another default."""
FAMILIES = {"pre-ln": "roberta-prelayernorm", "post-ln": "bert"}
NORMS = {"pytorch": "layer", "apex": "layer", "rms_norm": "rms"}


def with_model(name: str, words: Sequence[str]) -> list[str]:
    """The command line, with attention over a pattern unless it names one.

    Examples
    --------
    >>> with_model("softmax", ["--seed", "1"]), with_model("softmax", ["--model=local"])
    (['--attention', 'softmax', '--seed', '1'], ['--model=local'])
    """
    named = not words or any(word.split("=")[0] in ("--attention", "--model", "--config", "--help") for word in words)
    return list(words) if named else ["--attention", name, *words]


def with_defaults(words: Sequence[str]) -> list[str]:
    """A command line of the original with the original's defaults, where `nip pretrain` has others.

    An option that is given under its old or its new name stays; ``--size`` stands for the four sizes. A notice names
    the defaults in force.
    """
    if not words or {"--help", "-h"} & set(words) or any(word.split("=")[0] == "--config" for word in words):
        return list(words)
    given = {name for name, _ in flags(words)}
    sizes = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
    taken = {*given, *(sizes if "size" in given else ()), *(("encoder_ln_mode",) if "architecture" in given else ())}
    force = {
        name: value
        for name, value in DEFAULTS.items()
        if name not in taken and RENAMED.get(name, name) not in taken and f"no_{name}" not in taken
    }
    if "gradient_accumulation_steps" in given:  # it determines one of the two
        force = {name: value for name, value in force.items() if name not in _BATCH or not {*_BATCH} & given}
    if "max_coeff" in force and dict(flags(words)).get("optimizer_type") != "lamb":
        del force["max_coeff"]
    if force:
        shown = ", ".join(f"{name} {value}" for name, value in force.items())
        print(f"nip: defaults of the original in force: {shown}", file=sys.stderr)
    return [*words, *(f"--{name}={value}" for name, value in force.items())]


_BATCH = ("train_batch_size", "train_micro_batch_size_per_gpu")


def flags(words: Sequence[str]) -> Pairs:
    """The options of a command line with their values as text; names with underscores.

    Raises
    ------
    ValueError
        If a word is neither an option nor the value of one.

    Examples
    --------
    >>> flags(["--max-steps", "5", "--seed=1", "--fp16", "--param", "seed=3"])
    [('max_steps', '5'), ('seed', '1'), ('fp16', None), ('param', 'seed=3')]
    """
    found: Pairs = []
    left = [str(word) for word in words]
    while left:
        word = left.pop(0)
        if not word.startswith("--") or len(word) == 2:
            raise ValueError(f"{word!r} is not an option; options begin with two hyphens.")
        name, equals, value = word[2:].partition("=")
        text = value if equals else None
        if not equals and left and not left[0].startswith("--"):
            text = left.pop(0)
        name = name.replace("-", "_")
        found.append(("model" if name == "attention" else name, text))
    return found


def today(given: Sequence[tuple[str, str | None]]) -> tuple[Pairs, list[str]]:
    """Options with the original's flags translated, and a notice for each that changed more than its name.

    Parameters
    ----------
    given : sequence of (str, str or None)
        Names with underscores, and values.

    Raises
    ------
    ValueError
        If a flag has a value without an equivalent, or flags contradict each other.

    Examples
    --------
    >>> today([("lr", "1e-3"), ("encoder_ln_mode", "pre-ln"), ("stochastic_mode", None)])
    ... # doctest: +NORMALIZE_WHITESPACE
    ([('learning_rate', '1e-3'), ('architecture', 'roberta-prelayernorm')],
     ['--stochastic_mode does nothing: it belonged to a kernel that no longer exists.'])
    """
    old: dict[str, str | None] = {}
    for name, value in given:
        if name in old:
            raise ValueError(f"--{name} is given twice.")
        if name in KNOWN:
            old[name] = value
    found: Pairs = [(name, value) for name, value in given if name not in KNOWN]
    notices: list[str] = []
    _renamed(old, found, notices)
    for name, why in NOTHING.items():
        if name in old and (name in ALWAYS or (old[name] or "").lower() != "false"):
            notices.append(f"--{name} does nothing: {why}.")
    _kinds(old, found, notices)
    _optimizer(old, found, notices)
    _markers(old, found, notices)
    _folders(old, found, notices)
    _steps(old, found, notices)
    return found, notices


def _renamed(old: dict[str, str | None], found: Pairs, notices: list[str]) -> None:
    stops = _on(old, "use_early_stopping")
    for name, new in RENAMED.items():
        if name not in old:
            continue
        if name.startswith("early_stop_") and not stops:
            notices.append(f"--{name} does nothing without --use_early_stopping.")
        elif name == "num_warmup_steps" and old.get("lr_schedule") != "constant_step":
            notices.append("--num_warmup_steps needs --lr_schedule constant_step; --warmup_proportion is used instead.")
        else:
            found.append((new, old[name]))
    if stops:
        found += [(RENAMED[name], value) for name, value in EARLY_STOP.items() if name not in old]


def _kinds(old: dict[str, str | None], found: Pairs, notices: list[str]) -> None:
    """Flags whose values are renamed as well."""
    if _on(old, "fp16"):
        found.append(("precision", _half(notices)))
    if _on(old, "add_nsp"):
        found.append(("next_sentence", None))
    for name, new, values in (("encoder_ln_mode", "architecture", FAMILIES), ("layer_norm_type", "norm", NORMS)):
        if name in old:
            value = old[name] or ""
            if value not in values:
                raise ValueError(f"--{name} must be one of {', '.join(values)}. Got {value!r} instead.")
            found.append((new, values[value]))
            if value == "apex":
                notices.append("--layer_norm_type apex is now torch's own.")
    kind = old.get("model_type", "bert-mlm")
    if kind not in MODEL_TYPES:
        raise ValueError(f"--model_type must be one of {', '.join(MODEL_TYPES)}. Got {kind!r} instead.")
    if kind == "bert-mlm-nsp" and "add_nsp" not in old:
        found.append(("next_sentence", None))
    if kind == "bert-mlm-roberta":
        notices.append("--model_type bert-mlm-roberta is the same model; the corpus has its tokenizer.")
    for name, why in UNUSED.items():
        if name in old:
            notices.append(f"--{name} does nothing: {why}.")


def _optimizer(old: dict[str, str | None], found: Pairs, notices: list[str]) -> None:
    """The optimizers of the original under their names here, with what DeepSpeed's LAMB fixes."""
    kind = old.get("optimizer_type")
    if kind is None:
        return
    if kind not in OPTIMIZERS:
        raise ValueError(f"--optimizer_type must be one of {', '.join(OPTIMIZERS)}. Got {kind!r} instead.")
    found.append(("optimizer", OPTIMIZERS[kind]))
    if kind == "lamb":
        given = [name for name in ("adam_beta1", "adam_beta2", "adam_eps") if name in old]
        found[:] = [(name, value) for name, value in found if name not in ("beta1", "beta2", "eps")]
        found += [("beta1", "0.9"), ("beta2", "0.999"), ("eps", "1e-8")]
        if given:
            notices.append(f"--{given[0]} does nothing: DeepSpeed's LAMB has betas 0.9 and 0.999 and epsilon 1e-8.")
        named = dict(found)
        if "max_coeff" not in named:
            found.append(("max_coeff", "0.3"))
        if "bias_correction" not in named:
            found.append(("bias_correction", "false"))


def _markers(old: dict[str, str | None], found: Pairs, notices: list[str]) -> None:
    """Shares of the time budget after which a model is kept, as hours."""
    text = old.get("finetune_time_markers")
    if "finetune_time_markers" not in old:
        return
    try:
        shares = [float(part) for part in (text or "").split(",")]
    except ValueError:
        shares = [-1.0]
    if not shares or not all(share > 0 for share in shares):
        raise ValueError(f"--finetune_time_markers takes shares of the time budget, such as 0.5,0.9. Got {text!r}.")
    named = dict(found)
    if "hours" not in named:
        raise ValueError("--finetune_time_markers are shares of --total_training_time. Give both.")
    hours = _number(named, "hours")
    end = min(hours, _number(named, "early_exit_hours")) if "early_exit_hours" in named else hours
    for share in shares:
        if share * hours >= end:
            notices.append(
                f"--finetune_time_markers {share:g} never comes: it is a share of {hours:g} hours, and the run ends "
                f"after {end:g}."
            )
    kept = sorted({share * hours for share in shares if share * hours < end})
    if kept:
        found.append(("finetune_hours", ",".join(f"{each:g}" for each in kept)))


def _half(notices: list[str]) -> str:
    """The precision of --fp16: fp16 on a GPU; a CPU is minutes slower than in fp32."""
    import torch  # takes seconds: other command lines are read without it

    if torch.accelerator.is_available():
        return "fp16"
    instead = "bf16" if computes_bf16() else "fp32"
    notices.append(f"--fp16 needs a GPU: it is --precision {instead} here.")
    return instead


def _folders(old: dict[str, str | None], found: Pairs, notices: list[str]) -> None:
    """The run folder: ``--output_dir/JOB-ID`` as in the original; ``--out`` alone is the run folder itself."""
    named = dict(found)
    original = "output_dir" in old or "current_run_id" in old
    parts = [part for part in (named.get("job_name"), old.get("current_run_id")) if part and original]
    if parts and not named.get("out"):
        notices.append("--current_run_id does nothing without --output_dir.")
    elif parts:
        found[:] = [(name, value) for name, value in found if name != "out"]
        found.append(("out", str(Path(named["out"] or "") / "-".join(parts))))
    folder = Path(named.get("init_from") or "")
    if "load_checkpoint_id" in old and not named.get("init_from"):
        notices.append("--load_checkpoint_id does nothing without --load_training_checkpoint.")
    elif "load_checkpoint_id" in old:
        inside = folder / (old["load_checkpoint_id"] or "")
        if inside.exists() or not (folder / "config.json").is_file():
            found[:] = [(name, value) for name, value in found if name != "init_from"]
            found.append(("init_from", str(inside)))
        else:
            notices.append(f"--load_checkpoint_id does nothing: {folder} is a model folder.")
    if "load_training_checkpoint" in old:
        notices.append("A stopped run resumes without a flag: --load_training_checkpoint loads initial weights.")


def _steps(old: dict[str, str | None], found: Pairs, notices: list[str]) -> None:
    """Flags in the original's epochs, converted to steps."""
    named = dict(found)
    counted = [name for name in (*EPOCHS, "num_epochs") if name in old]
    if "gradient_accumulation_steps" in old:
        _accumulation(old, named, found)
    both = "hours" in named and "early_exit_hours" in named
    if both and _number(named, "early_exit_hours") >= _number(named, "hours"):
        found[:] = [(name, value) for name, value in found if name != "early_exit_hours"]
    if not counted:
        if "max_steps_per_epoch" in old:
            notices.append("--max_steps_per_epoch does nothing without a flag in epochs.")
        return
    each = _steps_of_an_epoch(old, named)
    for name, new in EPOCHS.items():
        if name in old:
            steps = max(1, _positive(old, name) * each)
            found.append((new, str(steps)))
            notices.append(f"--{name} {old[name]} is now --{new.replace('_', '-')} {steps}: an epoch has {each} steps.")
    if "num_epochs" in old:
        steps = _positive(old, "num_epochs") * each
        if "max_steps" not in named or _positive(named, "max_steps") > steps:
            found[:] = [(name, value) for name, value in found if name != "max_steps"]
            found.append(("max_steps", str(steps)))
            notices.append(f"--num_epochs {old['num_epochs']} ends the run after {steps} steps, {each} per epoch.")


def _steps_of_an_epoch(old: dict[str, str | None], named: dict[str, str | None]) -> int:
    """Steps of one pass over a shard, at most `max_steps_per_epoch`."""
    most = _positive(old, "max_steps_per_epoch") if "max_steps_per_epoch" in old else None
    if not named.get("dataset") or not named.get("batch_size"):
        if most is None:
            raise ValueError("Flags in epochs need --max_steps_per_epoch, or a dataset and a batch size.")
        return most
    from nip.data.corpus import read_manifest

    split = read_manifest(Path(named["dataset"] or "").expanduser())["splits"]["train"]
    steps = max(1, int(split["samples"]) // len(split["shards"]) // _positive(named, "batch_size"))
    return steps if most is None else min(most, steps)


def _accumulation(old: dict[str, str | None], named: dict[str, str | None], found: Pairs) -> None:
    """Batch size = micro-batch × accumulation steps × processes: derive the one that is missing, or check all."""
    import os

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    times = _positive(old, "gradient_accumulation_steps")
    if "micro_batch" in named and "batch_size" in named:
        micro_batch, batch = _positive(named, "micro_batch"), _positive(named, "batch_size")
        if micro_batch * times * processes != batch:
            raise ValueError(
                f"--train_batch_size {batch} is not {micro_batch} samples × {times} accumulated × {processes} "
                f"processes = {micro_batch * times * processes}."
            )
    elif "micro_batch" in named:
        found.append(("batch_size", str(_positive(named, "micro_batch") * times * processes)))
    elif "batch_size" in named:
        batch = _positive(named, "batch_size")
        if batch % (times * processes):
            raise ValueError(
                f"--train_batch_size {batch} is not divisible into {times} micro-batches on {processes} processes."
            )
        found.append(("micro_batch", str(batch // times // processes)))


def _on(old: dict[str, str | None], name: str) -> bool:
    return name in old and (old[name] or "").lower() not in OFF


def _positive(values: dict[str, str | None], name: str) -> int:
    try:
        found = int(values[name] or "")
    except ValueError:
        found = 0
    if found < 1:
        raise ValueError(f"--{name} must be an integer of at least 1. Got {values[name]!r} instead.")
    return found


def _number(values: dict[str, str | None], name: str) -> float:
    try:
        return float(values[name] or "")
    except ValueError:
        raise ValueError(f"--{name.replace('_', '-')} must be a number. Got {values[name]!r} instead.") from None
