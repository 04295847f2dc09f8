import pytest

from nip.data import Rule, generate


@pytest.fixture(scope="session")
def small():
    """A small set: 300, 40 and 50 short expressions."""
    return generate(Rule(min_length=10, max_length=80), (300, 40, 50), seed=5)
