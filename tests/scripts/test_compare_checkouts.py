"""The comparison of two checkouts, on small folders."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

SCRIPT = Path(__file__).parents[2] / "scripts" / "compare_checkouts.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("compare_checkouts", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def write_run(folder, *, loss=0.5, weight=1.0, seconds=3.0, says="after 2 steps", **more):
    (folder / "best").mkdir(parents=True)
    tensors = {"a.weight": np.full((2, 3), weight, np.float32), "b": np.arange(4)}
    save_file(tensors, folder / "best" / "model.safetensors", metadata={"seconds": str(seconds)})
    rows = [{"step": 1, "loss": 0.75, "seconds": seconds}, {"step": 2, "loss": loss, "tokens_per_second": seconds}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = {"accuracy": 0.25, "best": {"step": 2}, "peak_mib": seconds, "says": says, **more}
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "report.html").write_text(str(seconds))
    (folder / "run.lock").write_text("")
    (folder / "MRPC.tsv").write_text("index\tprediction\n0\t1\n")
    return folder


def test_times_and_words_are_no_difference(script, tmp_path):
    says = {1: "2 steps, then none", 2: "none after 2 steps"}
    one, other = (script.facts_of(write_run(tmp_path / str(n), seconds=n, says=says[n])) for n in says)
    assert one == other and script.differences(one, other) == {}
    assert one["result.json:best.step"] == "2" and one["metrics.jsonl:1.loss"] == "0.5"
    assert one["report.html"] == "exists" and len(one["MRPC.tsv"]) == 64
    assert {name for name in one if "safetensors:" in name} == {
        "best/model.safetensors:a.weight F32 [2, 3]",
        "best/model.safetensors:b I64 [4]",
    }


def test_a_weight_a_loss_and_a_file_are(script, tmp_path):
    one = script.facts_of(write_run(tmp_path / "one"))
    other = script.facts_of(write_run(tmp_path / "other", loss=0.5000001, weight=1.0000001))
    (tmp_path / "one" / "pattern.npz").write_bytes(b"x")
    found = script.differences(script.facts_of(tmp_path / "one"), other)
    assert all(found.values())
    assert [line.split(": ")[0] for line in found] == [
        "best/model.safetensors:a.weight F32 [2, 3]",
        "metrics.jsonl:1.loss",
        "pattern.npz",
    ]
    assert script.differences(one, other, ignore=["*.safetensors:*", "metrics.jsonl:*.loss"]) == {}


def test_a_field_on_one_side(script, tmp_path):
    one = script.facts_of(write_run(tmp_path / "one"))
    other = script.facts_of(write_run(tmp_path / "other", rank=3))
    line = "result.json:rank: field only in new"
    assert script.differences(one, other) == {line: True}
    said = script.facts_of(write_run(tmp_path / "said", says="after 3 steps"))
    assert script.differences(one, said) == {"result.json:says: 2 became 3": True}
    assert script.differences(one, other, new_fields=True) == {line: False}
    assert script.differences(other, one, new_fields=True) == {"result.json:rank: field only in old": True}


def test_cases(script):
    text = "N = --json\na: first\n  x\nb < a: second, of two\n  y {1,2}\n    $N --out {p,q}\n  > z\n"
    cases = script.read_cases(text)
    assert cases["b"] == script.Case("second, of two", ["a"], ["y 1 --json --out p", "y 2 --json --out q", "> z"])
    known = script.read_cases(script.CASES)
    assert all(set(case.needs) <= set(list(known)[:i]) for i, case in enumerate(known.values()))
    assert list(script.chosen(["glue-files"])) == ["data-corpus", "pretrain-stages", "glue-files"]
    with pytest.raises(ValueError, match="There is no case 'chess'"):
        script.chosen(["chess"])


def test_a_side_runs_a_case_once(script, tmp_path, capsys, monkeypatch):
    package = tmp_path / "checkout" / "src" / "nip"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    with pytest.raises(ValueError, match="has no compiled kernel"):
        script.Side(tmp_path / "checkout", tmp_path / "side")
    (package / "kernel.so").write_text("")
    side = script.Side(tmp_path / "checkout", tmp_path / "side")
    ran = []

    def run(words, folder, printed, said):
        ran.append(words)
        printed.write_text('{"score": 1}')
        said.write_text("")
        return 0, 0.5

    monkeypatch.setattr(side, "run", run)
    inputs = tmp_path / "inputs" / "graph"
    inputs.mkdir(parents=True)
    cases = script.read_cases("a: first\n  score x --json\nb < a: second\n  scripts/search.py ../../inputs/graph\n")
    for _ in range(2):
        left = side.leave_all(cases, inputs.parent, 1)
    assert ran == [
        ["-m", "nip", "score", "x", "--json"],
        [str(tmp_path / "checkout" / "scripts" / "search.py"), "../../inputs/graph"],
    ]
    facts = script.facts_of(left["a"])
    assert facts["printed-1.json:score"] == "1" and facts["exit-code-1.txt"] == "0"
    (inputs / "edges.txt").write_text("0 1")
    side.leave_all(cases, inputs.parent, 1)
    assert len(ran) == 3
    (package / "__init__.py").write_text("VERSION = 2")
    side.version = script.Side(tmp_path / "checkout", tmp_path / "side").version
    side.leave_all(cases, inputs.parent, 1)
    assert len(ran) == 5
