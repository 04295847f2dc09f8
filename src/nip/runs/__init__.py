"""What every run leaves on disk: its folder, record, environment and log."""
