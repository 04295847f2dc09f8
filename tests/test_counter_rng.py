import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nip.counter_rng import permuted, split_mix


def test_the_outputs_are_those_of_split_mix():
    # the first outputs of the reference implementation with seed 1234567
    reference = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert split_mix(1234567, np.arange(1, 5)).tolist() == reference


@given(st.integers(1, 3000), st.integers(0, 2**40), st.integers(0, 100))
def test_every_sample_once(n, seed, epoch):
    assert sorted(permuted(np.arange(n), n, seed, epoch).tolist()) == list(range(n))


@given(st.integers(1, 2**50), st.integers(0, 9), st.data())
def test_a_place_does_not_depend_on_the_others(n, seed, data):
    places = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=9)))
    together = permuted(places, n, seed, 1)
    assert [int(permuted(np.array([place]), n, seed, 1)[0]) for place in places] == together.tolist()
    assert ((together >= 0) & (together < n)).all()


@pytest.mark.parametrize("n", [97, 256])
def test_orders_are_as_good_as_random(n):
    """Of many orders, each sample stands at each place as often as chance has it, and so do pairs of neighbours."""
    epochs = 2000
    orders = np.stack([permuted(np.arange(n), n, 3, epoch) for epoch in range(epochs)])
    for what in (orders * n + np.arange(n), orders[:, :-1] * n + orders[:, 1:]):
        counts = np.bincount(what.ravel(), minlength=n * n)
        cells = counts[counts > 0] if what.shape[1] < n else counts
        expected = what.size / (n * n if what.shape[1] == n else n * (n - 1))
        chi_square = ((cells - expected) ** 2 / expected).sum() / len(cells)
        assert abs(chi_square - 1) < 0.1
    assert len({order.tobytes() for order in orders}) == epochs
