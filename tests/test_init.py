"""A plain installation without extras."""

import subprocess
import sys

import pytest

# A finder placed first that hides the packages of the extras.
WITHOUT_EXTRAS = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "numba", "accelerate", "safetensors", "filelock"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
"""


def run(code):
    return subprocess.run([sys.executable, "-c", WITHOUT_EXTRAS + code], capture_output=True, text=True, check=False)


def test_scores_without_any_extra():
    done = run("import nip; s = nip.score(nip.pattern('hypercube', 2048)); print(round(s.nip_relative, 4), s.method)")
    assert done.stdout.startswith("4.8449 exact, block graph, vectorized"), done.stderr


def test_attend_names_the_extra_to_install():
    done = run("import nip; nip.attend")
    assert done.stderr.strip().endswith("ImportError: nip.attend needs torch: pip install 'nip[attention]'")


@pytest.mark.parametrize(
    ("command", "extra"),
    [("bench attention", "attention"), ("data listops --out {folder}", "fast"), ("lra --data {folder}", "")],
)
def test_commands_name_the_extra_to_install(command, extra, tmp_path):
    arguments = command.format(folder=tmp_path).split()
    done = run(f"from nip.cli import main; main({arguments!r})")
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"pip install 'nip[{extra}" in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_names_are_attribute_errors():
    import nip

    with pytest.raises(AttributeError, match="no attribute 'tesseract'"):
        nip.tesseract  # noqa: B018
    assert {"attend", "score", "pattern"} <= set(dir(nip))
