from __future__ import annotations

import pytest

from run_folders import write_three_runs


@pytest.fixture
def demo(tmp_path):
    """A folder of three runs: one that learnt, one that did not, one that was cut off while it wrote."""
    return write_three_runs(tmp_path / "demo")
