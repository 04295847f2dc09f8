import pytest
import torch

from nip.models import lra
from nip.training import profile, steps


def test_the_parts_are_found_and_add_up(config, data):
    with profile.attention_named():
        found = profile.profile_step(config, data, repeats=1)
    assert set(found) == {*profile.GROUPS, "other", "step"}
    assert sum(found.values()) == pytest.approx(2 * found["step"])
    for part in ("attention", "dropout", "layer norm", "GELU", "linear maps", "embeddings", "optimizer"):
        assert found[part] > 0


def test_plainly_changes_nothing_but_the_way(config):
    before = (lra.dropout, lra.add_dropout, steps.padded_length)
    x = torch.ones(20_000)
    torch.manual_seed(0)
    with profile.plainly():
        assert steps.padded_length(3, config) == config.seq_len
        dropped = lra.add_dropout(x, x, 0.25, True)
        assert dropped.unique().tolist() == pytest.approx([1.0, 1 + 4 / 3])
        assert dropped.mean().item() == pytest.approx(2, abs=0.03)
        assert torch.equal(lra.dropout(x, 0.25, False), x)
    assert before == (lra.dropout, lra.add_dropout, steps.padded_length)
