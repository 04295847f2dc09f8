"""One suite, every backend: `pytest tests/attention --backend=gather` (or several, comma-separated; all by default)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nip.attention import backends


def pytest_addoption(parser):
    parser.addoption(
        "--backend", default=None, help="attention backends to test, comma-separated (auto too); default: all"
    )


def pytest_generate_tests(metafunc):
    if "backend" not in metafunc.fixturenames:
        return
    known = {backend.name: backend for backend in backends()}
    chosen = metafunc.config.getoption("--backend")
    names = chosen.split(",") if chosen else list(known)
    parameters = []
    for name in names:
        if name != "auto" and name not in known:
            raise pytest.UsageError(f"--backend={name}: the backends are auto, {', '.join(known)}")
        missing = name != "auto" and not known[name].available
        skip = [pytest.mark.skip(reason=f"{name}: {known[name].reason}")] if missing else []
        parameters.append(pytest.param(name, marks=skip))
    metafunc.parametrize("backend", parameters)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small tensors only: threads would fight the other test workers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def allowed():
    """Who may attend to whom, pair by pair from the pattern's rows; (batch, tokens, tokens) bool."""

    def pairs(pattern, block_size, tokens, batch, key_padding_mask=None, segment_ids=None, causal=False):
        mask = np.zeros((batch, tokens, tokens), dtype=bool)
        for i in range(pattern.n):
            for j in {i, *pattern.row(i).tolist()}:
                mask[:, i * block_size : (i + 1) * block_size, j * block_size : (j + 1) * block_size] = True
        positions = np.arange(tokens)
        if causal or pattern.causal:
            mask &= positions[:, None] >= positions
        if key_padding_mask is not None:
            mask &= key_padding_mask.numpy()[:, None, :]
        if segment_ids is not None:
            mask &= segment_ids.numpy()[:, :, None] == segment_ids.numpy()[:, None, :]
        return torch.from_numpy(mask)

    return pairs


@pytest.fixture(scope="session")
def oracle(allowed):
    """Attention as its formula says, in float64 and with nothing of nip but the pattern's rows."""

    def attention(q, k, v, pattern, block_size, *, bias=None, scale=None, **masks):
        batch, heads, tokens, head_dim = q.shape
        mask = allowed(pattern, block_size, tokens, batch, **masks)
        outs, lses = [], []
        for head in range(heads):
            kv = head * k.shape[1] // heads
            scores = torch.einsum("bid,bjd->bij", q[:, head].double(), k[:, kv].double())
            scores = scores * (head_dim**-0.5 if scale is None else scale)
            if bias is not None:
                scores = scores + bias[:, head].double()
            weights = torch.where(mask, scores, -1e300).exp()
            total = weights.sum(-1)
            some = total > 0
            safe = torch.where(some, total, 1.0)
            outs.append(torch.einsum("bij,bjd->bid", weights / safe[..., None], v[:, kv].double()))
            lses.append(torch.where(some, safe.log(), -torch.inf))
        return torch.stack(outs, 1), torch.stack(lses, 1)

    return attention
