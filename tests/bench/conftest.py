from lra_runs import config, data, one_thread  # noqa: F401
