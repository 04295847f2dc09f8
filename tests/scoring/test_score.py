import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nip
from nip.graphs import Pattern, lift, pattern, to_mask
from nip.scoring import score
from nip.scoring.score import log10_complete_nip
from strategies import any_patterns


@given(any_patterns(), st.integers(1, 4))
def test_fields_fit_together(p, b):
    s = score(p, b)
    assert (s.n_vertices, s.block_size, s.n_tokens) == (p.n, b, p.n * b)
    assert s.density == pytest.approx(to_mask(lift(p, b)).mean())
    assert s.connected == math.isfinite(s.diameter)
    if s.n_tokens == 1:
        assert s.nip is s.nip_relative is s.log10_nip is s.bottleneck_nip is s.payload is s.worst_pair is None
    elif not s.connected:
        assert s.nip == s.payload == s.nip_relative == s.bottleneck_nip == 0
        assert s.log10_nip == -math.inf
        assert s.worst_path is None
    else:
        assert s.nip == pytest.approx(s.payload / s.cost)
        assert s.cost == pytest.approx(s.mean_degree * s.diameter)
        assert s.log10_nip == pytest.approx(math.log10(s.nip))
        assert s.log10_nip_relative == pytest.approx(math.log10(s.nip_relative), abs=1e-9)
        assert s.bottleneck_nip <= s.nip * (1 + 1e-9)


@given(any_patterns(), st.integers(1, 4))
def test_valid_json(p, b):
    record = score(p, b).to_dict()
    text = json.dumps(record, allow_nan=False)
    assert json.loads(text).keys() == record.keys()
    if not score(p, b).connected:
        assert record["diameter"] is record["cost"] is record["log10_nip"] is None


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("n", "b"), [(2, 1), (9, 1), (1, 4), (5, 3)])
def test_relative_to_the_complete_graph(n, b, causal):
    s = score(pattern("softmax", n, causal=causal), b)
    assert s.nip_relative == pytest.approx(1)
    assert s.bottleneck_nip_relative == pytest.approx(1)
    assert s.log10_nip == pytest.approx(log10_complete_nip(n * b, causal=causal))


def test_method_names_what_counts_as_a_pair():
    assert "undirected: all pairs" in score(pattern("hypercube", 8)).method
    assert "flows from attended to attending" in score(pattern("bigbird", 30)).method
    assert "later attends to earlier" in score(pattern("hypercube", 8, causal=True)).method


def test_a_large_random_pattern_is_not_connected():
    s = score(pattern("random", 128))
    assert (s.nip, s.connected, s.diameter) == (0, False, math.inf)
    assert not Pattern.from_edges(3, [0], [1]).symmetric


@pytest.mark.parametrize("block_size", [0, -3, 2.0, "16", True])
def test_refuses_a_bad_block_size(block_size):
    with pytest.raises(ValueError, match="'block_size' parameter of score must be an integer of at least 1"):
        nip.score(pattern("hypercube", 8), block_size=block_size)


def test_underflow_keeps_the_logarithm():
    s = score(pattern("local", 1200))
    assert s.nip == 0.0
    assert s.connected
    assert s.log10_nip < -350


def test_graphs_and_scores_do_not_load_torch():
    code = "import sys, nip; nip.score(nip.pattern('hypercube', 8)); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("block_size", [np.int64(16), np.uint8(16)])
def test_numpy_integers_give_the_same_score(block_size):
    graph = pattern("random", np.int64(8), seed=np.int64(3))
    plain = score(pattern("random", 8, seed=3), 16)
    assert json.dumps(score(graph, block_size).to_dict()) == json.dumps(plain.to_dict())
