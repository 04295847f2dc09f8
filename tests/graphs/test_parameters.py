"""Parameters on a command line."""

import pytest

from nip.graphs.parameters import read_parameters


def test_parameters_are_read_as_json_or_text():
    assert read_parameters(["a=1", "b=true", "c=True", "d=x y"]) == {"a": 1, "b": True, "c": True, "d": "x y"}
    with pytest.raises(ValueError, match="twice"):
        read_parameters(["a=1", "a=2"])
