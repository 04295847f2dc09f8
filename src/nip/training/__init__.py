"""The training engine: one loop, one step, checkpoints, optimizers and schedules; it knows no task, data or model."""
