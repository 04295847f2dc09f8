"""The measurement on a GPU, run here on CPU tensors; tests/attention/test_flex_cuda.py runs on a GPU."""

import dataclasses
import json

import pytest
import torch
from torch.nn.attention import flex_attention as torch_flex

from nip.attention import BACKENDS, flex
from nip.bench import Case, gpu
from nip.bench.gpu import DENSE, WINDOW, bench_gpu, caption, cells
from nip.bench.peers import window


@pytest.fixture
def on_a_cpu(monkeypatch):
    """FlexAttention in torch's eager mode, including gradients."""
    monkeypatch.setattr(torch_flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *_: None)
    monkeypatch.setattr(flex, "_compiled", lambda: torch_flex.flex_attention)
    able = dataclasses.replace(BACKENDS["flex"], missing=lambda: None, refuses=lambda *_: None)
    monkeypatch.setitem(BACKENDS, "flex", able)


class Script:
    """A clock that returns given times, and records the calls and their number."""

    def __init__(self, ms):
        self.given, self.times = {name: iter(values) for name, values in ms.items()}, []
        self.names = {}

    def ms(self, call, times):
        name = self.names.setdefault(id(call), list(self.given)[len(self.names) % len(self.given)])
        self.times.append((name, times))
        return next(self.given[name])

    def peak_mib(self, call):
        return 3.0


CASE = Case("hypercube", 300, 16, 1, 2, 8)


def test_rows_are_medians_of_samples_taken_in_turns_with_ratios():
    warm = [50.0, 9.0, 1.0]  # the first call compiles; the last determines the number of calls per sample
    clock = Script({DENSE: [*warm, 4.0, 8.0, 6.0], WINDOW: [*warm, 3.0, 2.0, 9.0], "flex": [*warm, 1.0, 1.5, 7.0]})
    rows = list(bench_gpu([CASE], ["forward"], repeats=3, device="cpu", clock=clock))
    assert [(row.backend, row.ms) for row in rows] == [(DENSE, 6.0), (WINDOW, 3.0), ("flex", 1.5)]
    assert [row.ratio_to_dense for row in rows] == [1.0, 0.5, 0.25]
    assert [row.ratio_to_window for row in rows] == [2.0, 1.0, 0.5]
    assert [name for name, _ in clock.times[9:]] == [DENSE, WINDOW, "flex"] * 3
    assert {times for _, times in clock.times[9:]} == {5}  # five calls of a millisecond


@pytest.mark.parametrize("direction", gpu.DIRECTIONS)
def test_the_full_measurement_runs(direction, on_a_cpu):
    rows = list(bench_gpu([CASE], [direction], repeats=2, device="cpu", clock=gpu.WallClock()))
    assert [row.backend for row in rows] == [DENSE, WINDOW, "flex"]
    for row in rows:
        record = json.loads(json.dumps(row.to_dict()))
        assert record["ms"] > 0
        assert record["peak_mib"] is None
        assert (record["pass"], record["n_tokens"], record["repeats"]) == (direction, 300, 2)
        assert record["tile_density"] == 7 / 9  # the first and the last of three tiles have no attended pair
        assert record["density"] < 0.4
        fields = (
            "backend pattern n_tokens block_size batch heads head_dim dtype pass ms ratio_to_dense device torch cuda"
        )
        assert set(fields.split()) <= record.keys()


@pytest.mark.parametrize("direction", gpu.DIRECTIONS)
def test_each_call_computes_the_pass_of_its_row(direction, on_a_cpu):
    cpu, whole = torch.device("cpu"), Case("softmax", 200, 16, 1, 2, 8)
    results = [gpu.prepare(whole, backend, direction, cpu)() for backend in gpu.BACKENDS]
    assert window(whole) < 200  # so the window is narrower than the sequence
    torch.testing.assert_close(results[2], results[0], rtol=1e-4, atol=1e-5)
    positions = torch.arange(200)
    mask = (positions[:, None] - positions).abs() <= window(whole)
    generator = torch.Generator().manual_seed(0)
    q, k, v, gradient = (torch.randn(1, 2, 200, 8, generator=generator) for _ in range(4))
    for x in (q, k, v):
        x.requires_grad_()
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask)
    right = out if direction == "forward" else torch.autograd.grad(out, (q, k, v), gradient)
    torch.testing.assert_close(results[1], right, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_into_memory_is_skipped_with_a_reason(on_a_cpu, monkeypatch):
    prepare = gpu.prepare

    def full(case, backend, direction, device):
        if backend == DENSE:
            raise torch.OutOfMemoryError
        return prepare(case, backend, direction, device)

    monkeypatch.setattr(gpu, "prepare", full)
    said = []
    rows = list(bench_gpu([CASE], ["forward"], repeats=1, skipped=said.append, device="cpu", clock=gpu.WallClock()))
    assert said == ["torch-sdpa forward of 300 tokens in float32 does not fit into memory."]
    assert [(row.backend, row.ratio_to_dense) for row in rows] == [(WINDOW, None), ("flex", None)]
    assert cells(rows[1])[6] == "–"
    assert "batch 1, 2 heads of 8, block 16" in caption(rows)
    assert len(cells(rows[0])) == len(gpu.HEADER)


BAD = [
    (["--pass", "backward"], "There is no pass 'backward'. The passes are forward, forward+backward."),
    (["--patterns", "hyper"], "There is no pattern 'hyper'"),
    (["--dtype", "float64"], "--dtype must be among float32, float16, bfloat16. Got 'float64' instead."),
    (["--seq-len", "many"], "A sequence length must be an integer. Got 'many' instead."),
    (["--repeats", "0"], "'repeats' parameter of bench gpu must be an integer of at least 1. Got 0"),
    (["--patterns", ","], "There is nothing to measure."),
    ([], "nip bench gpu needs a CUDA device and a torch that uses it"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_the_command_refuses_in_one_sentence(arguments, message, capsys, monkeypatch):
    from nip.cli import main

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "gpu", *arguments])
    captured = capsys.readouterr()
    assert ended.value.code == 2
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.count("\n") == 1


@pytest.mark.parametrize("right", [True, False])
def test_the_command_measures_only_what_is_right(right, on_a_cpu, monkeypatch, capsys, tmp_path):
    """The full command with CPU tensors in place of the GPU."""
    from nip.bench import agreement
    from nip.cli import main

    check, measure = agreement.agreements, gpu.bench_gpu
    monkeypatch.setattr(agreement, "PROBLEMS", agreement.PROBLEMS[4:])
    monkeypatch.setattr(gpu, "missing", lambda: None)
    monkeypatch.setattr(agreement, "agreements", lambda backend, device, dtypes: check(backend, "cpu", dtypes))
    monkeypatch.setattr(gpu, "bench_gpu", lambda *a, **k: measure(*a, **k, device="cpu", clock=gpu.WallClock()))
    if not right:
        monkeypatch.setitem(agreement.TOLERANCE, "float32", 1e-12)
    table = tmp_path / "gpu.md"
    arguments = "bench gpu --patterns hypercube --seq-len 300 --dtype float32 --heads 2 --head-dim 8 --batch 1 --json"
    with pytest.raises(SystemExit) as ended:
        main([*arguments.split(), "--repeats", "1", "--out", str(table)])
    captured = capsys.readouterr()
    if right:
        assert ended.value.code == 0
        assert [row["backend"] for row in json.loads(captured.out)] == [DENSE, WINDOW, "flex"] * 2
        assert "problems agree with the reference in float64" in table.read_text()
        assert table.read_text().count("\n|") == 2 + 6
    else:
        assert ended.value.code == 1
        assert captured.out == ""
        assert not table.exists()
        assert captured.err.count("nip: wrong on this GPU: ") == len(agreement.PROBLEMS) == 3
