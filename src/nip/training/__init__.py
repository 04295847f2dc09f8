"""The training engine: one loop, one step, checkpoints, optimizers and schedules; it knows no task, data or model."""

OPTIMIZERS = ("adam", "adamw", "lamb", "lamb-deepspeed", "adafactor", "adafactor-absolute")
"""Those of `nip.training.optimizers`; listed here because settings are read without torch."""
PRECISIONS = ("fp32", "bf16", "fp16")
"""Those of `nip.training.train_step`."""
