"""Flags of older finetuning commands, translated to the current ones with a notice for each.

The original's commands were written for transformers 4, which later versions renamed and removed flags of. Nothing is
dropped silently, and flags that still exist are passed on unchanged.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

TRUE, FALSE = ("true", "1", "yes", "t", "y"), ("false", "0", "no", "f", "n")


@dataclass(frozen=True)
class Old:
    """A flag that was renamed or removed.

    Parameters
    ----------
    replacement : tuple of str
        Its replacement; ``{}`` stands for its value. Empty if it was removed.
    why : str
        Why a removed flag is not needed.
    switch : bool
        Whether it is a boolean flag, on without a value.
    """

    replacement: tuple[str, ...] = ()
    why: str = ""
    switch: bool = False


OLD: dict[str, Old] = {
    "evaluation_strategy": Old(("--eval_strategy", "{}")),
    "evaluate_during_training": Old(("--eval_strategy", "steps"), switch=True),
    "warmup_ratio": Old(("--warmup_steps", "{}")),
    "group_by_length": Old(("--train_sampling_strategy", "group_by_length"), switch=True),
    "no_cuda": Old(("--use_cpu",), switch=True),
    "per_gpu_train_batch_size": Old(("--per_device_train_batch_size", "{}")),
    "per_gpu_eval_batch_size": Old(("--per_device_eval_batch_size", "{}")),
    "gradient_checkpointing": Old(("--activation_checkpointing", "{}"), switch=True),
    "gradient_checkpointing_kwargs": Old(("--activation_checkpointing_kwargs", "{}")),
    "adafactor": Old(("--optim", "adafactor"), switch=True),
    "include_inputs_for_metrics": Old(("--include_for_metrics", "inputs"), switch=True),
    "tpu_metrics_debug": Old(("--debug", "tpu_metrics_debug"), switch=True),
    "torchdynamo": Old(("--torch_compile_backend", "{}")),
    "push_to_hub_model_id": Old(("--hub_model_id", "{}")),
    "push_to_hub_token": Old(("--hub_token", "{}")),
    "split_batches": Old(("--accelerator_config", '{{"split_batches": true}}'), switch=True),
    "dispatch_batches": Old(("--accelerator_config", '{{"dispatch_batches": true}}'), switch=True),
    "fsdp_min_num_params": Old(("--fsdp_config", '{{"min_num_params": {}}}')),
    "fsdp_transformer_layer_cls_to_wrap": Old(("--fsdp_config", '{{"transformer_layer_cls_to_wrap": ["{}"]}}')),
    "xpu_backend": Old(("--ddp_backend", "{}")),
    "resize_position_embeddings": Old(("--extend_positions", "reflect"), switch=True),
    "hyperextension": Old(("--extend_positions", "reflect"), switch=True),
    "group_name": Old(why="a run is named by its --output_dir; --run_name names it for a tracker"),
    "project_name": Old(why="trackers read the project from their own environment variable, such as WANDB_PROJECT"),
    "pretrain_run_args": Old(why="a checkpoint's own configuration says how it was pretrained"),
    "logging_dir": Old(("--tensorboard_dir", "{}")),
    "use_auth_token": Old(why="the token of `hf auth login` is used", switch=True),
    "token": Old(why="the token of `hf auth login` is used"),
    "torch_dtype": Old(why="weights are fp32; --bf16 or --fp16 turn on mixed precision"),
    "dtype": Old(why="weights are fp32; --bf16 or --fp16 turn on mixed precision"),
    "low_cpu_mem_usage": Old(why="models are always loaded that way", switch=True),
    "save_safetensors": Old(why="weights are always saved as safetensors", switch=True),
    "use_fast_tokenizer": Old(why="tokenizers are always fast ones", switch=True),
    "half_precision_backend": Old(why="mixed precision is PyTorch's"),
    "fp16_backend": Old(why="mixed precision is PyTorch's"),
    "fp16_opt_level": Old(why="it was a setting of apex; mixed precision is PyTorch's"),
    "past_index": Old(why="no current model needs it"),
    "jit_mode_eval": Old(why="--torch_compile replaces it", switch=True),
    "use_ipex": Old(why="PyTorch itself replaces it", switch=True),
    "use_mps_device": Old(why="the device is detected", switch=True),
    "tpu_num_cores": Old(why="the launcher sets the number of processes"),
    "sharded_ddp": Old(why="--fsdp replaces it"),
    "ray_scope": Old(why="searches keep their trials in a database"),
    "use_legacy_prediction_loop": Old(why="there is only one loop", switch=True),
    "prediction_loop": Old(why="there is only one loop"),
    "push_to_hub_organization": Old(why="--hub_model_id includes the organization"),
    "include_tokens_per_second": Old(why="tokens per second are always recorded", switch=True),
    "mp_parameters": Old(why="it belonged to a discontinued service"),
}
# Removed values: (flag, value) → current value.
OLD_VALUES = {("optim", "adamw_hf"): "adamw_torch"}


def translate(argv: Sequence[str], known: Collection[str]) -> tuple[list[str], list[str]]:
    """Translate a command line to the flags that the parser knows.

    Parameters
    ----------
    argv : sequence of str
        As typed; a flag may be written with hyphens or underscores, its value after ``=`` or as the next argument.
    known : collection of str
        Names that the parser knows, without the leading hyphens and with underscores.

    Returns
    -------
    argv : list of str
    notices : list of str
        One line for each flag that was translated.

    Raises
    ------
    ValueError
        If a flag is unknown, or given under its old and its new name.

    Examples
    --------
    >>> translate(["--evaluation_strategy", "steps", "--seed=1"], {"eval_strategy", "seed"})
    (['--eval_strategy', 'steps', '--seed=1'], ['--evaluation_strategy is now --eval_strategy steps'])
    """
    left = [str(word) for word in argv]
    translated: list[str] = []
    notices: list[str] = []
    came_from: dict[str, str] = {}
    while left:
        word = left.pop(0)
        if not _is_flag(word):
            translated.append(word)
            continue
        written, equals, value = word.partition("=")
        name = written[2:].replace("-", "_")
        name = "output_dir" if name == "out" else name  # as the other commands of nip take it, without a notice
        values = [value] if equals else []
        while left and not equals and not _is_flag(left[0]):
            values.append(left.pop(0))
        if len(values) == 1 and (name, values[0]) in OLD_VALUES:
            now = OLD_VALUES[name, values[0]]
            notices.append(f"{written} {values[0]} is now --{name} {now}")
            value, values = now, [now]
        old = OLD.get(name)
        if old is None or not _replaced(name, old, known):
            if name not in known and not (name.startswith("no_") and name[3:] in known):
                raise ValueError(unknown_flag(name, known))
            _note_origin(came_from, name, written)
            translated += [f"--{name}{equals}{value}"] if equals else [f"--{name}", *values]
            continue
        current = _current(written, old, values)
        if current:
            _note_origin(came_from, current[0][2:], written)
            notices.append(f"{written} is now {' '.join(current)}")
        elif old.replacement:
            notices.append(f"{written} is off by default and is now {old.replacement[0]}")
        else:
            notices.append(f"{written} does nothing: {old.why}")
        translated += current
    return translated, notices


def unknown_flag(name: str, known: Collection[str]) -> str:
    """The error message for an unknown flag, with the most similar known one.

    Examples
    --------
    >>> unknown_flag("learning_rat", ["learning_rate", "seed"])
    'There is no flag --learning_rat. Did you mean --learning_rate?'
    """
    near = difflib.get_close_matches(name, [*known, *OLD], n=1, cutoff=0.5)
    return f"There is no flag --{name}." + (f" Did you mean --{near[0]}?" if near else " --help lists them.")


def read_bool(text: str, flag: str) -> bool:
    """The value of a boolean flag.

    Raises
    ------
    ValueError
        If it is neither true nor false.
    """
    if text.lower() in TRUE:
        return True
    if text.lower() in FALSE:
        return False
    raise ValueError(f"{flag} takes true or false. Got {text!r} instead.")


def check_ratio(flag: str, text: str) -> None:
    """Check a ratio: --warmup_steps, which replaces the flag, takes 1 and more for a number of steps.

    Raises
    ------
    ValueError
        If the text is not a number in [0, 1).
    """
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio < 1:
        raise ValueError(f"{flag} takes a ratio in [0, 1). Got {text!r} instead.")


def _is_flag(word: str) -> bool:
    return word.startswith("--") and len(word) > 2


def _replaced(name: str, old: Old, known: Collection[str]) -> bool:
    """Whether the parser lacks the old flag, or has both the old and the new one."""
    if name not in known:
        return True
    return bool(old.replacement) and old.replacement[0][2:] in known and name != old.replacement[0][2:]


def _current(written: str, old: Old, values: Sequence[str]) -> list[str]:
    if old.switch:
        if values and not read_bool(values[0], written):
            return []
        return [word.format("true") for word in old.replacement]
    if old.replacement and not values:
        raise ValueError(f"{written} needs a value.")
    if written[2:].replace("-", "_") == "warmup_ratio":
        check_ratio(written, values[0])
    return [part for word in old.replacement for part in (list(values) if word == "{}" else [word.format(*values)])]


def _note_origin(came_from: dict[str, str], name: str, written: str) -> None:
    before = came_from.setdefault(name, written)
    if before != written and before.replace("-", "_") != written.replace("-", "_"):
        raise ValueError(f"{before} and {written} are the same flag. Give one of them.")
