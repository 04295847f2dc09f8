from lra_runs import any_data, comparable_fixture, config, data, one_thread, runner, small  # noqa: F401
