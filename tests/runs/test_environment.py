import platform
import subprocess
from pathlib import Path

import torch

from nip.runs.environment import changes, commit, environment


def test_it_names_what_decides_the_bits():
    here = environment(torch.device("cpu"), 1)
    assert here["python"] == platform.python_version()
    assert here["torch"] == torch.__version__
    assert here["threads"] == torch.get_num_threads()
    assert here["device"] == "cpu" and here["processes"] == 1
    assert here["processor"]
    assert changes(here, here) == []
    assert changes({**here, "processor": "abacus", "commit": "0" * 40}, here) == [
        f"processor was 'abacus' and is {here['processor']!r}"
    ]


def test_the_commit_is_git_s():
    root = Path(__file__).parents[2]
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True)
    found = commit()
    if done.returncode:  # no checkout: an archive or a wheel
        assert found is None
    else:
        assert found is not None and found.removesuffix("-dirty") == done.stdout.strip()
