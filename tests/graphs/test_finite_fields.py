import galois
import numpy as np
import pytest

from nip.graphs.finite_fields import field, prime_of


@pytest.mark.parametrize("q", [2, 3, 4, 5, 7, 8, 9, 13, 16, 25, 27])
def test_the_axioms_of_a_field(q):
    f = field(q)
    a, b, c = np.indices((q, q, q))
    for table, neutral in ((f.add, 0), (f.multiply, 1)):
        assert np.array_equal(table, table.T)
        assert np.array_equal(table[neutral], np.arange(q))
        assert np.array_equal(table[table[a, b], c], table[a, table[b, c]])
    assert np.array_equal(f.multiply[a, f.add[b, c]], f.add[f.multiply[a, b], f.multiply[a, c]])
    assert np.array_equal(f.add[f.subtract[a, b], b], a)
    assert (np.sort(f.multiply[1:, 1:], axis=1) == np.arange(1, q)).all()  # every nonzero element has an inverse


@pytest.mark.parametrize("q", [8, 9, 49])
def test_products_are_those_of_galois(q):
    theirs, numbers = galois.GF(q), np.arange(q)
    assert np.array_equal(field(q).multiply, np.multiply.outer(theirs(numbers), theirs(numbers)))
    assert np.array_equal(field(q).add, np.add.outer(theirs(numbers), theirs(numbers)))


def test_prime_powers():
    powers = {p**e: p for p in range(2, 300) if all(p % d for d in range(2, p)) for e in range(1, 9) if p**e < 300}
    assert {q: prime_of(q) for q in range(300) if prime_of(q)} == powers


def test_no_field():
    for q in (0, 1, 6, 12, 100):
        with pytest.raises(ValueError, match=f"finite field must be a prime power. Got {q}"):
            field(q)
