"""Flags of older finetuning commands in today's terms: each that has changed is told in one line.

The original's commands were written for transformers 4. Its later versions renamed or removed some flags; `translate`
turns a command line of then into one of now. Nothing is dropped silently, and nothing that is still known is touched.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

TRUE, FALSE = ("true", "1", "yes", "t", "y"), ("false", "0", "no", "f", "n")


@dataclass(frozen=True)
class Old:
    """What became of a flag.

    Parameters
    ----------
    words : tuple of str
        What stands for it today; ``{}`` is its value. Empty: nothing is needed.
    why : str
        For a flag that nothing stands for: why not.
    switch : bool
        Whether the flag is on by itself; told to be off it is nothing.
    """

    words: tuple[str, ...] = ()
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
    "logging_dir": Old(("--tensorboard_dir", "{}")),
    "use_auth_token": Old(why="the token of `hf auth login` is used by itself", switch=True),
    "token": Old(why="the token of `hf auth login` is used by itself"),
    "torch_dtype": Old(why="weights have 32 bits; --bf16 or --fp16 says what is computed in less"),
    "dtype": Old(why="weights have 32 bits; --bf16 or --fp16 says what is computed in less"),
    "low_cpu_mem_usage": Old(why="models are always loaded so", switch=True),
    "save_safetensors": Old(why="weights are always saved as safetensors", switch=True),
    "use_fast_tokenizer": Old(why="tokenizers are always the fast ones", switch=True),
    "half_precision_backend": Old(why="mixed precision is torch's own"),
    "fp16_backend": Old(why="mixed precision is torch's own"),
    "fp16_opt_level": Old(why="it was a setting of apex; mixed precision is torch's own"),
    "past_index": Old(why="no model of today needs it"),
    "jit_mode_eval": Old(why="--torch_compile has taken its place", switch=True),
    "use_ipex": Old(why="torch itself has taken its place", switch=True),
    "use_mps_device": Old(why="the device is chosen by itself", switch=True),
    "tpu_num_cores": Old(why="the launcher says how many processes there are"),
    "sharded_ddp": Old(why="--fsdp has taken its place"),
    "ray_scope": Old(why="searches keep their trials in a database"),
    "use_legacy_prediction_loop": Old(why="there is one loop only", switch=True),
    "prediction_loop": Old(why="there is one loop only"),
    "push_to_hub_organization": Old(why="--hub_model_id names the organization too"),
    "include_tokens_per_second": Old(why="tokens a second are always recorded", switch=True),
    "mp_parameters": Old(why="it belonged to a service of the past"),
}
# Values that were removed: (flag, value) → value of today.
OLD_VALUES = {("optim", "adamw_hf"): "adamw_torch"}


def translate(words: Sequence[str], known: Collection[str]) -> tuple[list[str], list[str]]:
    """A command line with the flags of `known`, and a line of notice for each that had to change.

    Parameters
    ----------
    words : sequence of str
        As typed; a flag may be written with hyphens or underscores, its value after ``=`` or as the next word.
    known : collection of str
        Names that the parser knows, without the leading hyphens and with underscores.

    Returns
    -------
    words : list of str
    notices : list of str

    Raises
    ------
    ValueError
        If a flag is unknown, or is given once under its old and once under its new name.

    Examples
    --------
    >>> translate(["--evaluation_strategy", "steps", "--seed=1"], {"eval_strategy", "seed"})
    (['--eval_strategy', 'steps', '--seed=1'], ['--evaluation_strategy is now --eval_strategy steps'])
    """
    left = [str(word) for word in words]
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
        today = _today(written, old, values)
        if today:
            _note_origin(came_from, today[0][2:], written)
            notices.append(f"{written} is now {' '.join(today)}")
        elif old.words:
            notices.append(f"{written} is off by default and is now {old.words[0]}")
        else:
            notices.append(f"{written} does nothing: {old.why}")
        translated += today
    return translated, notices


def unknown_flag(name: str, known: Collection[str]) -> str:
    """The sentence about a flag that does not exist, with the nearest that does.

    Examples
    --------
    >>> unknown_flag("learning_rat", ["learning_rate", "seed"])
    'There is no flag --learning_rat. Did you mean --learning_rate?'
    """
    near = difflib.get_close_matches(name, [*known, *OLD], n=1, cutoff=0.5)
    return f"There is no flag --{name}." + (f" Did you mean --{near[0]}?" if near else " --help lists them.")


def truth(text: str, flag: str) -> bool:
    """Whether a switch's value says on.

    Raises
    ------
    ValueError
        If it says neither on nor off.
    """
    if text.lower() in TRUE:
        return True
    if text.lower() in FALSE:
        return False
    raise ValueError(f"{flag} takes true or false. Got {text!r} instead.")


def check_share(flag: str, text: str) -> None:
    """Refuse a ratio that is none: from 1 on, today's --warmup_steps would take it for a number of steps.

    Raises
    ------
    ValueError
        If the text is no number in [0, 1).
    """
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise ValueError(f"{flag} takes a share in [0, 1). Got {text!r} instead.")


def _is_flag(word: str) -> bool:
    return word.startswith("--") and len(word) > 2


def _replaced(name: str, old: Old, known: Collection[str]) -> bool:
    """Whether this version of transformers has the new flag, or has lost the old one."""
    if name not in known:
        return True
    return bool(old.words) and old.words[0][2:] in known and name != old.words[0][2:]


def _today(written: str, old: Old, values: Sequence[str]) -> list[str]:
    if old.switch:
        if values and not truth(values[0], written):
            return []
        return [word.format("true") for word in old.words]
    if old.words and not values:
        raise ValueError(f"{written} needs a value.")
    if written[2:].replace("-", "_") == "warmup_ratio":
        check_share(written, values[0])
    return [part for word in old.words for part in (list(values) if word == "{}" else [word.format(*values)])]


def _note_origin(came_from: dict[str, str], name: str, written: str) -> None:
    before = came_from.setdefault(name, written)
    if before != written and before.replace("-", "_") != written.replace("-", "_"):
        raise ValueError(f"{before} and {written} say the same thing twice. Give one of them.")
