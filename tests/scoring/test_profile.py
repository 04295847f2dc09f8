from collections import defaultdict
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nip.graphs import lift
from nip.scoring import payload_by_distance
from nip.scoring.payload import information
from strategies import any_patterns


@given(any_patterns(6), st.integers(1, 3))
def test_equals_the_definition_on_the_token_graph(p, b):
    tokens = lift(p, b)
    expected = defaultdict(list)
    for a in range(tokens.n):
        distance, arrived = information(tokens, a)
        for target, k in distance.items():
            if k:
                expected[k].append(arrived[target])
    rows = payload_by_distance(p, b)
    assert [row.distance for row in rows] == sorted(expected)
    for row in rows:
        values = expected[row.distance]
        assert row.pairs == len(values)
        assert 10**row.log10_least == pytest.approx(float(min(values)))
        assert 10**row.log10_greatest == pytest.approx(float(max(values)))
        assert 10**row.log10_mean == pytest.approx(float(sum(values, Fraction(0)) / len(values)))
