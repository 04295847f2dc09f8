"""Stand-ins for data sets that need a download: texts that are on this machine."""
