"""ListOps: the language, its generator and the official files."""
