import json
import platform

import pytest

import nip
from nip.cli import doctor, main


def test_doctor_says_what_is_there(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--json"])
    assert not stop.value.code
    found = json.loads(capsys.readouterr().out)
    assert (found["nip"], found["python"]) == (nip.__version__, platform.python_version())
    assert {backend["name"] for backend in found["backends"]} >= {"reference", "gather"}
    assert all(backend["reason"] for backend in found["backends"])
    assert found["torch_threads"] >= 1


def test_doctor_says_what_to_type_for_what_is_missing(capsys, monkeypatch):
    monkeypatch.setitem(doctor.EXTRAS, "fast", ("no_such_package", "score faster"))
    with pytest.raises(SystemExit):
        main(["doctor"])
    out = " ".join(capsys.readouterr().out.split())
    assert "pip install" in out
    assert "'nip[fast]'" in out
