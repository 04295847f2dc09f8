"""Rotary positions against complex multiplication, and the property that they are for."""

import cmath
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from nip.models.rotary import rotate, rotations


def turned_by_hand(vector, angles):
    """A vector whose pairs (j, j + d/2) are complex numbers, each multiplied by e^(i angle)."""
    pairs = len(vector) // 2
    numbers = [complex(vector[j], vector[j + pairs]) * cmath.exp(1j * angles[j]) for j in range(pairs)]
    return torch.tensor([z.real for z in numbers] + [z.imag for z in numbers])


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("head_dim", [2, 6, 16])
def test_a_sequence_by_complex_numbers(head_dim):
    x = draw(9, head_dim)
    pairs = head_dim // 2
    expected = [turned_by_hand(x[t].tolist(), [t / 10_000 ** (j / pairs) for j in range(pairs)]) for t in range(len(x))]
    assert_close(rotate(x, rotations(9, head_dim)), torch.stack(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("head_dim", [4, 16])
def test_an_image_by_complex_numbers(head_dim):
    # half of the pairs by the row, half by the column
    x = draw(14, head_dim)
    each = head_dim // 4
    speeds = [1 / 100 ** (j / each) for j in range(each)]
    expected = []
    for t in range(len(x)):
        row, column = divmod(t, 5)
        angles = [row * speed for speed in speeds] + [column * speed for speed in speeds]
        expected.append(turned_by_hand(x[t].tolist(), angles))
    assert_close(rotate(x, rotations(14, head_dim, columns=5)), torch.stack(expected), atol=1e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(one=st.integers(0, 200), other=st.integers(0, 200), shift=st.integers(0, 300), seed=st.integers(0, 99))
def test_scores_depend_on_the_difference_of_positions_alone(one, other, shift, seed):
    q, k = draw(2, 16, seed=seed)
    turned = rotations(501, 16)

    def score(at_q, at_k):
        return (rotate(q.expand(501, 16), turned)[at_q] * rotate(k.expand(501, 16), turned)[at_k]).sum()

    assert_close(score(one, other), score(one + shift, other + shift), atol=1e-3, rtol=1e-3)


@settings(max_examples=40, deadline=None)
@given(
    places=st.tuples(*[st.integers(0, 15)] * 4),
    down=st.integers(0, 16),
    right=st.integers(0, 16),
    seed=st.integers(0, 99),
)
def test_scores_of_pixels_depend_on_both_differences_alone(places, down, right, seed):
    q, k = draw(2, 16, seed=seed)
    turned = rotations(32 * 32, 16, columns=32)
    row_q, column_q, row_k, column_k = places

    def score(down, right):
        at_q, at_k = 32 * (row_q + down) + column_q + right, 32 * (row_k + down) + column_k + right
        return (rotate(q.expand(1024, 16), turned)[at_q] * rotate(k.expand(1024, 16), turned)[at_k]).sum()

    assert_close(score(0, 0), score(down, right), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("columns", [None, 32])
def test_scores_do_depend_on_the_difference(columns):
    q, k = draw(2, 16)
    turned = rotations(1024, 16, columns=columns)
    scores = rotate(q.expand(1024, 16), turned) @ rotate(k.expand(1024, 16), turned)[500]
    around = scores[[500, 501, 499, 532, 468, 533]]  # itself, then each way of being a neighbour
    assert len({round(float(score), 3) for score in around}) == 6


@pytest.mark.parametrize("columns", [None, 7])
def test_lengths_of_vectors_stay_and_the_first_is_not_turned(columns):
    x = draw(3, 2, 40, 8)
    turned = rotate(x, rotations(40, 8, columns=columns))
    assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[:, :, 0], x[:, :, 0])


def test_dtypes():
    x = draw(5000, 8)
    turned = rotations(5000, 8)
    halves = rotate(x.bfloat16(), turned)
    assert halves.dtype == torch.bfloat16
    # rounded at the end only: computed in bf16, position 4,999 would be off by radians
    assert torch.equal(halves, rotate(x.bfloat16().float(), turned).bfloat16())
    assert rotate(x.double(), turned).dtype == torch.float64


def test_dimensions_that_cannot_be_paired():
    with pytest.raises(ValueError, match=r"must be a multiple of 2 for a sequence\. Got 7 instead"):
        rotations(4, 7)
    with pytest.raises(ValueError, match=r"must be a multiple of 4 for an image\. Got 6 instead"):
        rotations(4, 6, columns=2)
    with pytest.raises(ValueError, match="'columns' parameter of rotations must be an integer of at least 1"):
        rotations(4, 8, columns=0)
    assert math.isclose(float(rotations(2, 8)[0][1, 0]), math.cos(1), rel_tol=1e-6)


def test_another_default_device_changes_nothing():
    x, cpu = draw(9, 8), torch.device("cpu")
    expected = rotate(x, rotations(9, 8, columns=3, device=cpu))
    with torch.device("meta"):  # whose tensors have no values
        assert torch.equal(rotate(x, rotations(9, 8, columns=3, device=cpu)), expected)
