import importlib.util

import pytest
import torch

from nip.bench import peers
from nip.bench.attention import prepare
from nip.bench.problem import heads_of, random_tensors
from nip.bench.rows import Case

TINY = Case("hypercube", 256, block_size=8, batch=2, heads=2, head_dim=8)  # rows of 6 blocks: 48 tokens


def attention(q, k, v, allowed):
    """Softmax attention in float64 over the allowed pairs."""
    scores = q.double() @ k.double().mT / q.shape[-1] ** 0.5
    return (scores.masked_fill(~allowed, -torch.inf).softmax(-1) @ v.double()).to(q.dtype)


def projected(problem):
    """The three projections (weight, bias) of a module, which are its first parameters, on its hidden states."""
    hidden, *weights = problem.inputs
    batch, n, width = hidden.shape
    heads = []
    for weight, bias in zip(weights[0:6:2], weights[1:6:2], strict=True):
        heads.append((hidden @ weight.T + bias).view(batch, n, TINY.heads, width // TINY.heads).transpose(1, 2))
    return heads


def merged(x):
    return x.transpose(1, 2).flatten(2)


def needs_transformers():
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("needs transformers")


def within(n, w):
    i = torch.arange(n)
    return (i[:, None] - i).abs() <= w


@pytest.mark.parametrize("n_tokens", [256, 250])
def test_torch_sparse_attends_over_the_pattern(n_tokens):
    case = Case("hypercube", n_tokens, block_size=8, batch=2, heads=2, head_dim=8)
    expected = prepare(case, "reference", "forward")()
    torch.testing.assert_close(prepare(case, "torch-sparse", "forward")(), expected)


@pytest.mark.slow
def test_flex_attends_over_its_window():
    if peers.PEERS["flex-window"].refuses(TINY, "forward"):
        pytest.skip("needs a C++ compiler")
    problem = peers.prepare("flex-window", TINY)
    w = peers.window(TINY)
    assert w == 24
    expected = attention(*heads_of(TINY), within(256, w))
    torch.testing.assert_close(problem.forward(), expected, atol=1e-5, rtol=1e-5)


def test_a_window_s_density_is_its_mask_s():
    for n, w in ((256, peers.window(TINY)), (16, peers.window(Case("softmax", 16)))):
        case = TINY if n == 256 else Case("softmax", 16)
        assert peers.PEERS["flex-window"].density(case) == pytest.approx(within(n, w).float().mean().item())


def test_longformer_attends_over_a_window_of_about_the_pattern_s_width():
    needs_transformers()
    problem = peers.prepare("hf-longformer", TINY)  # the power of two nearest to 48 is 64: 32 on either side
    expected = merged(attention(*projected(problem), within(256, 32)))
    torch.testing.assert_close(problem.forward(), expected, atol=1e-5, rtol=1e-5)


def test_longformer_is_padded_to_a_multiple_of_the_window():
    needs_transformers()
    case = Case("hypercube", 250, block_size=8, batch=2, heads=2, head_dim=8)
    assert peers.prepare("hf-longformer", case).forward().shape == (2, 256, 16)


def test_bigbird_attends_to_global_and_neighbouring_blocks():
    needs_transformers()
    problem = peers.prepare("hf-bigbird", TINY)
    blocks = torch.arange(256) // 8
    allowed = (blocks[:, None] - blocks).abs() <= 1  # with the first and last, and the first again as a random block
    allowed |= (blocks == 0) | (blocks == 31)
    q, k, v = projected(problem)
    scores = q.double() @ k.double().mT / q.shape[-1] ** 0.5
    scores[..., blocks == 0] += torch.log(torch.tensor(2.0))  # attended twice: as a global and as a random block
    shares = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    expected = merged((shares @ v.double()).to(q.dtype))
    middle = slice(2 * 8, 30 * 8)
    torch.testing.assert_close(problem.forward()[:, middle], expected[:, middle], atol=1e-5, rtol=1e-5)
    everything = torch.ones(8, 256, dtype=torch.bool)
    first = merged(attention(q[:, :, :8], k, v, everything))
    torch.testing.assert_close(problem.forward()[:, :8], first, atol=1e-5, rtol=1e-5)


def test_our_module_projects_and_attends_over_the_pattern():
    problem = peers.prepare("nip-module", TINY)
    blocks = torch.arange(256) // 8
    graph = TINY.graph()
    mask = torch.eye(32, dtype=torch.bool)
    mask[torch.tensor(graph.edge_rows), torch.tensor(graph.indices)] = True
    expected = merged(attention(*projected(problem), mask[blocks][:, blocks]))
    torch.testing.assert_close(problem.forward(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["hf-longformer", "hf-bigbird", "nip-module"])
def test_modules_give_gradients_for_hidden_states_and_the_three_projections(name):
    if name.startswith("hf"):
        needs_transformers()
    before = torch.random.get_rng_state()
    gradients = peers.prepare(name, TINY).call("backward")()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert [tuple(g.shape) for g in gradients] == [(2, 256, 16), *[(16, 16), (16,)] * 3]
    assert all(
        g.isfinite().all() and g.abs().max() > 0 for k, g in enumerate(gradients) if k != 4
    )  # not the key's bias
    torch.rand(1)  # weights and inputs do not depend on the state of the global generator
    torch.testing.assert_close(peers.prepare(name, TINY).call("backward")(), gradients)


@pytest.mark.parametrize(
    ("name", "changes", "direction", "reason"),
    [
        ("flex-window", {}, "backward", "no backward pass on a CPU"),
        ("flex-window", {"dtype": "float64"}, "forward", "does not support float64"),
        ("torch-sparse", {}, "forward+backward", "dense gradients"),
        ("torch-sparse", {"dtype": "bfloat16"}, "forward", "does not support bfloat16"),
        ("hf-bigbird", {"n_tokens": 2**15}, "forward", "it materializes all probabilities, 16 GiB at 32,768 tokens"),
        ("hf-bigbird", {"n_tokens": 32}, "forward", "with 1 random blocks it needs more than 7 blocks"),
    ],
)
def test_what_a_peer_cannot_do_it_refuses_with_a_reason(name, changes, direction, reason):
    case = Case(**{**vars(TINY), **changes})
    assert reason in peers.PEERS[name].refuses(case, direction)


def test_without_a_compiler_or_transformers_a_peer_names_what_it_needs(monkeypatch):
    monkeypatch.setattr(peers.shutil, "which", lambda name: None)
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    assert "needs a C++ compiler" in peers.PEERS["flex-window"].refuses(TINY, "forward")
    for name in ("hf-longformer", "hf-bigbird"):
        assert "pip install transformers" in peers.PEERS[name].refuses(TINY, "forward")


def test_random_tensors_are_the_same_every_time():
    first, second = (random_tensors(TINY, 2, 3, 4) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert not torch.equal(*first)
