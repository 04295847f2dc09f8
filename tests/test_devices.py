"""torch's default device decides nothing: every call that makes a tensor names its device."""

import ast
from pathlib import Path

import pytest
from torch.utils._device import _device_constructors

import nip

FACTORIES = {f"torch.{function.__name__}" for function in _device_constructors()}


@pytest.mark.parametrize("path", sorted(Path(nip.__file__).parent.rglob("*.py")), ids=lambda path: path.stem)
def test_every_call_that_makes_a_tensor_names_its_device(path):
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    nameless = [
        f"{path.name}:{call.lineno} {ast.unparse(call)}"
        for call in calls
        if ast.unparse(call.func) in FACTORIES and "device" not in {keyword.arg for keyword in call.keywords}
    ]
    assert nameless == []
