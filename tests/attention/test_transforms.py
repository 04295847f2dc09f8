"""Attention under torch's transforms: vmap, torch.func, export, autocast, checkpointing, second derivatives."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

import attention_cases as cases
import nip
from nip import graphs
from nip.attention import flex, native
from nip.attention.layout import block_layout

pytestmark = pytest.mark.usefixtures("uncompiled_flex")
compiled = pytest.mark.skipif(native.missing() is not None, reason=str(native.missing()))


@pytest.fixture
def call(backend):
    call = cases.simple(60, kv_heads=1)
    if call.refusal(backend):
        pytest.skip(call.refusal(backend))
    return call


def test_vmap_equals_one_call_after_another(backend, call):
    q = torch.randn(3, *call.q.shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
    real = torch.arange(60) < torch.tensor([[60], [33]])

    def one(q, v):
        return nip.attend(q, call.k, v, call.pattern, 16, real, backend=backend)

    v = torch.stack([call.v, 2 * call.v], -1).detach().requires_grad_()  # mapped over its last dimension
    mapped = torch.func.vmap(torch.func.vmap(one, (None, -1)), (0, None))(q, v)
    single = torch.stack([torch.stack([one(x, y) for y in v.unbind(-1)]) for x in q])
    torch.testing.assert_close(mapped, single, rtol=1e-5, atol=1e-6)
    weights = torch.randn(single.shape, generator=torch.Generator().manual_seed(2))
    inputs = (q, call.k, v)
    gradients = torch.autograd.grad((mapped * weights).sum(), inputs)
    for x, y in zip(gradients, torch.autograd.grad((single * weights).sum(), inputs), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


MAPPED = {
    "key_padding_mask": torch.arange(60) < torch.tensor([[[60], [33]], [[20], [60]]]),
    "segment_ids": torch.arange(60).expand(2, 2, 60) // torch.tensor([[[20], [7]], [[60], [31]]]),
}


@pytest.mark.parametrize("name", MAPPED)
def test_vmap_over_masks_is_right_or_refused(backend, name):
    call = cases.simple(60, kv_heads=1)
    q, k, v = (x.detach() for x in call.inputs)

    def one(q, mask):
        return nip.attend(q, k, v, call.pattern, 16, **{name: mask}, backend=backend)

    qs = torch.stack([q, -q])
    try:
        mapped = torch.func.vmap(one)(qs, MAPPED[name])
    except NotImplementedError as error:
        assert backend in {"gather", "flex"}
        assert "that torch.func.vmap maps. Pass backend='reference' to attend, which does." in str(error)
        return
    torch.testing.assert_close(mapped, torch.stack([one(*each) for each in zip(qs, MAPPED[name], strict=True)]))
    total = torch.func.vmap(torch.func.grad(lambda q, mask: one(q, mask).sin().sum()))(qs, MAPPED[name])
    assert total.shape == qs.shape


def test_torch_func_grad_is_the_gradient(backend, call):
    def loss(q, k, v):
        return nip.attend(q, k, v, call.pattern, 16, backend=backend).sin().sum()

    plain = torch.autograd.grad(loss(*call.inputs), call.inputs)
    found = torch.func.grad(loss, (0, 1, 2))(*(x.detach() for x in call.inputs))
    assert all(torch.equal(x, y) for x, y in zip(found, plain, strict=True))


def test_forward_mode_is_right_or_refused(backend, call):
    tangent = torch.randn(call.q.shape, generator=torch.Generator().manual_seed(1))

    def result(q):
        return nip.attend(q, call.k.detach(), call.v.detach(), call.pattern, 16, backend=backend)

    q = call.q.detach()
    try:
        found = torch.func.jvp(result, (q,), (tangent,))[1]
    except NotImplementedError as error:
        assert str(error) == (
            f"The attention backend {backend!r} does not compute forward-mode derivatives. Pass backend='reference' to "
            "attend, which does."
        )
        return
    assert backend == "reference"
    step = 1e-2
    torch.testing.assert_close(
        found, (result(q + step * tangent) - result(q - step * tangent)) / (2 * step), rtol=1e-2, atol=1e-3
    )


def test_second_derivatives_are_right_or_refused(backend, call):
    def gradient(q, **options):
        return torch.autograd.grad(call_with(q).square().sum(), q, **options)[0]

    def call_with(q):
        return nip.attend(q, call.k, call.v, call.pattern, 16, backend=backend)

    first = gradient(call.q, create_graph=True)
    direction = torch.randn(call.q.shape, generator=torch.Generator().manual_seed(1))
    try:
        (first * direction).sum().backward()
    except NotImplementedError as error:
        assert str(error) == (
            f"The attention backend {backend!r} does not compute second derivatives. Pass backend='reference' to "
            "attend, which does."
        )
        return
    assert backend == "reference"
    q, step = call.q.detach(), 1e-2
    ahead, behind = (gradient((q + sign * step * direction).requires_grad_()) for sign in (1, -1))
    torch.testing.assert_close(call.q.grad, (ahead - behind) / (2 * step), rtol=1e-2, atol=1e-2)


def test_second_derivatives_of_a_linear_loss_are_not_taken_for_zero(backend, call):
    """The gradients of its result are constants, but those of q depend on q: torch's own check passes them over."""
    weight = torch.eye(16, requires_grad=True)

    def penalty(linear):
        out = nip.attend(call.q @ weight, call.k, call.v, call.pattern, 16, backend=backend)
        loss = out.sum() if linear else out.cos().sum()
        (gradient,) = torch.autograd.grad(loss, call.q, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), weight)[0]

    for linear in (True, False):
        if backend == "reference":
            assert penalty(linear).abs().max() > 0
            continue
        with pytest.raises(NotImplementedError, match=f"{backend!r} does not compute second.*backend='reference'"):
            penalty(linear)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients(backend, call, reentrant):
    def loss(q, k, v):
        return nip.attend(q, k, v, call.pattern, 16, backend=backend).square().sum()

    plain = torch.autograd.grad(loss(*call.inputs), call.inputs)
    leaves = [x.detach().requires_grad_() for x in call.inputs]
    checkpoint(loss, *leaves, use_reentrant=reentrant).backward()
    assert all(torch.equal(x.grad, y) for x, y in zip(leaves, plain, strict=True))


class Layer(torch.nn.Module):
    """Projections and attention, as in a model."""

    def __init__(self, pattern, backend):
        super().__init__()
        self.pattern, self.backend = pattern, backend
        self.qkv = torch.nn.Linear(32, 96)

    def forward(self, x, real):
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 2, 16).permute(2, 0, 3, 1, 4).unbind()
        return nip.attend(q, k, v, self.pattern, 16, real, backend=self.backend).transpose(1, 2)


@pytest.mark.parametrize(("name", "tokens"), [("native", 100), ("auto", 100), ("auto", 2000)])
def test_an_exported_model_gives_the_same_result_and_gradients(name, tokens, tmp_path):
    if name == "native" and native.missing():
        pytest.skip(native.missing())
    layer = Layer(nip.pattern("hypercube", -(-tokens // 16)), name)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(2, tokens, 32, generator=rng)
    real = torch.arange(tokens) < torch.tensor([[tokens], [tokens // 2]])
    program = torch.export.export(layer, (x, real))
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    expected = layer(x, real)
    others = torch.randn(2, tokens, 32, generator=rng), real.flip(0)
    assert torch.equal(loaded(x, real), expected)
    assert torch.equal(loaded(*others), layer(*others))
    expected.square().sum().backward()
    weight = dict(loaded.named_parameters())["qkv.weight"]
    loaded(x, real).square().sum().backward()
    torch.testing.assert_close(weight.grad, layer.qkv.weight.grad)


def test_under_autocast_dtypes_are_those_of_torchs_own_attention(backend):
    q, k, v = (x.detach() for x in cases.simple(64).inputs)
    gradients_too = cases.takes(backend, torch.bfloat16)
    if not cases.takes(backend, torch.bfloat16, gradients=False):
        with torch.autocast("cpu", torch.bfloat16), pytest.raises(ValueError, match="cannot compute this"):
            nip.attend(q, k, v, nip.pattern("hypercube", 4), backend=backend)
        return
    for dtypes in (
        (torch.float32,) * 3,
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float32, torch.float32, torch.float16),
        (torch.float64,) * 3,
    ):
        inputs = [x.to(dtype).requires_grad_(gradients_too) for x, dtype in zip((q, k, v), dtypes, strict=True)]
        with torch.autocast("cpu", torch.bfloat16):
            theirs = scaled_dot_product_attention(*inputs)
            if not cases.takes(backend, theirs.dtype, gradients=gradients_too):
                continue
            out = nip.attend(*inputs, nip.pattern("softmax", 4), backend=backend)
        assert out.dtype == theirs.dtype
        torch.testing.assert_close(out, theirs, rtol=0.05, atol=0.02)
        if gradients_too:
            gradients = torch.autograd.grad(out.float().square().sum(), inputs)
            assert [x.dtype for x in gradients] == list(dtypes)
    with pytest.raises(ValueError, match="must have one dtype"):  # as in torch's own attention
        nip.attend(q, k, v.bfloat16(), nip.pattern("softmax", 4), backend=backend)


def test_explain_chooses_for_the_dtype_of_autocast():
    q, k, v = (x.detach() for x in cases.simple(64).inputs)
    with torch.autocast("cpu", torch.bfloat16):
        half = nip.explain(q.double(), k.double(), v.double(), nip.pattern("hypercube", 4))  # float64 is kept
        chosen = nip.explain(q, k.bfloat16(), v, nip.pattern("hypercube", 4))
    assert half == nip.explain(q.double(), k.double(), v.double(), nip.pattern("hypercube", 4))
    assert chosen == nip.explain(*(x.bfloat16() for x in (q, k, v)), nip.pattern("hypercube", 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_under_autocast_computes_attention_in_its_dtype(dtype):
    torch.manual_seed(0)
    layer = Layer(nip.pattern("hypercube", 4), "auto")
    x, real = torch.randn(2, 64, 32), torch.ones(2, 64, dtype=torch.bool)
    with torch.autocast("cpu", dtype, enabled=dtype == torch.bfloat16):
        out = layer(x, real)
    assert out.dtype == dtype
    out.float().square().sum().backward()
    torch.testing.assert_close(out.float(), layer(x, real), rtol=0.1, atol=0.05)
    assert layer.qkv.weight.grad.dtype == torch.float32


@compiled
@pytest.mark.parametrize("dtype", [x for x in cases.DTYPES if native.missing() or cases.takes("native", x)], ids=str)
def test_the_operator_keeps_the_rules_of_torch(dtype):
    q, k, v = cases.simple(40, batch=1, kv_heads=1, head_dim=8, dtype=dtype).inputs
    tables = native._tables(block_layout(nip.pattern("hypercube", 3), 16, 40))
    real = torch.arange(40)[None] < 30
    ids = torch.arange(40)[None] // 13
    for masks, seed, dropout_p in (((None, None), None, 0.0), ((real, ids), torch.tensor(5), 0.4)):
        torch.library.opcheck(native.attend_blocks, (q, k, v, *tables, *masks, seed, 16, False, 0.3, dropout_p))


@compiled
def test_compiles_into_one_graph():
    call = cases.simple(512, heads=4, kv_heads=4)

    def loss(q, k, v):
        return (nip.attend(q * 1.0, k, v, call.pattern, backend="native") ** 2).sum()

    whole = torch.compile(loss, fullgraph=True, backend="aot_eager")
    plain = torch.autograd.grad(loss(*call.inputs), call.inputs)
    found = torch.autograd.grad(whole(*call.inputs), call.inputs)
    assert all(torch.equal(x, y) for x, y in zip(found, plain, strict=True))


@pytest.mark.parametrize("mode", ["train", "frozen", "no_grad", "inference_mode"])
@pytest.mark.parametrize("name", ["auto", "native", "gather", "dense", "reference"])
@pytest.mark.filterwarnings("error:To copy construct from a tensor")
def test_compiled_in_every_grad_mode(name, mode):
    if name == "native" and native.missing():
        pytest.skip(native.missing())
    q, k, v = torch.randn(3, 2, 2, 200, 16, generator=torch.Generator().manual_seed(0)).unbind()
    pattern = nip.pattern("hypercube", 13)
    leaves = [x.clone().requires_grad_(mode != "frozen") for x in (q, k, v)]
    torch._dynamo.reset()
    compiled = torch.compile(lambda q, k, v: nip.attend(q * 1, k, v, pattern, backend=name), backend="eager")
    grad_mode = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}.get(mode, torch.enable_grad)
    with grad_mode():
        out = compiled(*leaves)
        expected = nip.attend(*leaves, pattern, backend=name)
    assert torch.equal(out, expected)
    if mode == "train":
        for x, y in zip(
            torch.autograd.grad(out.sum(), leaves), torch.autograd.grad(expected.sum(), leaves), strict=True
        ):
            assert torch.equal(x, y)


def test_another_default_device_changes_nothing(backend, call):
    def run():
        torch.manual_seed(0)
        leaves = [x.detach().clone().requires_grad_() for x in call.inputs]
        masks = {"key_padding_mask": real} if backend != "flex" else {}
        dropout = {"dropout_p": 0.5} if call.refusal(backend, dropout_p=0.5) is None else {}
        with torch.device("meta") if elsewhere else torch.device("cpu"):
            out = nip.attend(*leaves, call.pattern, 16, backend=backend, **masks, **dropout)
            return out, *torch.autograd.grad(out.square().sum(), leaves)

    real = torch.arange(60) < torch.tensor([[60], [33]])
    elsewhere = False
    expected = run()
    elsewhere = True
    for x, y in zip(run(), expected, strict=True):
        assert x.device.type == "cpu" and torch.equal(x, y)


def test_what_is_cached_in_inference_mode_serves_training(backend, call):
    pattern = nip.pattern("random", 4, seed=hash(backend) % 1000)  # in no cache yet
    with torch.inference_mode():
        nip.attend(*(x.detach() for x in call.inputs), pattern, 16, backend=backend)
    out = nip.attend(*call.inputs, pattern, 16, backend=backend)
    gradients = torch.autograd.grad(out.square().sum(), call.inputs)
    expected = nip.attend(*call.inputs, pattern, 16, backend="reference")
    for x, y in zip(gradients, torch.autograd.grad(expected.square().sum(), call.inputs), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_flex_tables_made_in_inference_mode_serve_training():
    layout = block_layout(nip.pattern("random", 9, seed=77), 16, 140)
    with torch.inference_mode():
        tables = flex._cached_tables(layout, torch.device("cpu"), True)
    assert not any(x.is_inference() for x in tables if x is not None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vectorized_jacobians_are_the_jacobian(backend, dtype):
    call = cases.simple(20, kv_heads=1)
    q, k, v = (x.detach().to(dtype) for x in call.inputs)
    pattern = nip.pattern("hypercube", 2)
    try:
        nip.explain(q.requires_grad_(), k, v, pattern, backend=backend)
    except ValueError:
        pytest.skip("another backend's")
    q = q.detach()

    def some(x):
        return nip.attend(x, k, v, pattern, backend=backend).sum((0, 1))[:, :2].flatten()

    rows = torch.autograd.functional.jacobian(some, q)
    limit = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(torch.func.jacrev(some)(q), rows, **limit)
    torch.testing.assert_close(torch.autograd.functional.jacobian(some, q, vectorize=True), rows, **limit)


@pytest.mark.parametrize("parameter", ["scale", "dropout_p"])
def test_numbers_that_are_tensors_are_refused_as_by_torch(parameter, call):
    for number in (torch.tensor(0.3), torch.nn.Parameter(torch.tensor(0.3))):
        with pytest.raises(TypeError, match=f"'{parameter}' parameter of attend must be a number, not a Tensor"):
            nip.attend(*call.inputs, call.pattern, 16, **{parameter: number})
    scale = torch.nn.Parameter(torch.tensor(0.3))  # as the message says
    q, k, v = call.inputs
    nip.attend(q * scale, k, v, call.pattern, 16, scale=1.0).square().sum().backward()
    by_hand = torch.tensor(0.3, requires_grad=True)
    nip.attend(q * by_hand, k, v, call.pattern, 16, scale=1.0, backend="reference").square().sum().backward()
    torch.testing.assert_close(scale.grad, by_hand.grad)


def test_an_empty_batch_gives_an_empty_result(backend, call):
    inputs = [x.detach()[:0].requires_grad_() for x in call.inputs]
    out = nip.attend(*inputs, call.pattern, 16, backend=backend)
    assert out.shape == (0, *call.q.shape[1:]) and out.dtype == call.q.dtype
    assert [x.shape for x in torch.autograd.grad(out.sum(), inputs)] == [x.shape for x in inputs]
    bias = torch.zeros(1, 2, 60, 60, requires_grad=True)
    if cases.takes(backend, bias=torch.zeros(1, 2, 8, 8)):
        out = nip.attend(*inputs, call.pattern, 16, bias=bias, backend=backend)
        assert not torch.autograd.grad(out.sum(), bias)[0].any()
    if call.refusal(backend, return_lse=True) is None:
        assert nip.attend(*inputs, call.pattern, 16, backend=backend, return_lse=True)[1].shape == out.shape[:-1]


def test_tensors_without_values_have_a_result_without_values():
    call = cases.simple(60, kv_heads=1)
    out, lse = nip.attend(*(x.to("meta") for x in call.inputs), call.pattern, 16, return_lse=True)
    assert out.is_meta and out.shape == call.q.shape and lse.shape == call.q.shape[:-1]


def test_other_tensors_and_patterns_are_refused_in_a_sentence():
    call = cases.simple(60)
    nested = torch.nested.nested_tensor([torch.randn(2, 60, 16), torch.randn(2, 30, 16)], layout=torch.jagged)
    for wrong in (nested, call.q.detach().to_sparse(), call.q.detach().numpy()):
        with pytest.raises(TypeError, match=r"'q' parameter of attend must be a dense torch\.Tensor"):
            nip.attend(wrong, call.k, call.v, call.pattern, 16)
    for pattern in (torch.ones(4, 4), [call.pattern, call.pattern]):
        for function in (nip.attend, nip.explain):
            with pytest.raises(ValueError, match=r"must be a nip\.Pattern; nip\.graphs\.from_mask makes one"):
                function(*call.inputs, pattern, 16)


def test_traced_by_torch_jit():
    q, k, v = torch.randn(3, 1, 2, 60, 16).unbind()
    pattern = nip.pattern("hypercube", 4)
    traced = torch.jit.trace(lambda a, b, c: nip.attend(a, b, c, pattern, backend="dense"), (q, k, v))
    torch.testing.assert_close(traced(k, v, q), nip.attend(k, v, q, pattern, backend="dense"))


def one_family(q, k, v):
    return nip.attend(q * 1, k, v, nip.pattern("hypercube", -(-q.shape[2] // 16)))


def a_combination(q, k, v):
    n = -(-q.shape[2] // 16)
    both = graphs.union(graphs.random_rows(n, seed=n), graphs.corner(graphs.hypercube(64), n))
    return nip.attend(q * 1, k, v, graphs.causal(both))


@pytest.mark.parametrize("function", [one_family, a_combination], ids=lambda f: f.__name__)
@pytest.mark.parametrize("dynamic", [None, True, False])
@pytest.mark.filterwarnings("error:To copy construct from a tensor")
def test_patterns_made_inside_a_compiled_function(function, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(function, backend="eager", fullgraph=True, dynamic=dynamic)
    for tokens in (200, 100, 333):
        q, k, v = torch.randn(3, 1, 2, tokens, 16, generator=torch.Generator().manual_seed(tokens)).unbind()
        torch.testing.assert_close(compiled(q, k, v), function(q, k, v))


@pytest.mark.filterwarnings("error:To copy construct from a tensor")
def test_a_compiled_function_notices_another_pattern(backend):
    q, k, v = torch.randn(3, 1, 2, 100, 16, generator=torch.Generator().manual_seed(0)).unbind()
    model = torch.nn.Module()

    def function(q, k, v, given):
        first, second = (nip.attend(q * 1, k, v, p, backend=backend) for p in (given, model.pattern))
        return first, second

    torch._dynamo.reset()
    compiled = torch.compile(function, backend="eager")
    for name in ("hypercube", "local", "softmax"):
        model.pattern = nip.pattern(name, 7)
        given = nip.pattern("random", 7, seed=len(name))
        torch.testing.assert_close(compiled(q, k, v, given), function(q, k, v, given))
