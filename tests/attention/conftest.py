"""One suite, every backend: `pytest tests/attention --backend=native` (repeatable, `auto` too; all by default)."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention

import attention_cases as cases
from nip.attention import backends


def pytest_addoption(parser):
    parser.addoption(
        "--backend",
        action="append",
        default=None,
        help="attention backend to test, or `all`; may be given several times, or with commas; default: all",
    )


def pytest_generate_tests(metafunc):
    if "backend" not in metafunc.fixturenames:
        return
    known = {backend.name: backend for backend in backends()}
    chosen = ",".join(metafunc.config.getoption("--backend") or ["all"]).split(",")
    names = list(dict.fromkeys(name for given in chosen for name in (known if given == "all" else [given])))
    parameters = []
    for name in names:
        if name != "auto" and name not in known:
            raise pytest.UsageError(f"--backend={name}: the backends are all, auto, {', '.join(known)}")
        missing = name != "auto" and not known[name].available
        skip = [pytest.mark.skip(reason=f"{name}: {known[name].reason}")] if missing else []
        parameters.append(pytest.param(name, marks=skip))
    metafunc.parametrize("backend", parameters)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """One thread: the tensors are small, and threads would compete with the other test workers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def uncompiled_flex(monkeypatch):
    """FlexAttention without compilation, which would take seconds for each of the many shapes; masks are the same."""
    from nip.attention import flex

    monkeypatch.setattr(flex, "_compiled", lambda: flex_attention)


@pytest.fixture(scope="session")
def allowed():
    """The allowed pairs: `attention_cases.allowed`."""
    return cases.allowed


@pytest.fixture(scope="session")
def oracle():
    """Result and log-sum-exp of attention by its formula, in float64."""

    def attention(q, k, v, pattern, block_size, *, bias=None, scale=None, **masks):
        mask = cases.allowed(pattern, block_size, q.shape[2], len(q), **masks)
        return cases.formula(q, k, v, bias, mask=mask, scale=scale)[:2]

    return attention
