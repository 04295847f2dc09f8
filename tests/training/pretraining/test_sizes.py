import pytest

from nip.training.pretraining.sizes import SIZES, size_of


def test_the_usual_sizes():
    assert list(SIZES) == ["tiny", "mini", "small", "medium", "base", "large"]
    assert all(size.intermediate_size == 4 * size.hidden_size for size in SIZES.values())
    assert all(size.hidden_size == 64 * size.num_attention_heads for size in SIZES.values())


def test_an_unknown_size_lists_the_known():
    with pytest.raises(ValueError, match=r"no size 'huge'\. The sizes are tiny, mini, small, medium, base, large"):
        size_of("huge")
