import json
import platform

import pytest
import torch

import nip
from nip.cli import doctor, main
from nip.cli.extras import Extra


def test_doctor_lists_what_is_installed(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--json"])
    assert not stop.value.code
    found = json.loads(capsys.readouterr().out)
    assert (found["nip"], found["python"]) == (nip.__version__, platform.python_version())
    assert {backend["name"] for backend in found["backends"]} >= {"reference", "gather"}
    assert all(backend["reason"] for backend in found["backends"])
    assert found["torch_threads"] >= 1
    q = torch.empty(4, 4, 2048, 32, requires_grad=True)
    choice = nip.explain(q, q, q, nip.pattern("hypercube", 128))
    assert (found["auto"][0]["device"], found["auto"][0]["backend"]) == ("cpu", choice.backend)
    assert found["auto"][0]["reason"] == choice.reason


def test_doctor_prints_how_to_install_what_is_missing(capsys, monkeypatch):
    monkeypatch.setitem(doctor.EXTRAS, "fast", Extra("score faster", ("no_such_package",)))
    with pytest.raises(SystemExit):
        main(["doctor"])
    out = " ".join(capsys.readouterr().out.split())
    assert "pip install" in out
    assert "'nip[fast]'" in out
