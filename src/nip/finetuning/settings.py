"""What decides the numbers of a run: two commands that agree in it mean the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nip.finetuning.arguments import Command, described
from nip.finetuning.tokenizing import file_key

# Settings of TrainingArguments that decide a run's numbers; all others may change between two starts.
DECISIVE = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "learning_rate", "weight_decay", "adam_beta1"),
    *("adam_beta2", "adam_epsilon", "max_grad_norm", "num_train_epochs", "max_steps", "lr_scheduler_type"),
    *("lr_scheduler_kwargs", "warmup_steps", "optim", "optim_args", "seed", "data_seed", "fp16", "bf16"),
    *("label_smoothing_factor", "train_sampling_strategy", "dataloader_drop_last", "neftune_noise_alpha"),
    *("load_best_model_at_end", "metric_for_best_model", "greater_is_better", "eval_strategy", "eval_steps"),
    *("eval_delay", "full_determinism"),
)
DECISIVE_IN_RUN = ("early_stopping_patience", "early_stopping_threshold", "max_train_samples", "max_eval_samples")
DECISIVE_IN_MODEL = ("model_name_or_path", "config_name", "tokenizer_name", "model_revision", "ignore_mismatched_sizes")


def decisive(command: Command, processes: int) -> dict[str, Any]:
    """What decides the numbers of a run, as JSON values."""
    training, run, model = described(command.training), described(command.run), described(command.model)
    attention = command.attention
    free = getattr(command.task, "FREE", ())  # what a task says may change between two starts, such as a test file
    graph = {"attention": attention.attention}
    if attention.graph:
        graph = {"graph": attention.graph, "graph_file": file_key(Path(attention.graph))}
    if attention.attention_layers is not None:
        graph["attention_layers"] = attention.attention_layers
    chosen: dict[str, Any] = {
        **graph,
        "param": attention.parameters,
        "block_size": attention.block_size,
        "extend_positions": attention.extend_positions,
        **{name: model[name] for name in DECISIVE_IN_MODEL},
        **{name: value for name, value in described(command.task).items() if name not in free},
        **{name: run[name] for name in DECISIVE_IN_RUN},
        **{name: training[name] for name in DECISIVE if name in training},
    }
    if processes > 1:
        chosen["processes"] = processes
    return chosen
