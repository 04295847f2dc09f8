from lra_runs import config, data  # noqa: F401
from run_folders import demo  # noqa: F401
