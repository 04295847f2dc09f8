"""What a run writes to disk: its folder, record, metrics, environment and log."""
