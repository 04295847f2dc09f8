import importlib.metadata
import re
import tomllib
from pathlib import Path

import pytest

from nip.cli.extras import EXTRAS, extra_of

DECLARED = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]
BRINGS_NOTHING_OF_ITS_OWN = {"report", "dev"}


def distributions(package):
    """The names under which a package is installed, as requirements write them."""
    found = importlib.metadata.packages_distributions().get(package, [package])
    return {re.sub(r"[-_.]+", "-", name).lower() for name in found}


def test_extras_are_those_of_the_package():
    assert set(EXTRAS) == set(DECLARED) - BRINGS_NOTHING_OF_ITS_OWN


@pytest.mark.parametrize("name", EXTRAS)
def test_an_extra_installs_its_packages(name):
    required = {re.split(r"[<>=!~\[ ]", line)[0].lower() for line in DECLARED[name]}
    for package in EXTRAS[name].packages:
        # dask[distributed] is written as one requirement
        assert distributions(package) & required or f"[{package}]" in " ".join(DECLARED[name])


def test_the_extra_of_a_package_is_the_first_that_names_it():
    assert extra_of("rouge_score") == "finetune" and extra_of("pyarrow") == "data"
    assert extra_of("no_such_package") is None and extra_of(None) is None
