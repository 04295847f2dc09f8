from run_folders import demo  # noqa: F401
