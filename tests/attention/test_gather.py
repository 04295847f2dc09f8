"""Guarantees of gather only: memory proportional to the attended blocks, and bit-identical results on every run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import nip
from nip.attention import gather

MEASURE = """
import ctypes, json, sys, torch, nip
from pathlib import Path
torch.set_num_threads(1)
def peak(name, tokens, backend):
    q, k, v = (torch.randn(1, 1, tokens, 16, requires_grad=True) for _ in range(3))
    pattern = nip.pattern(name, -(-tokens // 16))
    ctypes.CDLL(None).malloc_trim(0)  # otherwise memory freed earlier would be reused without being counted
    Path("/proc/self/clear_refs").write_text("5")  # reset the high-water mark
    before = status("VmRSS")
    nip.attend(q, k, v, pattern, 16, backend=backend).sum().backward()
    return status("VmHWM") - before
def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
peak("hypercube", 512, "gather")  # loads libraries
print(json.dumps([peak(*case) for case in json.loads(sys.argv[1])]))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's memory counters")
def test_memory_is_that_of_the_attended_blocks():
    cases = [(name, tokens, "gather") for name in ("longformer", "bigbird") for tokens in (4096, 16384)]
    cases.append(("longformer", 4096, "reference"))
    process = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(cases)], capture_output=True, text=True, check=True
    )
    peaks = dict(zip(cases, json.loads(process.stdout), strict=True))
    scores = 4 * 16384**2  # bytes of one dense score matrix at that length: 1 GiB
    for name in ("longformer", "bigbird"):
        pattern = nip.pattern(name, 1024)
        attended = 4 * 16**2 * (pattern.n_edges + pattern.n)  # bytes of the attended scores
        # In addition to the scores: tensors of tokens · head_dim (result, gradients) and one chunk of panels.
        assert peaks[name, 16384, "gather"] < attended + 32 * 2**20 < scores / 10
        # Four times the tokens, about four times the blocks: the growth is not sixteenfold.
        assert peaks[name, 16384, "gather"] < 6 * peaks[name, 4096, "gather"] + 4 * 2**20
    # The measurement does detect dense attention: at least one score matrix.
    assert peaks["longformer", 4096, "reference"] > 4 * 4096**2


@pytest.mark.parametrize("name", ["hypercube", "bigbird"])
def test_every_run_gives_the_same_bits(name):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        generator = torch.Generator().manual_seed(0)
        q, k, v = (torch.randn(2, h, 600, 16, generator=generator, requires_grad=True) for h in (4, 2, 2))
        bias = torch.randn(1, 4, 600, 600, generator=generator, requires_grad=True)
        real = torch.arange(600) < torch.tensor([[600], [333]])
        results = []
        for _ in range(3):
            torch.manual_seed(7)
            out, lse = nip.attend(
                q, k, v, nip.pattern(name, 38), 16, real, bias=bias, dropout_p=0.1, return_lse=True, backend="gather"
            )
            gradients = torch.autograd.grad((out * out).sum() + lse.sum(), (q, k, v, bias))
            results.append((out, lse, *gradients))
    finally:
        torch.set_num_threads(before)
    for again in results[1:]:
        assert all(torch.equal(first, second) for first, second in zip(results[0], again, strict=True))


def test_the_size_of_a_chunk_changes_nothing_but_rounding(monkeypatch):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, 200, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    real = torch.arange(200) < torch.tensor([[200], [90]])

    def run():
        out = nip.attend(q, k, v, nip.pattern("bigbird", 13), 16, real, backend="gather")
        return out, *torch.autograd.grad(out.square().sum(), (q, k, v))

    whole = run()
    monkeypatch.setitem(gather.PANEL_BYTES, "cpu", 1)  # a chunk for every row
    for one, other in zip(whole, run(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("with_lse", [False, True])
def test_rows_that_no_gradient_reaches_are_left_out_of_the_backward_pass(oracle, with_lse, monkeypatch):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, 2, 100, 8, dtype=torch.float64, requires_grad=True) for _ in range(3))
    real = torch.arange(100) < torch.tensor([[100], [40]])
    pattern = nip.pattern("hypercube", 7)
    weights = torch.randn(2, 2, 100, 8, dtype=torch.float64) * real[:, None, :, None]
    out, lse = nip.attend(q, k, v, pattern, 16, real, return_lse=True, backend="gather")
    expected_out, expected_lse = oracle(q, k, v, pattern, 16, key_padding_mask=real)
    lse_weights = weights[..., 0] + (torch.arange(100) == 50)  # the log-sum-exp of one padding query has a gradient
    visited = []
    rows = gather._Rows.scores
    monkeypatch.setattr(gather._Rows, "scores", lambda self, g, q, k: visited.extend(q.tolist()) or rows(self, g, q, k))
    loss, expected = (out * weights).sum(), (expected_out * weights).sum()
    if with_lse:
        loss, expected = loss + (lse * lse_weights).sum(), expected + (expected_lse * lse_weights).sum()
    gradients = torch.autograd.grad(loss, (q, k, v))
    for gradient, right in zip(gradients, torch.autograd.grad(expected, (q, k, v)), strict=True):
        torch.testing.assert_close(gradient, right, rtol=1e-10, atol=1e-10)
    per_head = [7, 3 + with_lse]  # blocks with a gradient in the first and in the second sequence
    assert len(visited) == len(set(visited)) == 2 * sum(per_head)
