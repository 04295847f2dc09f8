"""Training: recipes, the loop, schedules, checkpoints."""
