import dataclasses
import math

import pytest

from nip.attention import BACKENDS
from nip.bench import agreement
from nip.bench.agreement import PROBLEMS, TOLERANCE, Agreement, agreements


def test_a_right_backend_agrees_in_results_and_gradients():
    found = list(agreements("gather", "cpu", ["float32"], head_dim=16))
    assert len(found) == len(PROBLEMS)
    for check in found:
        assert check.holds, str(check)
        assert check.errors.keys() == {"out", "lse", "dq", "dk", "dv"}
        assert 0 < check.worst < TOLERANCE["float32"] / 10


@pytest.fixture
def fewer(monkeypatch):
    monkeypatch.setattr(agreement, "PROBLEMS", PROBLEMS[4:])


def test_half_precision_is_compared_with_what_its_own_inputs_give(fewer):
    assert all(check.holds for check in agreements("gather", "cpu", ["bfloat16", "float16"], head_dim=16))


@pytest.mark.parametrize("fault", ["a factor", "a block left out", "not a number"])
def test_a_wrong_backend_does_not(fault, fewer, monkeypatch):
    gather = BACKENDS["gather"]

    def wrong(q, k, v, layout, options):
        out, lse = gather.run(q, k, v, layout, options)
        if fault == "a factor":
            return out * 1.01, lse
        if fault == "not a number":
            return out + math.nan, lse
        width = v.shape[2]
        v = v.clone()
        v[:, :, width // 2 : width // 2 + layout.block_size] = 0
        return gather.run(q, k, v, layout, options)

    monkeypatch.setitem(BACKENDS, "gather", dataclasses.replace(gather, run=wrong))
    found = list(agreements("gather", "cpu", ["float32"], head_dim=16))
    assert not any(check.holds for check in found)


def test_only_results_are_compared_where_there_are_no_gradients(fewer):
    checks = agreements("gather", "cpu", ["float32"], head_dim=8, gradients=False)
    assert all(check.errors.keys() == {"out"} and check.holds for check in checks)


def test_the_string_describes_the_comparison():
    check = Agreement("hypercube of 8 tokens", "float32", {"out": 2e-3, "dq": 1e-6})
    assert str(check) == "hypercube of 8 tokens in float32: out 0.002, dq 1e-06; allowed 1e-04"
    assert not check.holds
