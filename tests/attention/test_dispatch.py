import dataclasses
from types import SimpleNamespace

import pytest
import torch

import nip
from nip.attention import BACKENDS, Choice, block_layout, dispatch, flex, native
from nip.attention.arguments import Options


def tensors(batch=2, heads=4, kv_heads=4, tokens=40, head_dim=8, dtype=torch.float32):
    q = torch.randn(batch, heads, tokens, head_dim, dtype=dtype)
    k, v = torch.randn(2, batch, kv_heads, tokens, head_dim, dtype=dtype).unbind()
    return {"q": q, "k": k, "v": v, "pattern": nip.pattern("hypercube", 3)}


def test_backends_are_listed_with_availability_and_reason():
    listed = nip.backends()
    assert [backend.name for backend in listed] == list(BACKENDS)
    assert {"reference", "gather"} <= {backend.name for backend in listed if backend.available}
    assert all(backend.reason for backend in listed)
    with pytest.raises(dataclasses.FrozenInstanceError):
        listed[0].name = "other"


def test_a_missing_backend_is_listed_and_refused_with_the_reason(monkeypatch):
    absent = dataclasses.replace(BACKENDS["gather"], missing=lambda: "it is not built; run this to build it")
    monkeypatch.setitem(BACKENDS, "absent", absent)
    assert nip.backends()[-1] == nip.Backend("absent", False, "it is not built; run this to build it")
    with pytest.raises(ValueError, match="'absent' is not available: it is not built; run this to build it"):
        nip.attend(**tensors(), backend="absent")


CHOICES = [
    # pattern, blocks, options, choice of auto without and with the compiled kernel
    ("hypercube", 128, {}, "gather", "native"),
    ("bigbird", 128, {}, "gather", "native"),
    ("softmax", 128, {}, "dense", "native"),
    ("softmax", 128, {"causal": True}, "dense", "native"),
    ("softmax", 128, {"return_lse": True}, "gather", "native"),
    ("softmax", 128, {"bias": torch.zeros(1, 1, 2048, 2048)}, "gather", "gather"),
    ("softmax", 128, {"dropout_p": 0.1}, "gather", "native"),
    ("hypercube", 2, {}, "dense", "dense"),
    ("hypercube", 2, {"return_lse": True}, "gather", "native"),
    ("hypercube", 2, {"dropout_p": 0.1}, "dense", "dense"),
]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("name", "n", "options", "without", "with_kernel"), CHOICES)
def test_auto_leaves_out_blocks_where_that_pays(name, n, options, without, with_kernel, compiled, monkeypatch):
    monkeypatch.setattr(native, "missing", lambda: None if compiled else "it was not compiled")
    monkeypatch.setattr(native, "instruction_set", lambda: "avx512")
    choice = with_kernel if compiled else without
    q = torch.empty(1, 1, 16 * n, 4)
    explained = nip.explain(q, q, q, nip.pattern(name, n), **options)
    assert explained.backend == choice
    assert str(explained) == f"{choice}: {explained.reason}"
    ran = []
    for other in BACKENDS:
        spy = dataclasses.replace(BACKENDS[other], run=lambda *a, name=other: (ran.append(name) or a[0], None))
        monkeypatch.setitem(BACKENDS, other, spy)
    nip.attend(q, q, q, nip.pattern(name, n), **options)
    assert ran == [choice]  # what explain says is what attend does


GPU_CHOICES = [
    # pattern, tokens, options, choice on a GPU
    ("hypercube", 2048, {}, "flex"),
    ("hypercube", 1024, {}, "dense"),  # half of the tiles
    ("hypercube", 1000, {"return_lse": True}, "flex"),  # dense attention returns none
    ("hypercube", 512, {}, "dense"),
    ("random", 4096, {}, "dense"),  # few blocks, but many tiles
    ("random", 16384, {}, "flex"),  # a dense mask would take tokens² bytes
    ("softmax", 16384, {}, "dense"),  # and needs no mask
    ("softmax", 16384, {"segment_ids": torch.zeros(1, 16384, dtype=torch.int32)}, "flex"),
    ("hypercube", 2048, {"bias": torch.zeros(1)}, "flex"),
    ("hypercube", 2048, {"dropout_p": 0.1}, "gather"),
    ("hypercube", 2048, {"dtype": torch.float64}, "gather"),
]


@pytest.mark.parametrize(("name", "tokens", "options", "choice"), GPU_CHOICES)
def test_auto_weighs_tiles_on_a_gpu(name, tokens, options, choice, monkeypatch):
    """A stand-in with the tensor attributes that the choice reads, so that no GPU is needed."""
    monkeypatch.setattr(flex, "missing", lambda device=None: None)
    given = dict(options)
    q = SimpleNamespace(
        device=torch.device("cuda"), dtype=given.pop("dtype", torch.bfloat16), shape=torch.Size((1, 4, tokens, 64))
    )
    layout = block_layout(nip.pattern(name, -(-tokens // 16)), 16, tokens)
    asked = Options(0.125, needs_grad=True, **given)
    found, why = dispatch._choose(q, layout, asked, "auto")
    assert found == choice
    assert ("not measured" in why(q, layout, asked)) == (choice != "gather")
    if name == "hypercube" and tokens == 2048 and choice == "flex":
        assert "6% of 128 × 128 blocks are attended to, 31% of 16 × 16 tiles" in why(q, layout, asked)


def test_auto_does_not_take_flex_on_a_cpu():
    for dtype in (torch.float32, torch.bfloat16):
        with torch.no_grad():
            q = torch.empty(1, 4, 2048, 32, dtype=dtype)
            assert nip.explain(q, q, q, nip.pattern("hypercube", 128)).backend in {"native", "gather"}


@pytest.mark.parametrize(("name", "masked"), [("auto", False), ("auto", True), ("native", True), ("dense", True)])
def test_attention_is_one_graph_of_a_compiled_model(name, masked):
    if name == "native" and native.missing():
        pytest.skip(native.missing())

    def loss(q, k, v, pattern, real):
        return (nip.attend(q * 1, k, v, pattern, key_padding_mask=real, backend=name) ** 2).sum()

    torch._dynamo.reset()
    compiled, taken = torch.compile(loss, fullgraph=True, backend="aot_eager"), set()
    for batch, tokens in ((2, 512), (3, 500), (2, 32)):  # changing sizes, and with them the backend that auto selects
        pattern = nip.pattern("hypercube", -(-tokens // 16))
        q, k, v = (torch.randn(batch, 2, tokens, 16, requires_grad=True) for _ in range(3))
        real = torch.arange(tokens).expand(batch, -1) < tokens // 2 if masked else None
        arguments = (q, k, v, pattern, real)
        taken.add(nip.explain(q, k, v, pattern, backend=name).backend)
        if taken & {"gather"}:
            pytest.skip("without the kernel auto selects gather, which torch.compile excludes from its graph")
        gradients = torch.autograd.grad(compiled(*arguments), (q, k, v))
        for found, right in zip(gradients, torch.autograd.grad(loss(*arguments), (q, k, v)), strict=True):
            torch.testing.assert_close(found, right)
    assert len(taken) == (2 if name == "auto" else 1)


def test_gather_breaks_the_graph_but_not_the_result():
    pattern = nip.pattern("hypercube", 3)
    q, k, v = (torch.randn(2, 2, 40, 16, requires_grad=True) for _ in range(3))
    real = torch.arange(40).expand(2, -1) < 30

    def loss(q, k, v):
        return (nip.attend(q * 1, k, v, pattern, key_padding_mask=real, backend="gather") ** 2).sum()

    found = torch.autograd.grad(torch.compile(loss, backend="aot_eager")(q, k, v), (q, k, v))
    for gradient, right in zip(found, torch.autograd.grad(loss(q, k, v), (q, k, v)), strict=True):
        torch.testing.assert_close(gradient, right)


def test_a_backend_requested_by_name_is_used():
    assert nip.explain(**tensors(), backend="reference") == Choice("reference", "requested by name")


def test_default_scale_is_that_of_the_head_dimension():
    arguments = tensors()
    assert torch.equal(nip.attend(**arguments), nip.attend(**arguments, scale=8**-0.5))
    assert not torch.equal(nip.attend(**arguments), nip.attend(**arguments, scale=1.0))


MASK = torch.ones(2, 40, dtype=torch.bool)
BAD = [
    (
        {"q": torch.zeros(4, 40, 8)},
        r"'q' parameter of attend must have shape \(batch, heads, tokens, head_dim\).*Got \(4, 40, 8\)",
    ),
    ({"q": torch.zeros(2, 4, 0, 8)}, r"none of them 0 but the batch\. Got \(2, 4, 0, 8\)"),
    (
        {"q": torch.zeros(2, 4, 40, 8, dtype=torch.int64)},
        "'q' parameter of attend must be one of float16, .*Got torch.int64",
    ),
    ({"v": torch.zeros(2, 4, 40, 8, dtype=torch.float64)}, "one dtype. Got torch.float32 and, for v, torch.float64"),
    (
        {"k": torch.zeros(2, 4, 41, 8)},
        r"'k' parameter of attend must have q's batch, tokens and head_dim.*Got \(2, 4, 41, 8\)",
    ),
    ({"v": torch.zeros(2, 4, 40, 9)}, "'v' parameter of attend must have q's"),
    ({"k": torch.zeros(1, 4, 40, 8)}, "'k' parameter of attend must have q's"),
    (
        {"k": torch.zeros(2, 3, 40, 8), "v": torch.zeros(2, 3, 40, 8)},
        "number of heads, which divides q's 4. Got 3 and 3",
    ),
    ({"v": torch.zeros(2, 2, 40, 8)}, "number of heads, which divides q's 4. Got 4 and 2"),
    (
        {"key_padding_mask": MASK.float()},
        "'key_padding_mask' parameter of attend must be bool of shape .*Got torch.float32",
    ),
    (
        {"key_padding_mask": MASK[:, :39]},
        r"of shape \(batch, tokens\) = \(2, 40\)\. .*Got torch.bool of shape \(2, 39\)",
    ),
    ({"segment_ids": MASK}, "'segment_ids' parameter of attend must be integer of shape .*Got torch.bool"),
    ({"segment_ids": MASK.float()}, "'segment_ids' parameter of attend must be integer"),
    (
        {"bias": torch.zeros(40, 40)},
        r"'bias' parameter of attend must be floating point of shape \(1 or 2, 4, 40, 40\)",
    ),
    ({"bias": torch.zeros(2, 4, 40, 40, dtype=torch.int32)}, "Got torch.int32 of shape"),
    (
        {"key_padding_mask": MASK.to("meta")},
        "'key_padding_mask' parameter of attend must be on q's device cpu. Got meta",
    ),
    ({"scale": float("nan")}, "'scale' parameter of attend must be finite. Got nan"),
    ({"dropout_p": 1.0}, r"'dropout_p' parameter of attend must be in \[0, 1\)\. Got 1.0"),
    ({"dropout_p": -0.1}, "'dropout_p' parameter"),
    ({"block_size": 0}, "'block_size' parameter of attend must be an integer of at least 1. Got 0 instead."),
    ({"block_size": 16.0}, "'block_size' parameter of attend must be an integer"),
    (
        {"pattern": nip.pattern("hypercube", 4)},
        "40 tokens in blocks of 16 need a pattern of n = 3. Got 'hypercube' with n = 4",
    ),
    ({"pattern": "hypercube"}, "'pattern' parameter of attend must be a nip.Pattern.*Got 'hypercube'"),
    (
        {"backend": "fast"},
        "There is no attention backend 'fast'. The backends are auto, native, flex, gather, dense, reference",
    ),
    ({"backend": "dense", "return_lse": True}, "'dense' cannot compute this: .*log-sum-exp.*Use backend='auto'"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
@pytest.mark.parametrize("function", [nip.attend, nip.explain])
def test_bad_input_is_refused_in_one_sentence(function, change, message):
    with pytest.raises(ValueError, match=message):
        function(**{**tensors(), **change})


def test_explain_takes_what_attend_takes():
    import inspect

    assert inspect.signature(nip.explain).parameters.keys() == inspect.signature(nip.attend).parameters.keys()
    assert [p.default for p in inspect.signature(nip.explain).parameters.values()] == [
        p.default for p in inspect.signature(nip.attend).parameters.values()
    ]
    assert dispatch.attend is nip.attend
